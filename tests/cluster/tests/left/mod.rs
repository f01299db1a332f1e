//! What is left of a cluster.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use cluster::eventually;

/// Command lines of living processes that mention a path.
pub fn mentioning(path: &Path) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap();
    processes
        .filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(&*path.to_string_lossy()))
        .collect()
}

/// Waits until neither a process nor the folder is left.
pub async fn nothing_left(folder: &Path) {
    eventually(
        "no process and no folder",
        Duration::from_secs(10),
        || async {
            let left = mentioning(folder);
            ensure!(left.is_empty(), "processes: {left:?}");
            ensure!(!folder.exists(), "the folder is there");
            Ok(Some(()))
        },
    )
    .await
    .unwrap();
}
