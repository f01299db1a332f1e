//! Events: every cause is told, and told once, whoever leads and however often it comes back.

use anyhow::{Result, bail};
use cluster::eventually;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt};
use mcp_operator::api::MCPServer;
use serde_json::{Value, json};

use crate::setup::{self, SOON, Space, message};

/// What has been told of a server, the oldest first; each as `REASON: NOTE`.
pub async fn told(space: &Space, server: &str) -> Result<Vec<String>> {
    let events: Api<Event> = space.api();
    let mut events = events.list(&ListParams::default()).await?.items;
    events.retain(|event| {
        let regarding = event.regarding.as_ref();
        regarding.and_then(|regarding| regarding.name.as_deref()) == Some(server)
            && event.reporting_controller.as_deref() == Some("mcp-operator")
    });
    events.sort_by_key(|event| event.event_time.as_ref().map(|time| time.0));
    let text = |event: Event| {
        assert_eq!(
            event.series,
            None,
            "nothing is counted: {}",
            event.name_any()
        );
        let (reason, note) = (
            event.reason.unwrap_or_default(),
            event.note.unwrap_or_default(),
        );
        format!("{reason}: {note}")
    };
    Ok(events.into_iter().map(text).collect())
}

fn state(state: &str) -> Value {
    let annotations = json!({cluster::fake_kubelet::ANNOTATION: state});
    json!({"podTemplate": {"metadata": {"annotations": annotations}}})
}

fn service() -> Result<Service> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": "contended"}, "spec": {"ports": [{"port": 1}]},
    }))?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_cause_is_told_once() -> Result<()> {
    let (cluster, first) = setup::start_with("operator-0", &[]).await?;
    let space = Space::within(&cluster, "events").await;

    // One reason after another, of the same kind and within minutes.
    let mut spec = state("image-pull-backoff");
    spec["image"] = json!("x:1");
    space.create("ill", spec).await?;
    let says = |text: &'static str| {
        move |server: &MCPServer| message(server, "DeploymentReady").contains(text)
    };
    space
        .until("ill", "ImagePullBackOff", says("ImagePullBackOff"))
        .await;
    // Pods are told apart by their age, in whole seconds.
    let old = space.pods_of("ill").await[0]
        .metadata
        .creation_timestamp
        .clone();
    eventually("a second has passed", SOON, || async {
        let second = Timestamp::now().as_second();
        Ok(old
            .as_ref()
            .filter(|old| old.0.as_second() < second)
            .map(|_| ()))
    })
    .await?;
    space
        .patch("ill", json!({"spec": state("crash-loop")}))
        .await?;
    space
        .until("ill", "CrashLoopBackOff", says("CrashLoopBackOff"))
        .await;
    let reasons = eventually("both causes are told", SOON, || async {
        let told = told(&space, "ill").await?;
        let reasons: Vec<_> = told
            .iter()
            .map(|text| {
                let words = text.split(": ").filter(|word| !word.starts_with("pod "));
                words.take(2).collect::<Vec<_>>().join(": ")
            })
            .collect();
        match &reasons[..] {
            [_, _, _, ..] => Ok(Some(reasons)),
            _ => bail!("{told:?}"),
        }
    })
    .await?;
    assert_eq!(
        reasons,
        [
            "Created: Created Deployment, Service",
            "NotReady: ImagePullBackOff",
            "NotReady: CrashLoopBackOff"
        ]
    );

    // The same conflict, again and again, and by another operator.
    let conflict = "NameConflict: Service \"contended\" exists and is not this MCPServer's; delete or rename one of the two";
    let services: Api<Service> = space.api();
    services.create(&PostParams::default(), &service()?).await?;
    space.create("contended", json!({"image": "x:1"})).await?;
    space
        .until_reason("contended", "Ready", "NameConflict")
        .await;
    services
        .delete("contended", &DeleteParams::default())
        .await?;
    space.until_ready("contended").await;
    first.process.signal("KILL")?;
    let servers = space.servers();
    space
        .until_object::<Service>("contended", "the operator's", |service| {
            !service.labels().is_empty()
        })
        .await;
    let second = setup::spawn_operator_at(&cluster, "operator-1", first.port, &[])?;
    setup::wait_ready(&second)?;
    // Its own Service is taken from it, for a moment.
    let orphan = json!({"metadata": {"labels": null, "ownerReferences": null}});
    services
        .patch(
            "contended",
            &Default::default(),
            &kube::api::Patch::Merge(orphan),
        )
        .await?;
    space
        .until_reason("contended", "Ready", "NameConflict")
        .await;
    services
        .delete("contended", &DeleteParams::default())
        .await?;
    space.until_ready("contended").await;
    let told_of = told(&space, "contended").await?;
    assert_eq!(
        told_of,
        [
            "Created: Created Deployment".to_owned(),
            conflict.to_owned()
        ]
    );

    servers
        .delete("contended", &DeleteParams::default())
        .await?;
    space.until_gone::<MCPServer>("contended").await;
    let last = told(&space, "contended").await?.pop();
    assert_eq!(
        last.as_deref(),
        Some("Deleted: The pods have gone; the finalizer was removed")
    );
    setup::stop(cluster).await
}
