//! One cluster for all tests of a binary, and what is left when the binary ends.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod left;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use cluster::shared;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, PostParams};
use left::nothing_left;
use serde_json::json;

/// Names the file in which a child process notes its cluster's folder.
const NOTE: &str = "CLUSTER_TEST_NOTE";

async fn use_it(name: &str) -> PathBuf {
    let cluster = shared().unwrap();
    let namespaces: Api<Namespace> = Api::all(cluster.new_client().await.unwrap());
    let namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .unwrap();
    namespaces.get("default").await.unwrap();
    cluster.folder().to_owned()
}

#[tokio::test]
async fn each_test_with_its_own_runtime_has_the_same_cluster() {
    let mine = use_it("one").await;
    assert_eq!(mine, shared().unwrap().folder());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_kind_of_runtime_too() {
    use_it("two").await;
}

/// Even the cluster's own client serves other runtimes, as its worker lives on.
#[tokio::test]
async fn the_own_client_works_too() {
    let client = shared().unwrap().client();
    client.apiserver_version().await.unwrap();
}

/// Not a test: what the next ones run.
#[tokio::test]
#[ignore = "run by the tests below, in processes of their own"]
async fn child_that_ends() {
    let folder = use_it("child").await;
    std::fs::write(std::env::var(NOTE).unwrap(), folder.to_str().unwrap()).unwrap();
}

/// Not a test: what the next ones run.
#[tokio::test]
#[ignore = "run by the tests below, in processes of their own"]
async fn child_that_panics() {
    let folder = use_it("child").await;
    std::fs::write(std::env::var(NOTE).unwrap(), folder.to_str().unwrap()).unwrap();
    panic!("on purpose");
}

/// Runs one of the above, and checks that nothing is left.
async fn run(test: &str, success: bool) {
    let scratch = tempfile::tempdir().unwrap();
    let note = scratch.path().join("note");
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored"])
        .env(NOTE, &note)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.success(), success);
    let folder = PathBuf::from(std::fs::read_to_string(&note).unwrap());
    nothing_left(&folder).await;
}

#[tokio::test]
async fn nothing_is_left_when_the_process_ends() {
    run("child_that_ends", true).await;
}

#[tokio::test]
async fn nothing_is_left_when_a_test_panics() {
    run("child_that_panics", false).await;
}
