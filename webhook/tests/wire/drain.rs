//! Shutting down without dropping anything.

use std::time::{Duration, Instant};

use hyper::Method;
use tokio::net::TcpStream;
use tokio::time::timeout;
use webhook::{Error, Limits};

use crate::support::{Gate, PATIENCE, allow, body, get, http1_answer, http2_answer, post, start};

#[tokio::test]
async fn what_is_in_flight_is_answered_and_what_comes_while_not_ready_too() {
    let gate = Gate::closed();
    let handler = gate.clone();
    let limits = Limits {
        drain: Duration::from_secs(10),
        request_time: PATIENCE,
        ..Limits::default()
    };
    let server = start(limits, |server| server.handler(handler).handler(allow())).await;
    let address = server.address;
    let dialer = server.dialer();
    let mut h1 = server.http1().await;
    let h2 = server.http2().await;
    let mut idle = server.http1().await;
    let mut used = server.http1().await;
    for client in [&mut idle, &mut used] {
        http1_answer(client, post("/allow", body("0")))
            .await
            .review("0");
    }
    let h1 = tokio::spawn(async move { http1_answer(&mut h1, post("/gate", body("1"))).await });
    let h2 = tokio::spawn(async move { http2_answer(&h2, post("/gate", body("2"))).await });
    gate.holds(2).await;

    let run = server.shut_down();
    // Not ready at once, and served still: on new connections and on old ones.
    let not_ready = async {
        loop {
            let mut client = dialer.http1().await.unwrap();
            let answer = http1_answer(&mut client, get("/readyz")).await;
            if answer.code == 503 {
                return answer.text();
            }
        }
    };
    assert_eq!(timeout(PATIENCE, not_ready).await.unwrap(), "shutting down");
    let mut client = dialer.http1().await.unwrap();
    http1_answer(&mut client, post("/allow", body("3")))
        .await
        .review("3");
    http1_answer(&mut used, post("/allow", body("4")))
        .await
        .review("4");
    let mut another = dialer.http1().await.unwrap();
    assert_eq!(http1_answer(&mut another, get("/healthz")).await.code, 200);
    // Each answer was the last one of its connection: nobody sends a request into one that is closed later.
    for client in [&client, &used, &another] {
        let gone = async {
            while !client.is_closed() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, gone).await.unwrap();
    }
    // By their own answers and not by the end of the drain: there are new connections still.
    TcpStream::connect(address).await.unwrap();
    assert!(!idle.is_closed(), "it has been sent nothing");

    // Then no new connections, and idle ones are closed.
    let closed = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, closed).await.unwrap();
    let gone = async {
        while !idle.is_closed() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
    assert!(!run.is_finished());

    gate.open();
    assert_eq!(h1.await.unwrap().review("1")["allowed"], true);
    assert_eq!(h2.await.unwrap().review("2")["allowed"], true);
    timeout(PATIENCE, run).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn what_takes_longer_than_the_limit_is_cut_and_counted() {
    let gate = Gate::closed();
    let handler = gate.clone();
    let limits = Limits {
        drain: Duration::ZERO,
        drain_limit: Duration::from_millis(200),
        request_time: PATIENCE,
        ..Limits::default()
    };
    let server = start(limits, |server| server.handler(handler)).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = server.http1().await;
        clients.push(tokio::spawn(async move {
            client.send_request(post("/gate", body("1"))).await
        }));
    }
    gate.holds(3).await;
    let error = timeout(PATIENCE, server.shut_down())
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert!(matches!(error, Error::Cut { requests: 3, .. }), "{error}");
    assert!(
        error
            .to_string()
            .starts_with("3 requests were cut off, unanswered 200ms after")
    );
    for client in clients {
        assert!(client.await.unwrap().is_err());
    }
}

#[tokio::test]
async fn connections_without_a_request_do_not_hold_up_the_shutdown() {
    let limits = Limits {
        drain: Duration::ZERO,
        drain_limit: PATIENCE,
        // Longer than what is waited for: it is not this that ends them.
        header_time: 2 * PATIENCE,
        handshake_time: 2 * PATIENCE,
        ..Limits::default()
    };
    let server = start(limits, |server| server.handler(allow())).await;
    let mut h1 = server.http1().await;
    http1_answer(&mut h1, get("/healthz")).await;
    let fresh = server.tls("http/1.1").await;
    // An HTTP/2 peer that takes no notice of anything any more.
    let silent = server.silent_http2(Method::GET, "/healthz", "").await;
    let begun = Instant::now();
    timeout(PATIENCE, server.shut_down())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
    drop((fresh, silent));
}
