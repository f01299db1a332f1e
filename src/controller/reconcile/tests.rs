//! Passes against a scripted API server: what each sends, and what comes of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use kube::Client;
use serde_json::Value;
use tower::BoxError;

use super::*;
use crate::controller::Settings;
use crate::controller::cache::lock;
use crate::controller::view::child::ChildView;
use crate::fence::NotLeading;
use crate::metrics::Metrics;

/// Instead of a status: the fence lets nothing through.
const FENCED: u16 = 0;
/// Instead of a status: nothing is answered.
const SILENT: u16 = 1;

type Answer = (u16, Value);

/// An API server that takes everything, but for what its script says.
#[derive(Default)]
struct Script {
    /// What is answered to the next requests of this method and path.
    answers: Mutex<HashMap<String, Vec<Answer>>>,
    /// Requests in order: method and path, and body.
    requests: Mutex<Vec<(String, Value)>>,
    /// What is stored, by path.
    objects: Mutex<HashMap<String, Value>>,
    version: AtomicU64,
}

impl Script {
    fn answer(&self, method: &str, path: &str, body: &Value) -> Answer {
        let scripted = lock(&self.answers)
            .get_mut(&format!("{method} {path}"))
            .and_then(|answers| (!answers.is_empty()).then(|| answers.remove(0)));
        if let Some(scripted) = scripted {
            return scripted;
        }
        let name = body["metadata"]["name"].as_str().unwrap_or_default();
        let path = if method == "POST" {
            format!("{path}/{name}")
        } else {
            path.trim_end_matches("/status").to_owned()
        };
        let mut objects = lock(&self.objects);
        if method == "DELETE" {
            objects.remove(&path);
            return (
                200,
                json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}),
            );
        }
        if method == "GET" {
            let missing = || (404, json!({"reason": "NotFound"}));
            return objects
                .get(&path)
                .map_or_else(missing, |object| (200, object.clone()));
        }
        let object = objects
            .entry(path)
            .or_insert_with(|| json!({"metadata": {"uid": "child"}}));
        json_patch::merge(object, body);
        let version = self.version.fetch_add(1, Ordering::Relaxed) + 1;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        (200, object.clone())
    }

    fn requests(&self) -> Vec<String> {
        let requests = std::mem::take(&mut *lock(&self.requests));
        requests.into_iter().map(|(request, _)| request).collect()
    }
}

/// A server, and the operator that sees it.
struct Scene {
    script: Arc<Script>,
    context: Context,
    key: Key,
}

impl Scene {
    fn new(server: &Value) -> Self {
        let script = Arc::new(Script::default());
        let answering = script.clone();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let script = answering.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await?;
                let body: Value = serde_json::from_slice(&body).unwrap_or_default();
                let path = parts.uri.path().rsplit("/namespaces/n/").next();
                let (method, path) = (parts.method.as_str(), path.unwrap_or_default());
                let named = format!("{method} {path}");
                lock(&script.requests).push((named, body.clone()));
                let (code, mut answer) = script.answer(method, path, &body);
                if code == FENCED {
                    return Err(BoxError::from(NotLeading));
                }
                if code == SILENT {
                    std::future::pending::<()>().await;
                }
                if code >= 400 {
                    answer["kind"] = json!("Status");
                    answer["apiVersion"] = json!("v1");
                    answer["status"] = json!("Failure");
                    answer["code"] = json!(code);
                }
                let body = kube::client::Body::from(answer.to_string().into_bytes());
                Ok(http::Response::builder().status(code).body(body)?)
            }
        });
        let metrics = Arc::new(Metrics::new(Arc::default()).unwrap());
        let context = Context::new(Client::new(service, "n"), Settings::default(), metrics);
        let scene = Self {
            script,
            context,
            key: Key::new("n", "a"),
        };
        scene.shows(server);
        scene
    }

    /// The watch shows the server like this.
    fn shows(&self, change: &Value) {
        let mut server = json!({
            "metadata": {"name": "a", "namespace": "n", "uid": "u", "generation": 1,
                "finalizers": [labels::FINALIZER]},
            "spec": {"image": "x:1"},
        });
        json_patch::merge(&mut server, change);
        let version = self.script.version.fetch_add(1, Ordering::Relaxed) + 1;
        server["metadata"]["resourceVersion"] = version.to_string().into();
        let view = ServerView::read(&server.to_string()).unwrap();
        lock(&self.script.objects).insert("mcpservers/a".to_owned(), server);
        self.context.servers.shown(&self.key, view);
    }

    /// What is answered to the next request like this.
    fn answers(&self, request: &str, code: u16, body: Value) {
        lock(&self.script.answers)
            .entry(request.to_owned())
            .or_default()
            .push((code, body));
    }

    async fn pass(&self) -> Next {
        match pass(&self.key, &self.context).await {
            Ok(next) => next,
            Err(error) => failed(&self.key, &error, &self.context),
        }
    }

    /// What was sent since the last look. What does not depend on each other is sent in any order.
    fn sent(&self) -> Vec<String> {
        let mut sent = self.script.requests();
        sent.sort_unstable();
        sent
    }

    /// The child as it would be stored, made by us.
    fn stored<K: Built>(&self, change: &Value) -> Value {
        let wish = self.context.wish::<K>(&self.key).unwrap();
        let mut stored = wish.body;
        stored["metadata"]["uid"] = json!("child");
        stored["metadata"]["resourceVersion"] = json!("500");
        json_patch::merge(&mut stored, change);
        stored
    }

    fn status(&self) -> MCPServerStatus {
        self.context
            .servers
            .get(&self.key)
            .unwrap()
            .status()
            .unwrap()
    }

    fn ready(&self) -> String {
        let status = self.status();
        let ready = status
            .conditions
            .iter()
            .find(|condition| condition.type_ == "Ready")
            .unwrap();
        format!("{}: {}", ready.reason, ready.message)
    }
}

const CREATED: [&str; 4] = [
    "PATCH mcpservers/a/status",
    "POST configmaps",
    "POST deployments",
    "POST services",
];

fn with_config() -> Value {
    json!({"spec": {"config": {"K": "v"}}})
}

fn already_exists() -> Value {
    json!({"reason": "AlreadyExists", "message": "deployments.apps \"a\" already exists"})
}

#[tokio::test]
async fn a_new_server_costs_its_children_and_a_status_and_then_nothing() {
    let scene = Scene::new(&with_config());
    scene.pass().await;
    let sent = lock(&scene.script.requests).clone();
    let place = |what: &str| {
        sent.iter()
            .position(|(request, _)| request == what)
            .unwrap()
    };
    assert!(
        place("POST configmaps") < place("POST deployments"),
        "the config is there before the pods that read it"
    );
    assert_eq!(scene.sent(), CREATED);
    assert_eq!(scene.status().phase, Some(Phase::Pending));
    scene.pass().await;
    assert_eq!(scene.sent(), [""; 0], "an unchanged server costs nothing");
}

#[tokio::test]
async fn a_large_server_is_read_by_its_pass() {
    let env = json!([{"name": "A", "value": "x".repeat(100_000)}]);
    let scene = Scene::new(&json!({"spec": {"env": env}}));
    scene.pass().await;
    let mut expected = CREATED[..1].to_vec();
    expected.extend(&CREATED[2..]);
    expected.insert(0, "GET mcpservers/a");
    assert_eq!(scene.sent(), expected);
    scene.pass().await;
    assert_eq!(scene.sent(), ["GET mcpservers/a"]);
    // A successor of the same name is not taken for it, nor one that has gone.
    for (code, found) in [
        (
            200,
            json!({"metadata": {"name": "a", "namespace": "n", "uid": "other"}, "spec": {"image": "y:1"}}),
        ),
        (404, json!({"reason": "NotFound"})),
    ] {
        scene.answers("GET mcpservers/a", code, found);
        assert_eq!(scene.pass().await, Next::OnChange);
        assert_eq!(scene.sent(), ["GET mcpservers/a"]);
    }
}

#[tokio::test]
async fn the_finalizer_comes_before_the_children() {
    let scene = Scene::new(&json!({"metadata": {"finalizers": null}}));
    let stored = json!({"metadata": {"name": "a", "namespace": "n", "uid": "u", "generation": 1, "resourceVersion": "20001",
        "finalizers": [labels::FINALIZER]}, "spec": {"image": "x:1"}});
    scene.answers(
        "PATCH mcpservers/a",
        409,
        json!({"reason": "Conflict", "message": "it has changed"}),
    );
    assert_eq!(scene.pass().await, Next::In(Duration::from_secs(1)));
    assert_eq!(scene.sent(), ["PATCH mcpservers/a"], "no child without it");
    scene.answers("PATCH mcpservers/a", 200, stored);
    scene.pass().await;
    assert_eq!(
        scene.sent(),
        [
            "PATCH mcpservers/a",
            "PATCH mcpservers/a/status",
            "POST deployments",
            "POST services"
        ]
    );
}

#[tokio::test]
async fn a_strangers_object_is_named_and_asked_for_now_and_then_only() {
    let scene = Scene::new(&json!({}));
    scene.answers("POST deployments", 409, already_exists());
    scene.answers(
        "GET deployments/a",
        200,
        json!({"metadata": {"name": "a", "namespace": "n", "uid": "other"}}),
    );
    let Next::In(looks) = scene.pass().await else {
        panic!("it looks again")
    };
    assert!(looks <= NOT_READY_LOOK, "{looks:?}");
    let expected = [
        "GET deployments/a",
        "PATCH mcpservers/a/status",
        "POST deployments",
        "POST services",
    ];
    assert_eq!(scene.sent(), expected);
    let told = "NameConflict: Deployment \"a\" exists and is not this MCPServer's; delete or rename one of the two";
    assert_eq!(scene.ready(), told);
    scene.pass().await;
    assert_eq!(scene.sent(), [""; 0], "it is too soon for another look");
}

#[tokio::test]
async fn a_child_that_lost_its_owner_is_adopted() {
    let scene = Scene::new(&json!({}));
    scene.answers("POST deployments", 409, already_exists());
    let orphan = scene.stored::<Deployment>(&json!({"metadata": {"ownerReferences": null}}));
    scene.answers("GET deployments/a", 200, orphan);
    scene.pass().await;
    let expected = [
        "GET deployments/a",
        "PATCH deployments/a",
        "PATCH mcpservers/a/status",
        "POST deployments",
        "POST services",
    ];
    assert_eq!(scene.sent(), expected);
}

#[tokio::test]
async fn another_wish_is_applied_after_the_fields_were_handed_over() {
    let scene = Scene::new(&json!({}));
    scene.pass().await;
    scene.sent();
    let created = json!({"metadata": {"managedFields": [{"manager": "mcp-operator", "operation": "Update",
        "apiVersion": "apps/v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {}}}]}});
    let live = scene.stored::<Deployment>(&created);
    let mut handed_over = live.clone();
    handed_over["metadata"]["managedFields"][0]["operation"] = json!("Apply");
    scene.shows(&json!({"metadata": {"generation": 2}, "spec": {"image": "x:2"}}));
    scene.answers("GET deployments/a", 200, live);
    scene.answers("PATCH deployments/a", 200, handed_over);
    scene.pass().await;
    let sent = lock(&scene.script.requests).clone();
    let bodies: Vec<_> = sent
        .iter()
        .filter(|(request, _)| request == "PATCH deployments/a")
        .collect();
    assert_eq!(
        bodies[0].1["metadata"]["managedFields"][0]["operation"],
        "Apply"
    );
    assert_eq!(
        bodies[1].1["spec"]["template"]["spec"]["containers"][0]["image"],
        "x:2"
    );
    assert_eq!(bodies[1].1["metadata"]["uid"], "child", "just this object");
    let expected = [
        "GET deployments/a",
        "PATCH deployments/a",
        "PATCH deployments/a",
        "PATCH mcpservers/a/status",
    ];
    assert_eq!(
        scene.sent(),
        expected,
        "and the Service, which is the same, is not asked for"
    );
}

#[tokio::test]
async fn what_apply_cannot_put_back_is_replaced_and_marked_done_last() {
    let scene = Scene::new(&json!({}));
    scene.answers("POST deployments", 409, already_exists());
    let changed = json!({"spec": {"strategy": {"type": "Recreate"}}});
    scene.answers(
        "GET deployments/a",
        200,
        scene.stored::<Deployment>(&changed),
    );
    scene.answers(
        "PATCH deployments/a",
        422,
        json!({"reason": "Invalid", "message": "spec.strategy: Forbidden"}),
    );
    scene.pass().await;
    let sent = lock(&scene.script.requests).clone();
    let put = sent
        .iter()
        .find(|(request, _)| request == "PUT deployments/a")
        .unwrap();
    assert_eq!(
        put.1["metadata"]["annotations"].get(labels::APPLIED_HASH),
        None,
        "not done yet"
    );
    let last = sent
        .iter()
        .rfind(|(request, _)| request == "PATCH deployments/a")
        .unwrap();
    assert!(last.1["metadata"]["annotations"][labels::APPLIED_HASH].is_string());
    assert_eq!(
        scene.sent(),
        [
            "GET deployments/a",
            "PATCH deployments/a",
            "PATCH deployments/a",
            "PATCH mcpservers/a/status",
            "POST deployments",
            "POST services",
            "PUT deployments/a"
        ]
    );
}

#[tokio::test]
async fn a_repair_that_was_cut_off_is_finished_by_the_next_pass() {
    let scene = Scene::new(&json!({}));
    scene.answers("POST deployments", 409, already_exists());
    scene.answers("POST deployments", 409, already_exists());
    let changed = json!({"spec": {"strategy": {"type": "Recreate"}}});
    let changed = scene.stored::<Deployment>(&changed);
    lock(&scene.script.objects).insert("deployments/a".to_owned(), changed);
    let invalid = json!({"reason": "Invalid", "message": "spec.strategy: Forbidden"});
    scene.answers("PATCH deployments/a", 422, invalid);
    // A replaced object is as it is to be, but for the mark; then nothing more comes through.
    let wish = scene.context.wish::<Deployment>(&scene.key).unwrap();
    let mut replaced = wish.body.clone();
    json_patch::merge(
        &mut replaced,
        &json!({"metadata": {"uid": "child", "resourceVersion": "600", "annotations": {labels::APPLIED_HASH: null},
            "managedFields": [{"manager": "mcp-operator", "operation": "Update", "apiVersion": "apps/v1",
                "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {}}}]}}),
    );
    scene.answers("PUT deployments/a", 200, replaced.clone());
    scene.answers("PATCH deployments/a", 503, json!({"message": "away"}));
    assert_eq!(scene.pass().await, Next::In(Duration::from_secs(1)));
    let sent = scene.sent();
    assert!(sent.contains(&"PUT deployments/a".to_owned()), "{sent:?}");

    // Another process: it knows nothing of the first one's try.
    lock(&scene.script.objects).insert("deployments/a".to_owned(), replaced);
    scene.context.forget(&scene.key);
    scene.pass().await;
    let applied = lock(&scene.script.objects)["deployments/a"].clone();
    let owners = &applied["metadata"]["managedFields"];
    assert_eq!(
        owners[0]["operation"], "Apply",
        "no second manager: {owners}"
    );
    let hash = &applied["metadata"]["annotations"][labels::APPLIED_HASH];
    assert_eq!(*hash, json!(wish.hash.to_string()), "marked done");
    let sent = scene.sent();
    assert!(!sent.contains(&"PUT deployments/a".to_owned()), "{sent:?}");
    scene.pass().await;
    assert_eq!(scene.sent(), [""; 0], "and done it is");
}

#[tokio::test]
async fn a_finalizer_that_a_policy_refuses_is_told_in_the_status() {
    let scene = Scene::new(&json!({"metadata": {"finalizers": null}}));
    let denied = json!({"message": "mcpservers.mcp.example.com \"a\" is forbidden: ValidatingAdmissionPolicy 'p' denied request: no"});
    scene.answers("PATCH mcpservers/a", 403, denied);
    assert_eq!(scene.pass().await, Next::In(Duration::from_secs(10)));
    let expected = ["PATCH mcpservers/a", "PATCH mcpservers/a/status"];
    assert_eq!(scene.sent(), expected, "and no child without it");
    let ready = scene.ready();
    assert!(
        ready.starts_with("ConfigurationInvalid: adding the finalizer: ")
            && ready.contains("denied request: no"),
        "{ready}"
    );
    assert_eq!(scene.status().phase, Some(Phase::Failed));
}

#[tokio::test]
async fn what_was_refused_waits_until_its_time_or_a_change_of_the_spec() {
    let denied = |code: u16, message: &str| (code, json!({"message": message}));
    let table = [
        (
            "by a policy",
            denied(
                403,
                "services \"a\" is forbidden: ValidatingAdmissionPolicy 'p' denied request",
            ),
            10,
            Phase::Failed,
        ),
        (
            "as invalid",
            denied(422, "spec.ports: Invalid value"),
            300,
            Phase::Failed,
        ),
        (
            "by RBAC",
            denied(403, "services is forbidden: User \"x\" cannot create"),
            1_800,
            Phase::Pending,
        ),
        ("for the moment", denied(503, "away"), 1, Phase::Pending),
    ];
    for (what, (code, answer), seconds, phase) in table {
        let scene = Scene::new(&json!({}));
        scene.answers("POST services", code, answer);
        let Next::In(first) = scene.pass().await else {
            panic!("{what}")
        };
        assert_eq!(first.as_secs(), seconds, "{what}");
        assert_eq!(scene.status().phase, Some(phase), "{what}");
        scene.sent();
        let Next::In(left) = scene.pass().await else {
            panic!("{what}")
        };
        assert!(left <= first, "{what}: {left:?}");
        assert_eq!(scene.sent(), [""; 0], "{what}: it is too soon");
        scene.shows(&json!({"metadata": {"annotations": {labels::RECONCILE_AT: "now"}}, "status": scene.status()}));
        scene.pass().await;
        assert_eq!(scene.sent()[0..1], ["PATCH mcpservers/a/status"], "{what}");
        assert!(
            scene.context.services.get(&scene.key).is_some(),
            "{what}: tried as soon as somebody asks for it"
        );
    }
}

#[tokio::test]
async fn a_replica_that_leads_no_more_notes_nothing() {
    let scene = Scene::new(&json!({}));
    scene.answers("POST services", FENCED, Value::Null);
    scene.answers("PATCH mcpservers/a/status", FENCED, Value::Null);
    scene.pass().await;
    scene.sent();
    scene.pass().await;
    assert_eq!(
        scene.sent(),
        ["PATCH mcpservers/a/status", "POST services"],
        "at once"
    );
}

#[tokio::test]
async fn a_faulty_spec_touches_no_child_and_is_told() {
    let scene = Scene::new(&json!({"spec": {"transport": "stdio", "replicas": 2}}));
    assert_eq!(scene.pass().await, Next::In(Duration::from_mins(5)));
    assert_eq!(scene.sent(), ["PATCH mcpservers/a/status"]);
    assert!(
        scene
            .ready()
            .contains("stdio transport does not support multiple replicas (requested: 2)")
    );
}

#[tokio::test]
async fn a_server_that_cannot_be_read_is_told_and_can_go() {
    let mut deep = json!({});
    for _ in 0..120 {
        deep = json!({"a": deep});
    }
    let spec =
        json!({"podTemplate": {"metadata": {"annotations": {"a": {"a": {"a": {"a": deep}}}}}}});
    let scene = Scene::new(&json!({"spec": spec}));
    assert_eq!(scene.pass().await, Next::In(Duration::from_mins(5)));
    assert_eq!(scene.sent(), ["PATCH mcpservers/a/status"]);
    let told = "ConfigurationInvalid: spec: Invalid value: \"object\": its lists and maps are nested 128 levels deep, must be at most 64";
    assert_eq!(scene.ready(), told);
    scene.shows(&json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec}));
    scene.pass().await;
    assert_eq!(
        scene.sent(),
        ["PATCH mcpservers/a", "PATCH mcpservers/a/status"],
        "its finalizer goes"
    );
}

#[tokio::test(start_paused = true)]
async fn a_deletion_waits_for_the_pods_and_not_for_ever() {
    let scene = Scene::new(&json!({}));
    scene.pass().await;
    scene.sent();
    let pod = json!({"metadata": {"name": "a-1", "namespace": "n", "uid": "p", "resourceVersion": "1",
        "labels": labels::selector("a")}});
    let pod = crate::controller::view::pod::PodView::read(&pod.to_string()).unwrap();
    scene.context.pods.shown(pod.clone());
    let deleting = json!({"metadata": {"deletionTimestamp": "2020-01-01T00:00:00Z"}});
    scene.shows(&deleting);
    scene.answers(
        "DELETE deployments/a",
        200,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}),
    );
    let Next::In(wait) = scene.pass().await else {
        panic!("it waits")
    };
    assert!(wait <= Duration::from_secs(5), "{wait:?}");
    let expected = [
        "DELETE deployments/a",
        "PATCH deployments/a",
        "PATCH mcpservers/a/status",
    ];
    assert_eq!(
        scene.sent(),
        expected,
        "marked and deleted, whatever the wall clock says"
    );
    scene.pass().await;
    assert_eq!(scene.sent(), [""; 0]);
    scene.context.pods.deleted(&pod);
    assert_eq!(scene.pass().await, Next::OnChange);
    assert_eq!(scene.sent(), ["PATCH mcpservers/a"]);
}

#[tokio::test]
async fn a_deletion_ends_at_its_limit_also_when_the_deployment_cannot_be_deleted() {
    let scene = Scene::new(&json!({}));
    scene.pass().await;
    scene.shows(&json!({"metadata": {"deletionTimestamp": "2020-01-01T00:00:00Z"}}));
    scene.sent();
    let denied = json!({"message": "admission webhook \"x\" denied the request: no"});
    for _ in 0..2 {
        scene.answers("DELETE deployments/a", 403, denied.clone());
    }
    let Next::In(wait) = scene.pass().await else {
        panic!("it waits")
    };
    assert!(wait <= Duration::from_secs(5), "{wait:?}");
    let sent = scene.sent();
    assert!(!sent.contains(&"PATCH mcpservers/a".to_owned()), "{sent:?}");
    let long_ago = Instant::now().checked_sub(Duration::from_secs(30)).unwrap();
    scene.context.memories.of(&scene.key, "u", |memory| {
        memory.deleting_since = Some(long_ago);
    });
    assert_eq!(scene.pass().await, Next::OnChange);
    let sent = scene.sent();
    assert!(sent.contains(&"PATCH mcpservers/a".to_owned()), "{sent:?}");
    assert!(scene.context.servers.get(&scene.key).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_deletion_ends_at_its_limit_also_when_nothing_is_answered() {
    let scene = Scene::new(&json!({}));
    scene.pass().await;
    scene.shows(&json!({"metadata": {"deletionTimestamp": "2020-01-01T00:00:00Z"}}));
    scene.sent();
    scene.answers("PATCH mcpservers/a/status", SILENT, json!({}));
    let begun = tokio::time::Instant::now();
    scene.pass().await;
    assert_eq!(
        begun.elapsed().as_secs(),
        30,
        "not for the status, the mark and the deletion each"
    );
}

#[tokio::test]
async fn what_changed_while_the_status_was_written_gets_a_pass_at_once() {
    let scene = Scene::new(&json!({}));
    scene.pass().await;
    scene.sent();
    // Somebody changes the spec; the watch is slow, and the answer to our own write is the first to show it.
    scene.shows(&json!({"status": {}}));
    let mut changed = lock(&scene.script.objects)["mcpservers/a"].clone();
    json_patch::merge(
        &mut changed,
        &json!({"metadata": {"generation": 2, "resourceVersion": "1000"}, "spec": {"image": "x:2"}}),
    );
    scene.answers("PATCH mcpservers/a/status", 200, changed.clone());
    assert_eq!(scene.pass().await, Next::In(Duration::ZERO));
    let view = ServerView::read(&changed.to_string()).unwrap();
    assert!(
        scene.context.servers.shown(&scene.key, view).is_none(),
        "the watch has no news"
    );
    scene.sent();
    scene.pass().await;
    assert!(scene.sent().contains(&"PATCH deployments/a".to_owned()));
}

#[tokio::test]
async fn a_strangers_object_that_comes_into_view_makes_no_hot_loop() {
    let scene = Scene::new(&json!({}));
    scene.answers("POST deployments", 409, already_exists());
    let stranger = json!({"metadata": {"name": "a", "namespace": "n", "uid": "other", "resourceVersion": "1"}});
    scene.answers("GET deployments/a", 200, stranger.clone());
    scene.pass().await;
    let view = ChildView::read(&stranger.to_string()).unwrap();
    scene.context.deployments.shown(&scene.key, view);
    assert_eq!(scene.pass().await, Next::In(NOT_READY_LOOK));
    let place = ("Deployment", scene.key.clone());
    assert_eq!(
        scene.context.refusals.conflict_left(&place, Instant::now()),
        None
    );
}

#[tokio::test]
async fn what_may_pass_soonest_says_when_to_try_again_and_all_faults_are_told() {
    let scene = Scene::new(&json!({}));
    let denied = json!({"message": "deployments is forbidden: User \"x\" cannot create"});
    scene.answers("POST deployments", 403, denied);
    scene.answers("POST services", 503, json!({"message": "away"}));
    assert_eq!(scene.pass().await, Next::In(Duration::from_secs(1)));
    let scene = Scene::new(&json!({}));
    scene.answers("POST deployments", 503, json!({"message": "away"}));
    let denied = json!({"message": "admission webhook \"x\" denied the request: no"});
    scene.answers("POST services", 403, denied);
    assert_eq!(scene.pass().await, Next::In(Duration::from_secs(1)));
    assert_eq!(scene.status().phase, Some(Phase::Failed));
    assert!(scene.ready().contains("denied the request: no"));

    // Each is told, also the one that does not say when to try again.
    let scene = Scene::new(&json!({}));
    let denied = json!({"message": "services is forbidden: User \"x\" cannot create"});
    scene.answers("POST services", 403, denied);
    scene.answers("POST deployments", 503, json!({"message": "away"}));
    let error = pass(&scene.key, &scene.context).await.unwrap_err();
    assert_eq!(error.class(), Class::Permanent);
    assert_eq!(error.retry_after(1), Duration::from_secs(1));
    failed(&scene.key, &error, &scene.context);
    let told = |memory: &mut crate::controller::memory::Memory| memory.told_failures.clone();
    let told = scene.context.memories.of(&scene.key, "u", told);
    assert_eq!(
        Vec::from_iter(told),
        ["creating Service a Some(403)"],
        "what may be over in a moment is not told yet"
    );
}

#[tokio::test]
async fn a_policy_that_refuses_a_change_is_not_asked_about_a_repair() {
    let scene = Scene::new(&with_config());
    scene.answers("POST configmaps", 409, already_exists());
    let changed = json!({"data": {"K": "w"}, "immutable": true});
    scene.answers(
        "GET configmaps/a-config",
        200,
        scene.stored::<ConfigMap>(&changed),
    );
    let denied = json!({"message": "configmaps \"a-config\" is forbidden: ValidatingAdmissionPolicy 'p' denied request: no"});
    scene.answers("PATCH configmaps/a-config", 422, denied);
    scene.pass().await;
    let sent = scene.sent();
    assert!(
        !sent
            .iter()
            .any(|request| request.starts_with("DELETE") || request.starts_with("PUT")),
        "{sent:?}"
    );
}
