//! Connections that are slow, idle, dead or too many.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::Method;
use hyper::body::{Bytes, Frame};
use rustls::ProtocolVersion;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use webhook::{Limits, TlsVersions, Verdict};

use crate::support::{
    By, Dialer, PATIENCE, allow, body, get, http1_answer, http2_answer, post, request, start,
    start_with,
};

const SHORT: Duration = Duration::from_millis(300);

/// What comes until the connection ends, which must not be before `SHORT` after `begun`.
async fn read_until_cut(begun: Instant, stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut received = Vec::new();
    // An end without TLS's farewell is reported as an error, a reset too.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut received))
        .await
        .unwrap();
    assert!(begun.elapsed() >= SHORT, "{:?}", begun.elapsed());
    received
}

#[tokio::test]
async fn tls_1_2_is_spoken_only_if_asked_for() {
    for (versions, spoken) in [(TlsVersions::Tls13, false), (TlsVersions::Tls12And13, true)] {
        let server = start_with(versions, Limits::default(), |server| {
            server.handler(allow())
        })
        .await;
        assert_eq!(server.dialer().tls_1_2().await.is_ok(), spoken);
        let stream = server.tls("h2").await;
        assert_eq!(
            stream.get_ref().1.protocol_version(),
            Some(ProtocolVersion::TLSv1_3)
        );
    }
}

#[tokio::test]
async fn who_does_not_shake_hands_is_cut() {
    let limits = Limits {
        handshake_time: SHORT,
        ..Limits::default()
    };
    let server = start(limits, |server| server.handler(allow())).await;
    let begun = Instant::now();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    assert!(read_until_cut(begun, &mut stream).await.is_empty());
    server.assert_lives().await;
}

#[tokio::test]
async fn who_sends_no_request_is_cut() {
    let limits = Limits {
        header_time: SHORT,
        ..Limits::default()
    };
    let server = start(limits, |server| server.handler(allow())).await;
    for (protocol, sent) in [
        ("http/1.1", ""),
        ("http/1.1", "POST /allow HTTP/1.1\r\nHost: local"),
        ("h2", ""),
        ("h2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
    ] {
        let begun = Instant::now();
        let mut stream = server.tls(protocol).await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        let received = read_until_cut(begun, &mut stream).await;
        assert!(
            !received.starts_with(b"HTTP/1.1 200"),
            "{protocol} {sent:?}"
        );
    }
    server.assert_lives().await;
}

#[tokio::test]
async fn who_sends_headers_byte_by_byte_is_cut() {
    let limits = Limits {
        header_time: SHORT,
        ..Limits::default()
    };
    let server = start(limits, |server| server.handler(allow())).await;
    let begun = Instant::now();
    let (mut reader, mut writer) = tokio::io::split(server.tls("http/1.1").await);
    let drips = tokio::spawn(async move {
        // More slowly than the limit in all, but never long without a byte.
        let mut ticks = tokio::time::interval(SHORT / 20);
        for byte in b"GET /healthz HTTP/1.1\r\nX: "
            .iter()
            .chain(std::iter::repeat(&b'x'))
        {
            ticks.tick().await;
            if writer.write_all(&[*byte]).await.is_err() {
                return;
            }
        }
    });
    assert!(read_until_cut(begun, &mut reader).await.is_empty());
    drips.abort();
}

#[tokio::test]
async fn a_later_request_has_the_same_time_for_its_headers() {
    let limits = Limits {
        header_time: SHORT,
        ..Limits::default()
    };
    let server = start(limits, |server| server.handler(allow())).await;
    let mut stream = server.tls("http/1.1").await;
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 15];
    timeout(PATIENCE, stream.read_exact(&mut first))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    // The rest of the first answer, or else the server would only now be idle.
    let mut rest = Vec::new();
    while !rest.ends_with(b"\r\n\r\nok") {
        rest.push(stream.read_u8().await.unwrap());
    }
    let begun = Instant::now();
    stream.write_all(b"GET /healthz HT").await.unwrap();
    assert!(read_until_cut(begun, &mut stream).await.is_empty());
}

#[tokio::test]
async fn a_slow_body_is_answered_with_408() {
    let limits = Limits {
        request_time: SHORT,
        ..Limits::default()
    };
    let server = start(limits, |server| server.handler(allow())).await;
    let never_ending = || {
        let begun = Ok(Frame::data(Bytes::from_static(b"{")));
        BodyExt::boxed(StreamBody::new(
            stream::iter([begun]).chain(stream::pending()),
        ))
    };
    let request = || request(Method::POST, "/allow", never_ending());
    let h1 = http1_answer(&mut server.http1().await, request()).await;
    let h2 = http2_answer(&server.http2().await, request()).await;
    for answer in [h1, h2] {
        answer.refusal(408, "Timeout");
    }

    let begun = Instant::now();
    let mut stream = server.tls("http/1.1").await;
    let head = "POST /allow HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Content-Length: 10\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_until_cut(begun, &mut stream).await;
    assert!(
        answer.starts_with(b"HTTP/1.1 408"),
        "and the connection is closed"
    );
    server.assert_lives().await;
}

#[tokio::test]
async fn an_idle_connection_that_has_made_a_request_stays() {
    // Long enough for what is done between two waits, on a busy machine too.
    let time = Duration::from_secs(2);
    let limits = Limits {
        header_time: time,
        handshake_time: time,
        request_time: time,
        ping_time: time,
        ..Limits::default()
    };
    let server = start(limits, |server| server.handler(allow())).await;
    let mut h1 = server.http1().await;
    http1_answer(&mut h1, post("/allow", body("0")))
        .await
        .review("0");
    let h2 = server.http2().await;
    for uid in ["1", "2"] {
        http1_answer(&mut h1, post("/allow", body(uid)))
            .await
            .review(uid);
        http2_answer(&h2, post("/allow", body(uid)))
            .await
            .review(uid);
        // That nothing happens can only be waited for by the clock.
        tokio::time::sleep(time * 2).await;
        assert!(!h1.is_closed() && !h2.is_closed());
    }
}

#[tokio::test]
async fn an_http1_connection_does_not_idle_forever() {
    let limits = Limits {
        idle_time: SHORT,
        ..Limits::default()
    };
    let server = start(limits, |server| server.handler(allow())).await;
    let mut stream = server.tls("http/1.1").await;
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    // Closed in order: an end without TLS's farewell would be an error.
    timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
}

/// Asks until there is an answer.
async fn until_it_lives(dialer: &Dialer) {
    let lives = async {
        while !dialer.lives().await {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, lives).await.expect("an answer in time");
}

#[tokio::test]
async fn who_says_nothing_makes_room() {
    let limits = Limits {
        connections: 2,
        handshake_time: PATIENCE,
        header_time: PATIENCE,
        ..Limits::default()
    };
    let server = start(limits, |server| server.handler(allow())).await;
    let mut bare = TcpStream::connect(server.address).await.unwrap();
    let silent = server.tls("h2").await;
    until_it_lives(&server.dialer()).await;
    // Nothing was sent to it, so this is its end.
    assert_eq!(bare.read(&mut [0]).await.unwrap_or(0), 0);
    drop(silent);
}

#[tokio::test]
async fn idle_connections_of_one_peer_keep_nobody_out() {
    let limits = Limits {
        connections: 20,
        ..Limits::default()
    };
    let server = start(limits, |server| server.handler(allow())).await;
    let mut idle = Vec::new();
    for _ in 0..60 {
        let client = server.http2().await;
        let answer = http2_answer(&client, get("/healthz")).await;
        assert_eq!(answer.code, 200);
        idle.push(client);
    }
    let other = server.dialer().from([127, 0, 0, 2]);
    let mut kept = other.http1().await.unwrap();
    for uid in 0..50 {
        let uid = uid.to_string();
        let mut client = other.http1().await.unwrap();
        for client in [&mut client, &mut kept] {
            let answer = http1_answer(client, post("/allow", body(&uid))).await;
            assert_eq!(answer.review(&uid)["allowed"], true);
        }
    }
    let open = idle.iter().filter(|client| !client.is_closed()).count();
    assert!(open <= 20, "{open} of 60 are open");
}

#[tokio::test]
async fn a_dead_http2_peer_is_noticed() {
    let limits = Limits {
        ping_time: SHORT,
        ..Limits::default()
    };
    let server = start(limits, |server| server.handler(allow())).await;
    let begun = Instant::now();
    let mut silent = server.silent_http2(Method::GET, "/healthz", "").await;
    // The connection is open, but nobody answers pings on it any more.
    read_until_cut(begun, &mut silent).await;
    server.assert_lives().await;
}

#[tokio::test]
async fn who_does_not_read_the_answer_is_cut() {
    let limits = Limits {
        connections: 1,
        request_time: SHORT,
        ping_time: PATIENCE,
        ..Limits::default()
    };
    let server = start(limits, |server| {
        server.handler(By("/long", |_| Verdict::Allow {
            warnings: vec!["x".repeat(64 << 20)],
        }))
    })
    .await;
    // The only place is taken, so whoever comes next waits for the end of the one before.
    for protocol in ["http/1.1", "h2"] {
        let body = body("1");
        let stream = if protocol == "h2" {
            server.silent_http2(Method::POST, "/long", &body).await
        } else {
            let mut stream = server.tls(protocol).await;
            let request = format!(
                "POST /long HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            stream
        };
        until_it_lives(&server.dialer()).await;
        drop(stream);
    }
}
