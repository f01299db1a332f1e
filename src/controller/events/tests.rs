use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::Status;

use super::*;
use crate::fence::NotLeading;

/// A status by its conditions (type, whether true, reason, message).
fn status(phase: Phase, conditions: &[(&str, bool, &str, &str)]) -> MCPServerStatus {
    let condition = |(type_, is_true, reason, message): &(&str, bool, &str, &str)| Condition {
        type_: (*type_).to_owned(),
        status: if *is_true { "True" } else { "False" }.to_owned(),
        reason: (*reason).to_owned(),
        message: (*message).to_owned(),
        observed_generation: None,
        last_transition_time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
            Timestamp::UNIX_EPOCH,
        ),
    };
    MCPServerStatus {
        phase: Some(phase),
        conditions: conditions.iter().map(condition).collect(),
        ..Default::default()
    }
}

fn pods(message: &str) -> MCPServerStatus {
    let finding = ("DeploymentReady", false, "DeploymentNotReady", message);
    status(Phase::Pending, &[finding])
}

fn server(generation: i64) -> MCPServer {
    let mut server = MCPServer::new("a", Default::default());
    server.metadata.uid = Some("1-2-3".to_owned());
    server.metadata.namespace = Some("team".to_owned());
    server.metadata.generation = Some(generation);
    server
}

fn name(news: &News, generation: i64) -> String {
    let event = news.event(&server(generation), "pod", Timestamp::UNIX_EPOCH);
    event.metadata.name.unwrap()
}

const CRASH: &str =
    "Deployment has 0/1 ready replicas: pod a-1: CrashLoopBackOff: exits with code 1";

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn a_change_of_status_is_told_by_what_is_new_in_it() {
    let starting = || Some(pods("Deployment has 0/1 ready replicas"));
    let invalid = |message| {
        let finding = ("ConfigurationValid", false, "ConfigurationInvalid", message);
        status(Phase::Failed, &[finding])
    };
    let conflict = |message| status(Phase::Pending, &[("Ready", false, "NameConflict", message)]);
    let ready = status(
        Phase::Ready,
        &[(
            "DeploymentReady",
            true,
            "DeploymentReady",
            "Deployment has 1/1 ready replicas",
        )],
    );
    let late = |old: &str| MCPServerStatus {
        phase: Some(Phase::Failed),
        ..pods(old)
    };
    let table: &[(&str, Option<MCPServerStatus>, MCPServerStatus, &[&str])] = &[
        (
            "created",
            None,
            starting().unwrap(),
            &["Created: Created Deployment, Service"],
        ),
        (
            "created after the quota was raised",
            Some(pods("applying Deployment a: exceeded quota")),
            starting().unwrap(),
            &["Created: Created Deployment, Service"],
        ),
        (
            "not created, for want of quota",
            None,
            pods("applying Deployment a: exceeded quota"),
            &[],
        ),
        (
            "invalid",
            starting(),
            invalid("one fault"),
            &["ConfigurationInvalid: one fault"],
        ),
        (
            "as invalid as before",
            Some(invalid("one fault")),
            invalid("one fault"),
            &[],
        ),
        (
            "invalid in another way",
            Some(invalid("one fault")),
            invalid("another"),
            &["ConfigurationInvalid: another"],
        ),
        (
            "in conflict",
            None,
            conflict("Service a"),
            &["NameConflict: Service a"],
        ),
        (
            "in conflict about another child",
            Some(conflict("Service a")),
            conflict("Deployment a"),
            &["NameConflict: Deployment a"],
        ),
        (
            "not ready",
            starting(),
            pods(CRASH),
            &["NotReady: pod a-1: CrashLoopBackOff: exits with code 1"],
        ),
        (
            "not ready, with another count and another pod first",
            Some(pods(CRASH)),
            pods("Deployment has 1/2 ready replicas: pod a-2: CrashLoopBackOff: exits with code 1"),
            &[],
        ),
        (
            "not ready for another reason",
            Some(pods(CRASH)),
            pods("Deployment has 0/1 ready replicas: pod a-2: ImagePullBackOff: x"),
            &["NotReady: pod a-2: ImagePullBackOff: x"],
        ),
        ("ready", Some(pods(CRASH)), ready, &[]),
        (
            "no progress, and no pod says why",
            starting(),
            late("Deployment has 0/1 ready replicas"),
            &[
                "NotReady: The Deployment made no progress within its deadline; see the conditions of its status",
            ],
        ),
        (
            "no progress, and a pod has said why",
            Some(pods(CRASH)),
            late(CRASH),
            &[],
        ),
    ];
    for (what, old, new, expected) in table {
        let news = of_change(old.as_ref(), new, &["Deployment", "Service"]);
        let told: Vec<_> = news
            .iter()
            .map(|news| format!("{}: {}", news.reason, news.note))
            .collect();
        assert_eq!(told, *expected, "{what}");
    }
    let terminating = of_change(None, &starting().unwrap(), &[]);
    assert_eq!(
        terminating,
        [],
        "a server that is on its way out makes nothing"
    );
}

#[test]
fn one_cause_has_one_name_whoever_tells_it() {
    let trouble = |why: &str| {
        let new = pods(&format!("Deployment has 0/1 ready replicas: {why}"));
        of_change(Some(&pods("Deployment has 0/1 ready replicas")), &new, &[]).remove(0)
    };
    let crash = trouble("pod a-1: CrashLoopBackOff: exits with code 1");
    let same = trouble("pod a-2: CrashLoopBackOff: exits with code 2");
    let other = trouble("pod a-1: Unschedulable: 0/1 nodes are available");
    assert_eq!(
        name(&crash, 1),
        name(&same, 1),
        "after a moment of being well"
    );
    assert_ne!(name(&crash, 1), name(&crash, 2), "after another spec");
    assert_ne!(name(&crash, 1), name(&other, 1), "another cause");
    assert_eq!(
        name(&deleted(0), 1),
        name(&deleted(3), 2),
        "deleted is deleted"
    );
    assert!(name(&crash, 1).starts_with("a."), "found beside its server");
}

#[test]
fn a_failure_is_told_once_and_not_beside_the_status() {
    let error = |code: u16, message: &str| {
        let status = Status::failure(message, "").with_code(code).boxed();
        Error::api("applying Deployment a")(kube::Error::Api(status))
    };
    let (away, no_rights) = (error(503, "away"), error(403, "no rights"));
    let (away_told, no_rights_told) = (away.cause(), no_rights.cause());
    let table = [
        ("at first, as it may pass", &away, 1, None, false),
        ("when it does not", &away, 3, None, true),
        ("and never again", &away, 4, Some(&away_told), false),
        ("missing rights", &no_rights, 1, None, true),
        (
            "and half an hour later",
            &no_rights,
            2,
            Some(&no_rights_told),
            false,
        ),
        (
            "missing rights after something else",
            &no_rights,
            2,
            None,
            true,
        ),
        (
            "missing rights after something else that was told",
            &no_rights,
            5,
            Some(&away_told),
            true,
        ),
        ("what was refused", &error(422, "wrong"), 1, None, true),
    ];
    for (what, error, failures, told, expected) in table {
        let told = told.map(String::as_str);
        assert_eq!(
            of_failure(error, failures, told, None).is_some(),
            expected,
            "{what}"
        );
    }
    let refused = error(422, "wrong");
    let text = format!("spec.port: Invalid; {refused}");
    let told = status(
        Phase::Failed,
        &[("ConfigurationValid", false, "ConfigurationInvalid", &text)],
    );
    assert_eq!(of_failure(&refused, 1, None, Some(&told)), None);
}

/// Instead of an answer: the fence lets nothing through.
const FENCED: u16 = 0;

/// An API server that answers Events as these say, and then with the last; and whose names it was sent.
fn api_server(
    answers: &[(u16, &'static str)],
) -> (Publisher, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let (sent, names) = tokio::sync::mpsc::unbounded_channel();
    let answers = std::sync::Arc::new(std::sync::Mutex::new(answers.to_vec()));
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let (sent, answers) = (sent.clone(), answers.clone());
        async move {
            let body = request.into_body().collect_bytes().await.unwrap();
            let event: serde_json::Value = serde_json::from_slice(&body).unwrap();
            sent.send(event["metadata"]["name"].as_str().unwrap().to_owned())
                .unwrap();
            let (code, message) = {
                let mut answers = answers.lock().unwrap();
                match answers.len() {
                    1 => answers[0],
                    _ => answers.remove(0),
                }
            };
            let answer = match code {
                FENCED => return Err(tower::BoxError::from(NotLeading)),
                201 => event,
                _ => serde_json::json!({
                    "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message,
                }),
            };
            let body = kube::client::Body::from(answer.to_string().into_bytes());
            let answer = http::Response::builder().status(code).body(body);
            Ok::<_, tower::BoxError>(answer.unwrap())
        }
    });
    let client = Client::new(service, "default");
    (Publisher::new(client, None), names)
}

#[tokio::test(start_paused = true)]
async fn an_event_is_tried_a_few_times_where_that_may_help() {
    type Case<'a> = (&'a str, &'a [(u16, &'static str)], usize);
    let table: [Case; 7] = [
        ("published", &[(201, "")], 1),
        ("there already", &[(409, "exists")], 1),
        (
            "away for a moment",
            &[(503, "away"), (500, "ill"), (201, "")],
            3,
        ),
        (
            "published, and the answer lost",
            &[(504, "late"), (409, "exists")],
            2,
        ),
        ("no leader any more", &[(503, "away"), (FENCED, "")], 2),
        ("no right", &[(403, "is forbidden")], 1),
        ("no room, for long", &[(403, "exceeded quota: events")], 5),
    ];
    for (what, answers, times) in table {
        let (publisher, mut names) = api_server(answers);
        let news = deleted(0);
        // What goes on does not wait for the other tries.
        let begun = tokio::time::Instant::now();
        publisher.publish(&server(1), &news).await;
        assert_eq!(begun.elapsed(), Duration::ZERO, "{what}");
        tokio::time::sleep(Duration::from_hours(1)).await;
        let mut sent = Vec::new();
        while let Ok(name) = names.try_recv() {
            sent.push(name);
        }
        assert_eq!(sent, vec![name(&news, 1); times], "{what}");
    }
}
