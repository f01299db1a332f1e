use serde_json::json;

use super::*;
use crate::controller::events::deleted;
use crate::fence::NotLeading;

fn server() -> ServerView {
    ServerView::read(
        &json!({"metadata": {"name": "a", "namespace": "team", "uid": "1-2-3"}}).to_string(),
    )
    .unwrap()
}

/// Instead of an answer: the fence lets nothing through.
const FENCED: u16 = 0;

/// An API server that answers Events as these say, and then with the last; and whose names it was sent.
fn api_server(
    answers: &[(u16, &'static str)],
) -> (Publisher, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let (sent, names) = tokio::sync::mpsc::unbounded_channel();
    let answers = std::sync::Arc::new(std::sync::Mutex::new(answers.to_vec()));
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let (sent, answers) = (sent.clone(), answers.clone());
        async move {
            let body = request.into_body().collect_bytes().await.unwrap();
            let event: serde_json::Value = serde_json::from_slice(&body).unwrap();
            sent.send(event["metadata"]["name"].as_str().unwrap().to_owned())
                .unwrap();
            let (code, message) = {
                let mut answers = answers.lock().unwrap();
                match answers.len() {
                    1 => answers[0],
                    _ => answers.remove(0),
                }
            };
            let answer = match code {
                FENCED => return Err(tower::BoxError::from(NotLeading)),
                201 => event,
                _ => serde_json::json!({
                    "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message,
                }),
            };
            let body = kube::client::Body::from(answer.to_string().into_bytes());
            let answer = http::Response::builder().status(code).body(body);
            Ok::<_, tower::BoxError>(answer.unwrap())
        }
    });
    let client = Client::new(service, "default");
    let publisher = Publisher::new(None);
    tokio::spawn(publisher.clone().run(client));
    (publisher, names)
}

#[tokio::test(start_paused = true)]
async fn an_event_is_tried_a_few_times_where_that_may_help() {
    type Case<'a> = (&'a str, &'a [(u16, &'static str)], usize);
    let table: [Case; 7] = [
        ("published", &[(201, "")], 1),
        ("there already", &[(409, "exists")], 1),
        (
            "away for a moment",
            &[(503, "away"), (500, "ill"), (201, "")],
            3,
        ),
        (
            "published, and the answer lost",
            &[(504, "late"), (409, "exists")],
            2,
        ),
        ("no leader any more", &[(503, "away"), (FENCED, "")], 2),
        ("no right", &[(403, "is forbidden")], 1),
        ("no room, for long", &[(403, "exceeded quota: events")], 5),
    ];
    for (what, answers, times) in table {
        let (publisher, mut names) = api_server(answers);
        let news = deleted(0);
        publisher.publish(&server(), &news);
        tokio::time::sleep(Duration::from_hours(1)).await;
        let mut sent = Vec::new();
        while let Ok(name) = names.try_recv() {
            sent.push(name);
        }
        let name = news
            .event(&server(), "", Timestamp::UNIX_EPOCH)
            .metadata
            .name
            .unwrap();
        assert_eq!(sent, vec![name; times], "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_published_waits_in_a_bounded_queue() {
    let hangs = tower::service_fn(|_: http::Request<kube::client::Body>| {
        std::future::pending::<Result<http::Response<kube::client::Body>, tower::BoxError>>()
    });
    let publisher = Publisher::new(None);
    tokio::spawn(publisher.clone().run(Client::new(hangs, "default")));
    for _ in 0..WAITING + 100 {
        publisher.publish(&server(), &deleted(0));
        tokio::task::yield_now().await;
    }
    assert_eq!(lock(&publisher.0.waiting).len(), WAITING);
    let begun = tokio::time::Instant::now();
    publisher.flush(Duration::from_secs(2)).await;
    assert_eq!(
        begun.elapsed(),
        Duration::from_secs(2),
        "they are not waited for any longer"
    );
}

#[tokio::test(start_paused = true)]
async fn what_waits_at_the_end_is_published_yet() {
    let (publisher, mut names) = api_server(&[(503, "away"), (201, "")]);
    publisher.publish(&server(), &deleted(0));
    publisher.flush(Duration::from_secs(2)).await;
    assert!(
        names.try_recv().is_ok() && names.try_recv().is_ok(),
        "tried twice"
    );
    let begun = tokio::time::Instant::now();
    publisher.flush(Duration::from_secs(2)).await;
    assert_eq!(begun.elapsed(), Duration::ZERO, "nothing waits any more");
}

#[tokio::test(start_paused = true)]
async fn events_that_hang_in_one_namespace_leave_room_to_the_others() {
    let (sent, mut names) = tokio::sync::mpsc::unbounded_channel();
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let hangs = request.uri().path().contains("/namespaces/hangs/");
        let sent = sent.clone();
        async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            sent.send(()).unwrap();
            let body = request.into_body().collect_bytes().await?;
            let answer = http::Response::builder().status(201);
            Ok::<_, tower::BoxError>(answer.body(kube::client::Body::from(body.to_vec()))?)
        }
    });
    let publisher = Publisher::new(None);
    tokio::spawn(publisher.clone().run(Client::new(service, "default")));
    let of = |namespace: &str| {
        let object = json!({"metadata": {"name": "a", "namespace": namespace, "uid": "u"}});
        ServerView::read(&object.to_string()).unwrap()
    };
    for _ in 0..50 {
        publisher.publish(&of("hangs"), &deleted(0));
    }
    publisher.publish(&of("works"), &deleted(0));
    let told = tokio::time::timeout(Duration::from_secs(1), names.recv()).await;
    assert_eq!(told, Ok(Some(())));
}
