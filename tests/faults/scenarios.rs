//! What users do, each as a sentence: what there is before, and the act.

use anyhow::Result;
use futures::FutureExt;
use futures::future::BoxFuture;
use kube::api::{DeleteParams, PropagationPolicy};
use serde_json::{Value, json};

use crate::room::Room;
use crate::state::State;

type Step = for<'a> fn(&'a Room) -> BoxFuture<'a, Result<()>>;

/// Something that is done to a room.
pub struct Scenario {
    pub name: &'static str,
    /// What is there when it begins.
    pub before: Step,
    /// What is done then.
    pub act: Step,
    /// Whether the state is one that it may end in: where the status says nothing of it, that all is settled is not enough.
    pub ends: fn(&State) -> bool,
}

/// The status is about the new spec.
fn settled(_: &State) -> bool {
    true
}

fn gone(state: &State) -> bool {
    !state.contains_key("MCPServer a")
}

/// What was changed by hand, or stood in the way, is the operator's again.
fn as_it_was(state: &State) -> bool {
    let found =
        |key: &str, pointer: &str| state.get(key).and_then(|object| object.pointer(pointer));
    found("ConfigMap a-config", "/data/GREETING").is_some()
        && found("Service a", "/spec/ports/0/port") == Some(&json!(8080))
        && found("Service a", "/metadata/ownerReferences/0").is_some()
        && found("Deployment a", "/spec/replicas") == Some(&json!(2))
        && found("Deployment a", "/spec/template/spec/containers/0/image")
            == Some(&json!("example.com/a:1"))
}

/// A server with a child of each kind.
fn whole() -> Value {
    json!({
        "image": "example.com/a:1", "replicas": 2, "config": {"GREETING": "hello"},
        "disruptionBudget": {"maxUnavailable": 1}, "health": {"type": "TCP"},
    })
}

fn nothing(_: &Room) -> BoxFuture<'_, Result<()>> {
    async { Ok(()) }.boxed()
}

fn there_is_one(room: &Room) -> BoxFuture<'_, Result<()>> {
    room.create("a", whole()).boxed()
}

macro_rules! patches {
    ($room:ident, $patch:tt) => {{
        fn act($room: &Room) -> BoxFuture<'_, Result<()>> {
            $room.patch("a", json!($patch)).boxed()
        }
        act
    }};
}

fn drift(room: &Room) -> BoxFuture<'_, Result<()>> {
    async {
        let service = r#"{"metadata": {"ownerReferences": null}, "spec": {"ports": [{"name": "mcp", "port": 81}],
            "selector": {"app.kubernetes.io/instance": "other"}}}"#;
        room.kubectl(&["patch", "service", "a", "--type=merge", "-p", service])?;
        let workload = r#"{"spec": {"replicas": 5, "template": {"spec": {"containers": [{"name": "mcp-server",
            "image": "example.com/evil:1", "env": [{"name": "KEPT", "value": "yes"}]}]}}}}"#;
        room.kubectl(&["patch", "deployment", "a", "-p", workload])?;
        room.kubectl(&["delete", "configmap", "a-config"])
    }
    .boxed()
}

fn a_stranger_and_one(room: &Room) -> BoxFuture<'_, Result<()>> {
    async {
        room.kubectl(&[
            "create",
            "configmap",
            "a-config",
            "--from-literal=theirs=yes",
        ])?;
        room.kubectl(&["create", "service", "clusterip", "a", "--tcp=80"])?;
        room.create("a", whole()).await
    }
    .boxed()
}

fn the_stranger_goes(room: &Room) -> BoxFuture<'_, Result<()>> {
    async {
        room.kubectl(&["delete", "configmap/a-config", "service/a"])?;
        // Otherwise it would be looked at after 10 s, then 20.
        let now = r#"{"metadata": {"annotations": {"mcp.example.com/reconcile-at": "now"}}}"#;
        room.kubectl(&["patch", "mcps", "a", "--type=merge", "-p", now])
    }
    .boxed()
}

fn deleted(room: &Room, policy: PropagationPolicy) -> BoxFuture<'_, Result<()>> {
    async move {
        let by = DeleteParams {
            propagation_policy: Some(policy),
            ..DeleteParams::default()
        };
        room.servers().delete("a", &by).await?;
        Ok(())
    }
    .boxed()
}

/// All of them.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "a server is created",
        before: nothing,
        act: there_is_one,
        ends: settled,
    },
    Scenario {
        name: "it is scaled",
        before: there_is_one,
        act: patches!(room, {"spec": {"replicas": 4}}),
        ends: settled,
    },
    Scenario {
        name: "its config changes",
        before: there_is_one,
        act: patches!(room, {"spec": {"config": {"GREETING": "good day", "MORE": "yes"}}}),
        ends: settled,
    },
    Scenario {
        name: "its config is taken away",
        before: there_is_one,
        act: patches!(room, {"spec": {"config": null}}),
        ends: settled,
    },
    Scenario {
        name: "its image changes",
        before: there_is_one,
        act: patches!(room, {"spec": {"image": "example.com/a:2"}}),
        ends: settled,
    },
    Scenario {
        name: "it becomes a stdio server",
        before: there_is_one,
        act: patches!(room, {"spec": {"transport": "stdio", "replicas": 1, "health": null, "disruptionBudget": null}}),
        ends: settled,
    },
    Scenario {
        name: "all its children are changed by hand",
        before: there_is_one,
        act: drift,
        ends: as_it_was,
    },
    Scenario {
        name: "strangers with its children's names go away",
        before: a_stranger_and_one,
        act: the_stranger_goes,
        ends: as_it_was,
    },
    Scenario {
        name: "its spec becomes invalid",
        before: there_is_one,
        act: patches!(room, {"spec": {"config": {"SESSION_TIMEOUT": "banana"}}}),
        ends: settled,
    },
    Scenario {
        name: "it is deleted",
        before: there_is_one,
        act: |room| deleted(room, PropagationPolicy::Background),
        ends: gone,
    },
    Scenario {
        name: "it is deleted in the foreground",
        before: there_is_one,
        act: |room| deleted(room, PropagationPolicy::Foreground),
        ends: gone,
    },
    Scenario {
        name: "it is deleted, and its children are to stay",
        before: there_is_one,
        act: |room| deleted(room, PropagationPolicy::Orphan),
        ends: gone,
    },
];
