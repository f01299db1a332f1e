//! The operator's requests for each server, from its create until all is settled.

use std::collections::BTreeMap;

use anyhow::Result;
use cluster::AuditEntry;

use super::converge::converge;
use super::{Report, figure, operators};
use crate::args::Args;
use crate::program::Program;
use crate::requests::kind;
use crate::servers::NAMESPACE;
use crate::sitting::{Subject, sit};
use crate::table::Sample;

pub(super) async fn run(args: &Args, programs: &[Program]) -> Result<Report> {
    let number = args.servers();
    let measure = async |subject: &Subject| {
        let converged = converge(subject, number).await?;
        Ok(rows(&converged.requests, number))
    };
    let columns = sit("requests", 1, &operators(programs), measure).await?;
    let about = format!(
        "The operator's requests by the audit log, a server, from the first create of {number} until all are Ready \
         and it is quiet. Not counted: watches, its Lease and webhook configurations, reviews of its own \
         access. One run."
    );
    Ok(Report { about, columns })
}

/// Each kind of request, reads and writes apart, and how many of it a server takes.
fn rows(requests: &[AuditEntry], servers: usize) -> Sample {
    let (writes, reads): (Vec<&AuditEntry>, Vec<_>) = requests
        .iter()
        .filter(|request| request.namespace == NAMESPACE || request.namespace.is_empty())
        .partition(|request| request.is_write());
    let mut rows = Sample::new();
    for (what, requests) in [("writes", writes), ("reads", reads)] {
        rows.push((
            format!("{what} a server"),
            figure(requests.len()) / figure(servers),
        ));
        let mut kinds = BTreeMap::<_, usize>::new();
        for request in requests {
            *kinds.entry(kind(request)).or_default() += 1;
        }
        let of_kind = |(kind, number)| (format!("– {kind}"), figure(number) / figure(servers));
        rows.extend(kinds.into_iter().map(of_kind));
    }
    rows
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    #[test]
    fn reads_and_writes_are_counted_apart() {
        let entry = |verb: &str, resource: &str, code| AuditEntry {
            verb: verb.to_owned(),
            group: String::new(),
            resource: resource.to_owned(),
            namespace: NAMESPACE.to_owned(),
            name: String::new(),
            code,
            time: Timestamp::UNIX_EPOCH,
        };
        let requests = [
            entry("patch", "services", 201),
            entry("patch", "services", 409),
            entry("patch", "services", 201),
            entry("get", "services", 404),
        ];
        let row = |name: &str, figure: f64| (name.to_owned(), figure);
        assert_eq!(
            rows(&requests, 2),
            [
                row("writes a server", 1.5),
                row("– patch services", 1.0),
                row("– patch services (409)", 0.5),
                row("reads a server", 0.5),
                row("– get services (404)", 0.5),
            ]
        );
    }
}
