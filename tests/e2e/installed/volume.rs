//! Secrets as a pod's volumes: files that follow the Secret.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::pin;

use anyhow::{Context, Result};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::mount::Mount;

/// The volumes of a pod's first container; they follow their Secrets until this is dropped.
pub struct Volumes {
    /// Where the container sees each, and where it is.
    folders: Vec<(String, PathBuf)>,
    tasks: JoinSet<()>,
}

impl Volumes {
    /// Mounts them within a folder of the pod's own. Waits until all Secrets are there, as a kubelet does
    /// before it starts a container.
    pub async fn mount(client: &Client, namespace: &str, pod: &Pod, within: &Path) -> Result<Self> {
        let spec = pod.spec.as_ref().context("a pod without spec")?;
        let container = spec.containers.first().context("a pod without container")?;
        let mut volumes = Self {
            folders: Vec::new(),
            tasks: JoinSet::new(),
        };
        let mut filled = Vec::new();
        for volume in spec.volumes.iter().flatten() {
            let Some(secret) = volume.secret.as_ref().and_then(|s| s.secret_name.clone()) else {
                continue;
            };
            let seen = container
                .volume_mounts
                .iter()
                .flatten()
                .find(|mount| mount.name == volume.name)
                .with_context(|| format!("the volume {} is mounted nowhere", volume.name))?;
            let folder = within.join(&volume.name);
            std::fs::create_dir_all(within)?;
            let mount = Mount::new(folder.clone())?;
            let (tell, told) = watch::channel(false);
            let api = Api::namespaced(client.clone(), namespace);
            volumes.tasks.spawn(async move {
                if let Err(error) = follow(api, &secret, mount, tell).await {
                    // Whoever waits for the files sees the sender go.
                    eprintln!("the files of Secret {secret} are as they were: {error:#}");
                }
            });
            volumes.folders.push((seen.mount_path.clone(), folder));
            filled.push(told);
        }
        for mut told in filled {
            let filled = told.wait_for(|filled| *filled).await;
            filled.context("a volume could not be filled")?;
        }
        Ok(volumes)
    }

    /// A path within a mounted volume, as it is on this machine; any other as it was.
    pub fn path(&self, path: &str) -> String {
        let within = |(mounted, folder): &(String, PathBuf)| {
            let rest = Path::new(path).strip_prefix(mounted).ok()?;
            Some(folder.join(rest).display().to_string())
        };
        let found = self.folders.iter().find_map(within);
        found.unwrap_or_else(|| path.to_owned())
    }
}

/// Writes what the Secret holds whenever that is something else than before. One that is deleted leaves the
/// files as they are.
async fn follow(
    api: Api<Secret>,
    name: &str,
    mut mount: Mount,
    filled: watch::Sender<bool>,
) -> Result<()> {
    let mut written = BTreeMap::new();
    let mut seen = pin!(watch_object(api, name).default_backoff());
    while let Some(secret) = seen.next().await {
        let data = match secret {
            Ok(Some(secret)) => secret.data.unwrap_or_default(),
            Ok(None) => continue,
            Err(error) => {
                eprintln!("watching Secret {name}: {error}");
                continue;
            }
        };
        if data == written {
            continue;
        }
        let files = data
            .iter()
            .map(|(file, bytes)| Ok((file.as_str(), std::str::from_utf8(&bytes.0)?)))
            .collect::<Result<Vec<_>>>()?;
        mount.swap(&files)?;
        written = data;
        filled.send_replace(true);
    }
    Ok(())
}
