//! More reviews than the server takes at once, and handlers that are slow.

use std::time::Duration;

use futures::future::join_all;
use hyper::header::RETRY_AFTER;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use webhook::Limits;

use crate::support::{
    Gate, PATIENCE, allow, body, http1_answer, http2_answer, post, review, start,
};

#[tokio::test]
async fn more_reviews_than_allowed_at_once_wait_their_turn() {
    let gate = Gate::closed();
    let handler = gate.clone();
    let limits = Limits {
        // Of which one peer has two.
        concurrent: 10,
        ..Limits::default()
    };
    let server = start(limits, |server| server.handler(handler)).await;
    let client = server.http2().await;
    let opens = async {
        gate.holds(2).await;
        gate.open();
    };
    let uids: Vec<String> = (0..50).map(|uid| uid.to_string()).collect();
    let requests = uids
        .iter()
        .map(|uid| http2_answer(&client, post("/gate", body(uid))));
    let (answers, ()) = tokio::join!(join_all(requests), opens);
    for (answer, uid) in answers.iter().zip(&uids) {
        assert_eq!(answer.review(uid)["allowed"], true);
    }
    assert_eq!(gate.most(), 2);
}

#[tokio::test]
async fn who_waits_too_long_is_told_to_come_again() {
    let gate = Gate::closed();
    let handler = gate.clone();
    let limits = Limits {
        // Of which one peer has two.
        concurrent: 10,
        request_time: Duration::from_millis(500),
        ..Limits::default()
    };
    let server = start(limits, |server| server.handler(handler)).await;
    let client = server.http2().await;
    let requests = (0..4).map(|_| http2_answer(&client, post("/gate", body("1"))));
    let mut answers = join_all(requests).await;
    answers.sort_by_key(|answer| answer.code);
    // All four began within moments, so a slot that is freed comes too late for the other two,
    // unless the machine is slow: then it is a review, denied for the same want of time.
    let (reviewed, sent_away) = answers.split_at(answers.partition_point(|a| a.code == 200));
    assert!(reviewed.len() >= 2 && gate.most() == 2);
    for answer in reviewed {
        let status = &answer.review("1")["status"];
        assert_eq!(
            (&status["code"], &status["reason"]),
            (&json!(504), &json!("Timeout"))
        );
    }
    for answer in sent_away {
        answer.refusal(429, "TooManyRequests");
        assert_eq!(answer.headers[RETRY_AFTER], "1");
    }
    gate.open();
    assert_eq!(
        http2_answer(&client, post("/gate", body("2")))
            .await
            .review("2")["allowed"],
        true
    );
}

/// A handler that takes its time, and a peer that asks for it again and again.
#[tokio::test]
async fn one_peer_whose_reviews_take_long_keeps_no_other_waiting() {
    let gate = Gate::closed();
    let (handler, quick) = (gate.clone(), allow());
    let limits = Limits {
        concurrent: 10,
        ..Limits::default()
    };
    let server = start(limits, |server| server.handler(handler).handler(quick)).await;
    let greedy = server.http2().await;
    let requests = (0..50).map(|_| http2_answer(&greedy, post("/gate", body("1"))));
    let other = async {
        gate.holds(2).await;
        let other = server.dialer().from([127, 0, 0, 2]);
        let mut other = other.http1().await.unwrap();
        // It is answered while the others wait.
        let answer = http1_answer(&mut other, post("/allow", body("2"))).await;
        assert_eq!(answer.review("2")["allowed"], true);
        gate.open();
    };
    tokio::join!(join_all(requests), other);
}

#[tokio::test]
async fn bodies_share_the_memory_for_them() {
    let gate = Gate::closed();
    let handler = gate.clone();
    let limits = Limits {
        body: 100_000,
        memory: 150_000,
        ..Limits::default()
    };
    let server = start(limits, |server| server.handler(handler)).await;
    let big = review("1", &json!({ "data": "x".repeat(90_000) })).to_string();
    let client = server.http2().await;
    let opens = async {
        gate.holds(1).await;
        gate.open();
    };
    let requests = (0..5).map(|_| http2_answer(&client, post("/gate", big.clone())));
    let (answers, ()) = tokio::join!(join_all(requests), opens);
    for answer in answers {
        assert_eq!(answer.review("1")["allowed"], true);
    }
    assert_eq!(gate.most(), 1);
}

#[tokio::test]
async fn slow_uploads_of_one_peer_keep_nobody_out() {
    let limits = Limits {
        body: 100_000,
        memory: 200_000,
        requests: 40,
        ..Limits::default()
    };
    let server = start(limits, |server| server.handler(allow())).await;
    // Each sends most of what it announces, and then nothing.
    let mut slow = Vec::new();
    for _ in 0..30 {
        let mut stream = server.tls("http/1.1").await;
        let head = "POST /allow HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                    Content-Length: 90000\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b' '; 60_000]).await.unwrap();
        slow.push(stream);
    }
    let other = server.dialer().from([127, 0, 0, 2]);
    let mut client = other.http1().await.unwrap();
    for uid in 0..50 {
        let uid = uid.to_string();
        let object = json!({ "data": "x".repeat(20_000) });
        let answer = http1_answer(
            &mut client,
            post("/allow", review(&uid, &object).to_string()),
        )
        .await;
        assert_eq!(answer.review(&uid)["allowed"], true);
    }
    // They are still there: each is answered, in the end.
    for mut stream in slow {
        let mut answer = String::new();
        let _ = timeout(PATIENCE, stream.read_to_string(&mut answer))
            .await
            .unwrap();
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_its_turn_to_others() {
    let gate = Gate::closed();
    let handler = gate.clone();
    let limits = Limits {
        concurrent: 1,
        ..Limits::default()
    };
    let server = start(limits, |server| server.handler(handler)).await;
    let mut client = server.http2().await;
    let abandoned = tokio::spawn(client.send_request(post("/gate", body("1"))));
    gate.holds(1).await;
    abandoned.abort();
    drop(client);
    gate.holds(0).await;
    gate.open();
    let answer = http1_answer(&mut server.http1().await, post("/gate", body("2"))).await;
    assert_eq!(answer.review("2")["allowed"], true);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let gate = Gate::closed();
    gate.open();
    let server = start(Limits::default(), |server| server.handler(gate)).await;
    let mut stream = server.tls("http/1.1").await;
    for uid in 0..20 {
        let close = if uid == 19 { "close" } else { "keep-alive" };
        let body = body(&uid.to_string());
        let request = format!(
            "POST /gate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Connection: {close}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
    }
    let mut answers = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answers))
        .await
        .unwrap()
        .unwrap();
    let uids: Vec<&str> = answers
        .split("\"uid\":\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
        .collect();
    let sent: Vec<String> = (0..20).map(|uid| uid.to_string()).collect();
    assert_eq!(uids, sent);
}
