use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::Response;
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};
use tower::BoxError;

use super::*;

/// An API server that grants these rights, and what it was asked.
#[derive(Default)]
struct Script {
    grants: &'static [&'static str],
    asked: Mutex<Vec<Value>>,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    silent: AtomicBool,
}

impl Script {
    fn access(self: &Arc<Self>) -> Access {
        let script = self.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let script = script.clone();
            async move {
                if script.silent.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
                let now = script.at_once.fetch_add(1, Ordering::Relaxed) + 1;
                script.most_at_once.fetch_max(now, Ordering::Relaxed);
                tokio::task::yield_now().await;
                script.at_once.fetch_sub(1, Ordering::Relaxed);
                let body = request.into_body().collect().await?.to_bytes();
                let mut review: Value = serde_json::from_slice(&body)?;
                let attributes = &review["spec"]["resourceAttributes"];
                let text = |key: &str| attributes[key].as_str().unwrap_or_default();
                let right = [text("verb"), text("resource"), text("name")].join(" ");
                let allowed = script.grants.contains(&right.trim());
                lock(&script.asked).push(review["spec"].clone());
                review["status"] = json!({"allowed": allowed});
                let body = Body::from(review.to_string().into_bytes());
                Ok::<_, BoxError>(Response::builder().status(201).body(body)?)
            }
        });
        Access::new(Client::new(service, "n"))
    }

    fn asked(&self) -> Vec<String> {
        let asked = std::mem::take(&mut *lock(&self.asked));
        let of = |spec: Value| {
            let attributes = &spec["resourceAttributes"];
            let text = |key: &str| attributes[key].as_str().unwrap_or_default().to_owned();
            [text("verb"), text("resource"), text("name")]
                .join(" ")
                .trim()
                .to_owned()
        };
        asked.into_iter().map(of).collect()
    }
}

fn script(grants: &'static [&'static str]) -> Arc<Script> {
    Arc::new(Script {
        grants,
        ..Script::default()
    })
}

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn jane() -> User {
    let info = r#"{"username":"jane","uid":"7","groups":["dev","ops"],"extra":{"scopes":["a"]}}"#;
    User {
        name: "jane".to_owned(),
        info: serde_json::from_str(info).unwrap(),
    }
}

fn needs_of(spec: &Value) -> Vec<Need> {
    let mut spec = spec.clone();
    spec["image"] = json!("x:1");
    needs(&serde_json::from_value(spec).unwrap(), None)
}

fn secrets(count: usize) -> Vec<Need> {
    let sources = (0..count).map(|at| json!({"secretRef": {"name": format!("s{at}")}}));
    needs_of(&json!({"envFrom": sources.collect::<Vec<_>>()}))
}

#[tokio::test]
async fn who_may_create_pods_is_asked_about_once() {
    let script = script(&["create pods"]);
    let access = script.access();
    let needs = needs_of(
        &json!({"serviceAccount": "bob", "podTemplate": {"spec": {}}, "envFrom": [{"secretRef": {"name": "s"}}]}),
    );
    for round in 0..3 {
        let missing = access
            .missing(&jane(), PEER, "team-a", &needs)
            .await
            .unwrap();
        assert_eq!(missing, [], "round {round}");
    }
    assert_eq!(script.asked(), ["create pods"]);
    access
        .missing(&jane(), PEER, "team-b", &needs)
        .await
        .unwrap();
    let mut other = jane();
    other.info = serde_json::from_str(r#"{"username":"jane","groups":[]}"#).unwrap();
    access
        .missing(&other, PEER, "team-a", &needs)
        .await
        .unwrap();
    let asked = lock(&script.asked).clone();
    assert_eq!(
        asked.len(),
        2,
        "of another namespace, of another user: {asked:?}"
    );
    let expected = json!({"user": "jane", "uid": "7", "groups": ["dev", "ops"], "extra": {"scopes": ["a"]},
        "resourceAttributes": {"namespace": "team-b", "verb": "create", "group": "", "version": "*", "resource": "pods", "name": ""}});
    assert_eq!(asked[0], expected, "all that is known of the user");
}

#[tokio::test]
async fn a_plain_server_asks_nothing() {
    let script = script(&[]);
    let missing = script
        .access()
        .missing(&User::default(), PEER, "n", &[])
        .await;
    assert_eq!(missing.unwrap(), []);
    assert_eq!(script.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_missing_is_named_with_its_field_and_its_rights() {
    let script = script(&["get secrets s"]);
    let spec = json!({"serviceAccount": "bob", "envFrom": [{"secretRef": {"name": "s"}}, {"secretRef": {"name": "t"}}],
        "service": {"type": "NodePort"}});
    let missing = script
        .access()
        .missing(&jane(), PEER, "team-a", &needs_of(&spec))
        .await;
    let told: Vec<_> = missing
        .unwrap()
        .into_iter()
        .map(|cause| format!("{}: {}", cause.field, cause.message))
        .collect();
    let end = "in namespace \"team-a\"; whoever manages its Roles can grant it";
    let expected = [
        format!(
            "spec.serviceAccount: Forbidden: user \"jane\" needs the right to impersonate serviceaccounts/bob, or to create pods {end}"
        ),
        format!(
            "spec.envFrom[1].secretRef: Forbidden: user \"jane\" needs the right to get secrets/t, or to create pods {end}"
        ),
        format!(
            "spec.service.type: Forbidden: user \"jane\" needs the right to create services {end}"
        ),
    ];
    assert_eq!(told, expected);
    let mut asked = script.asked();
    asked.sort_unstable();
    let expected = [
        "create pods",
        "create services",
        "get secrets",
        "get secrets s",
        "get secrets t",
        "impersonate serviceaccounts bob",
    ];
    assert_eq!(asked, expected);
}

#[tokio::test]
async fn no_request_asks_for_more_than_a_bounded_number() {
    let script = script(&[]);
    let missing = script
        .access()
        .missing(&jane(), PEER, "n", &secrets(500))
        .await
        .unwrap();
    assert_eq!(
        script.asked().len(),
        2 + MOST_ASKED,
        "pods, all secrets, and so many by name"
    );
    let most = script.most_at_once.load(Ordering::Relaxed);
    assert!(most <= AT_ONCE, "{most} at once");
    assert_eq!(missing.len(), MOST_CAUSES + 1);
    let last = &missing[MOST_CAUSES].message;
    assert!(last.contains("400 more fields"), "{last}");
}

#[tokio::test]
async fn who_may_get_all_secrets_is_asked_about_none_by_name() {
    let script = script(&["get secrets"]);
    let access = script.access();
    let missing = access.missing(&jane(), PEER, "n", &secrets(500)).await;
    assert_eq!(missing.unwrap(), []);
    assert_eq!(script.asked(), ["create pods", "get secrets"]);
}

#[tokio::test]
async fn one_peer_that_asks_much_keeps_no_other_waiting() {
    let script = script(&["create pods"]);
    let access = Arc::new(script.access());
    let mut greedy = tokio::task::JoinSet::new();
    for number in 0..200 {
        let access = access.clone();
        greedy.spawn(async move {
            let namespace = format!("n{number}");
            access
                .missing(&jane(), PEER, &namespace, &secrets(64))
                .await
        });
    }
    tokio::task::yield_now().await;
    let other = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
    let needs = needs_of(&json!({"podTemplate": {"spec": {}}}));
    let asked = access.missing(&jane(), other, "other", &needs).await;
    assert_eq!(asked.unwrap(), []);
    let behind = script
        .asked()
        .iter()
        .filter(|asked| *asked == "create pods")
        .count();
    assert!(
        behind <= 2 * AT_ONCE,
        "{behind} others were asked about before"
    );
    greedy.abort_all();
}

#[tokio::test]
async fn the_answers_that_are_remembered_are_bounded() {
    let script = script(&[]);
    let access = script.access();
    for round in 0..=MOST_ANSWERS / 64 {
        let namespace = format!("n{round}");
        access
            .missing(&jane(), PEER, &namespace, &secrets(64))
            .await
            .unwrap();
    }
    assert_eq!(lock(&access.answers).len(), MOST_ANSWERS);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_answered_is_not_let_through() {
    let script = script(&["create pods"]);
    let access = script.access();
    script.silent.store(true, Ordering::Relaxed);
    let needs = needs_of(&json!({"serviceAccount": "bob"}));
    let unknown = access
        .missing(&jane(), PEER, "n", &needs)
        .await
        .unwrap_err();
    assert_eq!(unknown.to_string(), "no answer within 3 s");
    script.silent.store(false, Ordering::Relaxed);
    assert_eq!(
        access.missing(&jane(), PEER, "n", &needs).await.unwrap(),
        []
    );
    let nobody = access
        .missing(&User::default(), PEER, "n", &needs)
        .await
        .unwrap_err();
    assert_eq!(nobody.to_string(), "the review names no requester");
}

#[tokio::test]
async fn an_answer_is_forgotten_after_a_while() {
    let script = script(&["create pods"]);
    let access = script.access();
    let needs = needs_of(&json!({"serviceAccount": "bob"}));
    access.missing(&jane(), PEER, "n", &needs).await.unwrap();
    for (since, _) in lock(&access.answers).values_mut() {
        *since = since.checked_sub(GOOD_FOR).unwrap();
    }
    access.missing(&jane(), PEER, "n", &needs).await.unwrap();
    assert_eq!(script.asked(), ["create pods", "create pods"]);
}
