use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::Status;
use serde_json::json;

use super::*;
use crate::api::v1alpha1::Phase;
use crate::controller::status::Progress;
use crate::controller::trouble::Trouble;

/// A report by its conditions (type, whether true, reason, message), without a Deployment.
fn report(phase: Phase, conditions: &[(&str, bool, &str, &str)]) -> Report {
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
    Report {
        status: MCPServerStatus {
            phase: Some(phase),
            conditions: conditions.iter().map(condition).collect(),
            ..Default::default()
        },
        gist: 0,
        progress: None,
        changes_in: None,
    }
}

/// One of pods that are not ready, with the trouble of one of them: pod, cause, detail.
fn pods(ready: i32, trouble: Option<(&str, &str, &str)>) -> Report {
    let progress = Progress {
        ready,
        wanted: 2,
        behind: None,
        trouble: trouble.map(|(pod, cause, detail)| Trouble {
            pod: Some(pod.into()),
            cause: cause.into(),
            detail: detail.to_owned(),
        }),
    };
    let finding = (
        "DeploymentReady",
        false,
        "DeploymentNotReady",
        &*progress.to_string(),
    );
    Report {
        progress: Some(progress.clone()),
        ..report(Phase::Pending, &[finding])
    }
}

fn server(generation: i64) -> ServerView {
    let object = json!({"metadata": {"name": "a", "namespace": "team", "uid": "1-2-3", "generation": generation}});
    ServerView::read(&object.to_string()).unwrap()
}

fn name(news: &News, generation: i64) -> String {
    let event = news.event(&server(generation), "pod", Timestamp::UNIX_EPOCH);
    event.metadata.name.unwrap()
}

const CRASH: (&str, &str, &str) = ("a-1", "CrashLoopBackOff", "exits with code 1");

/// What it is, the status before, the trouble told before, the report, what is told.
type Case<'a> = (
    &'a str,
    Option<Report>,
    Option<&'a str>,
    Report,
    &'a [&'a str],
);

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn a_change_of_status_is_told_by_what_is_new_in_it() {
    let starting = || pods(0, None);
    let crashed = || pods(0, Some(CRASH));
    let invalid = |message| {
        report(
            Phase::Failed,
            &[("ConfigurationValid", false, "ConfigurationInvalid", message)],
        )
    };
    let conflict = |message| report(Phase::Pending, &[("Ready", false, "NameConflict", message)]);
    let absent = || {
        report(
            Phase::Pending,
            &[(
                "DeploymentReady",
                false,
                "DeploymentNotFound",
                "exceeded quota",
            )],
        )
    };
    let ready = || Report {
        progress: pods(2, None).progress,
        ..report(
            Phase::Ready,
            &[(
                "DeploymentReady",
                true,
                "DeploymentReady",
                "Deployment has 2/2 ready replicas",
            )],
        )
    };
    let created = "Created: Created Deployment, Service";
    let crash = "NotReady: pod a-1: CrashLoopBackOff: exits with code 1";
    let table: [Case<'_>; 14] = [
        ("created", None, None, starting(), &[created]),
        (
            "created, with the status of a new object",
            Some(report(Phase::Pending, &[])),
            None,
            starting(),
            &[created],
        ),
        (
            "created after the quota was raised",
            Some(absent()),
            None,
            starting(),
            &[created],
        ),
        ("not created, for want of quota", None, None, absent(), &[]),
        (
            "invalid",
            Some(starting()),
            None,
            invalid("one fault"),
            &["ConfigurationInvalid: one fault"],
        ),
        (
            "as invalid as before",
            Some(invalid("one fault")),
            None,
            invalid("one fault"),
            &[],
        ),
        (
            "invalid in another way",
            Some(invalid("one")),
            None,
            invalid("two"),
            &["ConfigurationInvalid: two"],
        ),
        (
            "in conflict",
            None,
            None,
            conflict("Service a"),
            &["NameConflict: Service a"],
        ),
        (
            "in another conflict",
            Some(conflict("Service a")),
            None,
            conflict("Deployment a"),
            &["NameConflict: Deployment a"],
        ),
        ("not ready", Some(starting()), None, crashed(), &[crash]),
        (
            "not ready, with another count and another pod first",
            Some(crashed()),
            Some("CrashLoopBackOff"),
            pods(1, Some(("a-2", "CrashLoopBackOff", "exits with code 2"))),
            &[],
        ),
        (
            "not ready for another reason",
            Some(crashed()),
            Some("CrashLoopBackOff"),
            pods(0, Some(("a-2", "ImagePullBackOff", "x"))),
            &["NotReady: pod a-2: ImagePullBackOff: x"],
        ),
        (
            "as not ready as before a restart of the operator",
            Some(crashed()),
            None,
            crashed(),
            &[],
        ),
        (
            "ready",
            Some(crashed()),
            Some("CrashLoopBackOff"),
            ready(),
            &[],
        ),
    ];
    for (what, old, told, new, expected) in table {
        let old = old.map(|old| old.status);
        let news = of_report(old.as_ref(), &new, &["Deployment", "Service"], told);
        let told: Vec<_> = news
            .iter()
            .map(|news| format!("{}: {}", news.reason, news.note))
            .collect();
        assert_eq!(told, *expected, "{what}");
    }
    let terminating = of_report(None, &starting(), &[], None);
    assert_eq!(
        terminating,
        [],
        "a server that is being deleted makes nothing"
    );
}

#[test]
fn one_cause_has_one_name_whoever_tells_it() {
    let trouble = |trouble| {
        let old = pods(0, None).status;
        of_report(Some(&old), &pods(0, Some(trouble)), &[], None).remove(0)
    };
    let crash = trouble(CRASH);
    let same = trouble(("a-2", "CrashLoopBackOff", "exits with code 2"));
    let other = trouble(("a-1", "Unschedulable", "0/1 nodes are available"));
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
        let told = told.cloned().into_iter().collect();
        assert_eq!(
            of_failure(error, failures, &told, None).is_some(),
            expected,
            "{what}"
        );
    }
    let refused = error(422, "wrong");
    let text = format!("spec.port: Invalid; {refused}");
    let finding = ("ConfigurationValid", false, "ConfigurationInvalid", &*text);
    let told = report(Phase::Failed, &[finding]).status;
    assert_eq!(of_failure(&refused, 1, &BTreeSet::new(), Some(&told)), None);
}
