//! The serving certificate of the webhooks: signed by the operator or read from files, as the arguments say.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use certs::{Files, Keeper, Serving, files};
use futures::FutureExt;
use futures::future::BoxFuture;
use kube::Client;

use crate::admission::{MUTATE_NAME, VALIDATE_NAME};
use crate::api::labels;
use crate::cli::RunArgs;

/// Times in a certificate are whole seconds, so a shorter life makes no sense.
const SHORTEST: Duration = Duration::from_secs(3);
/// Ten years. Over a longer life neither clocks nor the dates of X.509 can be relied on.
const LONGEST: Duration = Duration::from_hours(10 * 365 * 24);

/// Returns the task that maintains the certificate until it is dropped, and the certificate that is served.
pub fn start(
    client: Client,
    args: &RunArgs,
    namespace: &str,
) -> anyhow::Result<(BoxFuture<'static, ()>, Arc<Serving>)> {
    let clock = Arc::new(SystemTime::now);
    if let Some(folder) = &args.certificate_folder {
        let settings = files::Settings {
            folder: folder.clone(),
            configuration: args.webhook_configuration.clone(),
            webhooks: webhooks(),
        };
        let (files, serving) = Files::new(client, settings, clock);
        return Ok((files.run().boxed(), serving));
    }
    check_lives(args)?;
    let (keeper, serving) = Keeper::new(client, settings(args, namespace), clock);
    Ok((keeper.run().boxed(), serving))
}

fn webhooks() -> Vec<String> {
    vec![MUTATE_NAME.to_owned(), VALIDATE_NAME.to_owned()]
}

fn settings(args: &RunArgs, namespace: &str) -> certs::Settings {
    let default_hosts = || {
        [
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
            format!("mcp-operator-webhook.{namespace}.svc"),
        ]
        .into()
    };
    let hosts = if args.webhook_host.is_empty() {
        default_hosts()
    } else {
        args.webhook_host.clone()
    };
    certs::Settings {
        namespace: namespace.to_owned(),
        secret: args.ca_secret.clone(),
        configuration: args.webhook_configuration.clone(),
        webhooks: webhooks(),
        hosts,
        manager: labels::MANAGER.to_owned(),
        ca_life: args.ca_life,
        leaf_life: args.certificate_life,
        settle: args.ca_settle,
    }
}

/// A replaced CA stays trusted for the last third of its life; its certificates must be out of use by its end.
fn check_lives(args: &RunArgs) -> anyhow::Result<()> {
    let RunArgs {
        ca_life,
        certificate_life,
        ca_settle,
        ..
    } = args;
    ensure!(
        *certificate_life >= SHORTEST,
        "--certificate-life {certificate_life:?} is too short; {SHORTEST:?} is the least"
    );
    ensure!(
        *ca_life <= LONGEST,
        "--ca-life {ca_life:?} is too long; {LONGEST:?} (10 years) is the most"
    );
    let triple = certificate_life
        .checked_mul(3)
        .context("--certificate-life is too long")?;
    ensure!(
        triple <= *ca_life,
        "--certificate-life {certificate_life:?} is longer than a third of --ca-life {ca_life:?}: \
         a replaced CA would end before its certificates are out of use; make the one shorter or the other longer"
    );
    ensure!(
        *ca_settle * 2 <= *certificate_life,
        "--ca-settle {ca_settle:?} is longer than half of --certificate-life {certificate_life:?}: \
         a certificate could end before the next one may be served; make the one shorter or the other longer"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    use crate::cli::{Cli, Command};

    #[test]
    fn lives_must_fit_into_each_other() {
        let table: &[(&[&str], Option<&str>)] = &[
            (&[], None),
            (
                &[
                    "--ca-life=9s",
                    "--certificate-life=3s",
                    "--ca-settle=1500ms",
                ],
                None,
            ),
            (&["--ca-life=72h"], None),
            (&["--ca-life=71h"], Some("a third of --ca-life")),
            (
                &["--certificate-life=2s", "--ca-settle=0s"],
                Some("3s is the least"),
            ),
            (&["--certificate-life=0s"], Some("3s is the least")),
            (
                &["--certificate-life=100s"],
                Some("half of --certificate-life"),
            ),
            (&["--certificate-life=2m"], None),
            (&["--ca-life=87601h"], Some("10 years")),
            (
                &["--ca-settle=2562047h"],
                Some("half of --certificate-life"),
            ),
        ];
        for (arguments, expected) in table {
            let all = ["mcp-operator", "run"].iter().chain(*arguments);
            let Command::Run(args) = Cli::try_parse_from(all).unwrap().command else {
                panic!("not run");
            };
            match (check_lives(&args), expected) {
                (Ok(()), None) => {}
                (Err(error), Some(expected)) if error.to_string().contains(expected) => {}
                (other, _) => panic!("{arguments:?}: {other:?}"),
            }
        }
    }
}
