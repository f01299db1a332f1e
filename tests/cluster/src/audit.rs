//! The API server's audit log: who asked for what.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

/// A request that the API server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// What was done: create, patch, list, …
    pub verb: String,
    /// The API group; empty for the core group.
    pub group: String,
    /// The kind's plural name with the subresource, as in `deployments/scale`; the path of a
    /// request that is not about objects, as in `/readyz`.
    pub resource: String,
    /// Empty for what is in no namespace.
    pub namespace: String,
    /// Empty when a collection was asked for; a create with a generated name has none either.
    pub name: String,
    /// The HTTP status of the answer.
    pub code: u16,
    /// When the request came.
    pub time: Timestamp,
}

impl AuditEntry {
    /// Whether the request was to change something (a dry run counts, its answer's code too).
    pub fn is_write(&self) -> bool {
        !matches!(
            self.verb.as_str(),
            "get" | "list" | "watch" | "head" | "options"
        )
    }
}

/// What the API server is to log: every request, without bodies, when it is answered.
pub(crate) fn policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata"}],
    })
}

/// The requests by a user, in the order in which they came.
pub(crate) async fn requests_by(log: &Path, user: &str) -> Result<Vec<AuditEntry>> {
    let text = tokio::fs::read(log).await.with_context(|| {
        format!(
            "reading the audit log {} (is there one? it is an option of the cluster)",
            log.display()
        )
    })?;
    let text = String::from_utf8_lossy(&text);
    requests_in(&text, user).with_context(|| format!("reading the audit log {}", log.display()))
}

/// A user's requests, read as they come: a log of many requests is large, and is read once.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    user: String,
    file: File,
    unfinished: Vec<u8>,
}

impl Tail {
    pub(crate) fn open(path: &Path, user: &str) -> Result<Self> {
        let file = File::open(path)
            .with_context(|| format!("opening the audit log {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            user: user.to_owned(),
            file,
            unfinished: Vec::new(),
        })
    }

    /// The requests that came into the log since the last call, in the order of their answers. A watch comes
    /// twice: when it starts and when it ends.
    pub fn read(&mut self) -> Result<Vec<AuditEntry>> {
        let reading = || format!("reading the audit log {}", self.path.display());
        self.file
            .read_to_end(&mut self.unfinished)
            .with_context(reading)?;
        let Some(end) = self.unfinished.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(Vec::new());
        };
        let whole: Vec<u8> = self.unfinished.drain(..=end).collect();
        let text = String::from_utf8_lossy(&whole);
        let events = text
            .lines()
            .filter_map(|line| event_of(line, &self.user).transpose());
        events
            .map(|event| event.map(Event::into_entry))
            .collect::<Result<_>>()
            .with_context(reading)
    }
}

/// What a line tells, if it is about this user.
fn event_of(line: &str, user: &str) -> Result<Option<Event>> {
    // Parsing is slow beside searching, and most lines are by others.
    if !line.contains(user) {
        return Ok(None);
    }
    let event: Event = serde_json::from_str(line).with_context(|| format!("this line: {line}"))?;
    Ok((event.user.username == user).then_some(event))
}

fn requests_in(text: &str, user: &str) -> Result<Vec<AuditEntry>> {
    // A watch is logged when it starts and when it ends, so requests are told apart by id.
    let mut entries = BTreeMap::new();
    // The last line may be half written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    for line in whole.lines() {
        if let Some(event) = event_of(line, user)? {
            entries.insert(event.audit_id.clone(), event.into_entry());
        }
    }
    let mut entries: Vec<AuditEntry> = entries.into_values().collect();
    entries.sort_by_key(|entry| entry.time);
    Ok(entries)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    #[serde(rename = "auditID")]
    audit_id: String,
    verb: String,
    #[serde(rename = "requestURI")]
    request_uri: String,
    user: User,
    object_ref: Option<Object>,
    response_status: Option<Status>,
    request_received_timestamp: Timestamp,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Object {
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
    api_group: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    code: u16,
}

impl Event {
    fn into_entry(self) -> AuditEntry {
        let object = self.object_ref.unwrap_or_default();
        let resource = match (object.resource.as_str(), object.subresource.as_str()) {
            ("", _) => self.request_uri,
            (resource, "") => resource.to_owned(),
            (resource, subresource) => format!("{resource}/{subresource}"),
        };
        AuditEntry {
            verb: self.verb,
            group: object.api_group,
            resource,
            namespace: object.namespace,
            name: object.name,
            code: self.response_status.unwrap_or_default().code,
            time: self.request_received_timestamp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = concat!(
        r#"{"kind":"Event","stage":"ResponseStarted","auditID":"2","verb":"watch","requestURI":"/api/v1/pods?watch=1","user":{"username":"op"},"objectRef":{"resource":"pods","apiVersion":"v1"},"responseStatus":{"metadata":{},"code":200},"requestReceivedTimestamp":"2026-01-01T00:00:02.000000Z"}"#,
        "\n",
        r#"{"kind":"Event","stage":"ResponseComplete","auditID":"2","verb":"watch","requestURI":"/api/v1/pods?watch=1","user":{"username":"op"},"objectRef":{"resource":"pods","apiVersion":"v1"},"responseStatus":{"metadata":{},"code":200},"requestReceivedTimestamp":"2026-01-01T00:00:02.000000Z"}"#,
        "\n",
        r#"{"kind":"Event","stage":"ResponseComplete","auditID":"1","verb":"patch","requestURI":"/apis/apps/v1/x","user":{"username":"op"},"objectRef":{"resource":"deployments","namespace":"a","name":"b","apiGroup":"apps","subresource":"scale"},"responseStatus":{"metadata":{},"code":409},"requestReceivedTimestamp":"2026-01-01T00:00:01.500000Z"}"#,
        "\n",
        r#"{"kind":"Event","stage":"ResponseComplete","auditID":"3","verb":"get","requestURI":"/readyz","user":{"username":"operator"},"requestReceivedTimestamp":"2026-01-01T00:00:03.000000Z"}"#,
        "\n",
        r#"{"kind":"Event","stage":"Resp"#,
    );

    #[test]
    fn a_watch_is_one_request_and_others_do_not_count() {
        let entries = requests_in(LOG, "op").unwrap();
        let seen: Vec<_> = entries
            .iter()
            .map(|entry| (&*entry.verb, &*entry.resource, entry.code))
            .collect();
        assert_eq!(
            seen,
            [("patch", "deployments/scale", 409), ("watch", "pods", 200)]
        );
        assert_eq!(entries.iter().filter(|entry| entry.is_write()).count(), 1);
    }

    #[test]
    fn a_request_for_no_object_has_its_path() {
        let entries = requests_in(LOG, "operator").unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].resource, "/readyz");
    }

    #[test]
    fn a_tail_gives_what_has_come_since() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (first, second) = LOG.split_at(LOG.find(r#""verb":"patch""#).unwrap());
        std::fs::write(&path, first).unwrap();
        let mut tail = Tail::open(&path, "op").unwrap();
        let verbs = |entries: Vec<AuditEntry>| -> Vec<String> {
            entries.into_iter().map(|entry| entry.verb).collect()
        };
        assert_eq!(verbs(tail.read().unwrap()), ["watch", "watch"]);
        assert_eq!(tail.read().unwrap(), []);
        let mut log = File::options().append(true).open(&path).unwrap();
        std::io::Write::write_all(&mut log, second.as_bytes()).unwrap();
        assert_eq!(verbs(tail.read().unwrap()), ["patch"]);
    }
}
