//! Certificates of the real cert-manager.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cluster::eventually;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams};
use serde_json::json;

use super::release::Installed;
use crate::chart::RELEASE;
use crate::setup::SOON;

const REQUESTS: u32 = 10_000;
const USERS: u32 = 8;
const RENEWALS: usize = 3;
const LIMIT: Duration = Duration::from_mins(15);

/// Has the API server connect anew: a webhook of another name is another client of its, with connections of its
/// own. Otherwise it would keep the one that it has, and never see a renewed certificate. Everything else is as
/// in the chart's. Returns when it has asked by that name, and was answered.
async fn connects_anew(installed: &Installed, name: &str) -> Result<()> {
    let all = Api::<ValidatingWebhookConfiguration>::all(installed.client.clone());
    let mut webhook = all
        .get(RELEASE)
        .await?
        .webhooks
        .context("no webhooks")?
        .remove(0);
    webhook.name = format!("{name}.example.com");
    let resource = ApiResource::erase::<ValidatingWebhookConfiguration>(&());
    let configuration = json!({
        "apiVersion": resource.api_version, "kind": resource.kind,
        "metadata": {"name": "anew"}, "webhooks": [webhook],
    });
    let params = PatchParams::apply("test").force();
    let configurations = Api::<DynamicObject>::all_with(installed.client.clone(), &resource);
    configurations
        .patch("anew", &params, &Patch::Apply(configuration))
        .await?;
    let asked = format!(
        r#"apiserver_admission_webhook_request_total{{code="200",name="{}""#,
        webhook.name
    );
    eventually("the API server has connected anew", SOON, || async {
        let request = http::Request::get("/metrics").body(Vec::new())?;
        let metrics = installed.client.request_text(request).await?;
        if metrics.lines().any(|line| line.starts_with(&asked)) {
            return Ok(Some(()));
        }
        let about = metrics
            .lines()
            .filter(|line| line.contains("webhook_request_total"));
        bail!("{:#?}", about.collect::<Vec<_>>())
    })
    .await?;
    configurations
        .delete("anew", &DeleteParams::default())
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renews_under_load_and_writes_nothing() -> Result<()> {
    let installed = Installed::start().await?;
    let cert_manager = installed.cluster.start_cert_manager().await?;
    // A certificate is renewed 10 s after it was issued.
    let values = json!({"certificates": {
        "mode": "cert-manager",
        "certManager": {"duration": "1h", "renewBefore": "59m50s"},
    }});
    installed.install(&values).await?;
    installed.refuses_and_accepts().await?;
    let replicas = installed.replicas();
    ensure!(replicas.len() == 2, "{replicas:?}");

    let load = installed.watched_load(USERS).await?;
    for renewal in 1..=RENEWALS {
        load.until_served(1 + renewal, LIMIT).await?;
        connects_anew(&installed, &format!("renewal-{renewal}")).await?;
    }
    eventually("enough requests", LIMIT, || async {
        ensure!(load.made() >= REQUESTS, "{} requests", load.made());
        Ok(Some(()))
    })
    .await?;
    load.end("cert-manager").await?;
    installed.are_the_same(&replicas)?;
    ensure!(installed.ended().is_empty(), "{:?}", installed.ended());
    cert_manager.alive()?;
    installed.writes_no_certificate().await?;
    installed.stop().await
}
