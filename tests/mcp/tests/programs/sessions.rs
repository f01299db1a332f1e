//! Sessions and replicas: what a Service without affinity does to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use crate::run::{Server, client};

/// Forwards the first `first` connections to one server and all others to another, as a Service
/// does whose first pod has left. Its tasks end with the test's runtime.
async fn service(servers: [&Server; 2], first: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let servers = servers.map(|server| server.address.clone());
    let count = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let at = usize::from(count.fetch_add(1, Ordering::Relaxed) >= first);
            let server = servers[at].clone();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(server).await.unwrap();
                // Either side may cut the connection off.
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    format!("http://{address}")
}

async fn many(options: &[&str]) -> (i32, Value) {
    let a = Server::start(&[("POD_NAME", "a")]).await;
    let b = Server::start(&[("POD_NAME", "b")]).await;
    let url = service([&a, &b], 20).await;
    let many = ["many", &url, "whoami", "--requests", "40"];
    let said = client(&[&many[..], options].concat()).await;
    let code = said.code.unwrap();
    (code, said.json(code))
}

#[tokio::test]
async fn a_session_at_a_server_that_does_not_know_it_fails() {
    let (code, line) = many(&[]).await;
    assert_eq!(code, 1, "{line}");
    assert_eq!(line["made"], 40);
    assert!(line["answers"]["a"].as_u64() > Some(0), "{line}");
    assert_eq!(line["answers"]["b"], Value::Null);
    assert!(line["failed"].as_u64() > Some(0), "{line}");
}

#[tokio::test]
async fn a_session_can_be_started_anew() {
    let (code, line) = many(&["--reinitialize"]).await;
    assert_eq!((code, &line["failed"]), (0, &json!(0)), "{line}");
    assert!(line["answers"]["a"].as_u64() > Some(0), "{line}");
    assert!(line["answers"]["b"].as_u64() > Some(0), "{line}");
}
