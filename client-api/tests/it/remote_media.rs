//! Content of other servers' users: fetched once, whole, and kept.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, response::Response, routing::get};
use bytes::Bytes;
use hearth_media::MediaConfig;
use hearth_testkit::{Network, Passage, Response as Answer, TestServer, TestUser};
use http::{HeaderMap, Method, StatusCode, header};
use parking_lot::Mutex;
use ruma::{MxcUri, ServerName};
use serde_json::json;

const BASE: &str = "/_matrix/client/v1/media/download";
const FEDERATION: &str = "/_matrix/federation/v1/media/download/";
const OLD: &str = "/_matrix/media/v3/download/";

/// Two servers that federate.
struct World {
    a: TestServer,
    b: TestServer,
    network: Network,
    passages: Mutex<Vec<Passage>>,
}

impl World {
    async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    async fn start_with(change: impl Fn(&mut MediaConfig)) -> Self {
        let network = Network::new();
        let start = |name| {
            let builder = TestServer::builder().federating(name, &network);
            builder.config(|config| change(&mut config.media)).start()
        };
        let (a, b) = (start("a.test").await, start("b.test").await);
        Self { a, b, network, passages: Mutex::default() }
    }

    /// What a server has asked the other for below this path, as paths and queries.
    fn requests(&self, from: &str, path: &str) -> Vec<String> {
        let mut passages = self.passages.lock();
        passages.extend(self.network.take_passages());
        let below = |passage: &&Passage| passage.from == from && passage.path.starts_with(path);
        passages.iter().filter(below).map(|passage| passage.path.clone()).collect()
    }
}

async fn download(user: &TestUser, item: &str) -> Answer {
    user.send(Method::GET, &format!("{BASE}/{item}"), HeaderMap::new(), None).await
}

fn outcome(answer: &Answer) -> (u16, String) {
    let errcode = answer.json()["errcode"].as_str().unwrap_or_default().to_owned();
    (answer.status.as_u16(), errcode)
}

fn header_of(answer: &Answer, name: header::HeaderName) -> &str {
    answer.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
}

/// Server name and media ID of what is uploaded.
async fn upload(user: &TestUser, path: &str, kind: &str, body: Vec<u8>) -> String {
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, kind.parse().unwrap())]);
    let answer = user.send(Method::POST, path, headers, Some(body.into())).await;
    let uri = answer.json();
    let (server, id) = <&MxcUri>::from(uri["content_uri"].as_str().unwrap()).parts().unwrap();
    format!("{server}/{id}")
}

#[tokio::test]
async fn content_of_another_server_is_fetched_once_and_kept() {
    let mut world = World::start().await;
    let (ann, bob) = (world.a.register("ann").await, world.b.register("bob").await);
    let body: Vec<u8> = (0..500_000_u32).flat_map(u32::to_le_bytes).collect();
    let path = "/_matrix/media/v3/upload?filename=%C3%A4%20b.png";
    let item = upload(&ann, path, "image/png", body.clone()).await;
    let all = tokio::join!(download(&bob, &item), download(&bob, &item), download(&bob, &item));
    for answer in [all.0, all.1, all.2] {
        assert_eq!(answer.status, StatusCode::OK);
        assert!(answer.body[..] == body[..]);
        assert_eq!(header_of(&answer, header::CONTENT_TYPE), "image/png");
        let disposition = header_of(&answer, header::CONTENT_DISPOSITION);
        assert_eq!(disposition, "inline; filename*=utf-8''%C3%A4%20b.png");
    }
    assert_eq!(world.requests("b.test", FEDERATION).len(), 1);
    world.network.cut(world.a.name(), world.b.name());
    assert!(download(&bob, &item).await.body[..] == body[..]);
    world.b.restart().await;
    assert!(download(&bob, &item).await.body[..] == body[..]);
    assert_eq!(world.requests("b.test", FEDERATION).len(), 1);
}

#[tokio::test]
async fn content_that_is_not_there_is_not_found_and_servers_that_are_away_are_said_to_be() {
    let world = World::start().await;
    let bob = world.b.register("bob").await;
    let none = download(&bob, "a.test/unknown").await;
    assert_eq!(outcome(&none), (404, "M_NOT_FOUND".to_owned()));
    let away = download(&bob, "c.test/unknown").await;
    assert_eq!(away.status, StatusCode::BAD_GATEWAY);
    // Nobody is led to fetch in another's name.
    let ann = world.a.register("ann").await;
    let foreign = ann.get(&format!("{OLD}b.test/abc")).await;
    assert_eq!(foreign.0, StatusCode::NOT_FOUND);
    for path in [FEDERATION, OLD] {
        assert_eq!(world.requests("a.test", path).len(), 0);
    }
}

#[tokio::test]
async fn what_is_uploaded_later_is_waited_for() {
    let world = World::start().await;
    let (ann, bob) = (world.a.register("ann").await, world.b.register("bob").await);
    let made = ann.post_ok("/_matrix/media/v1/create", json!({})).await;
    let (server, id) = <&MxcUri>::from(made["content_uri"].as_str().unwrap()).parts().unwrap();
    let item = format!("{server}/{id}");
    let fill = async {
        while world.requests("b.test", FEDERATION).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        ann.put_ok(&format!("/_matrix/media/v3/upload/{item}"), json!({ "late": true })).await;
    };
    let (answer, ()) = tokio::join!(download(&bob, &item), fill);
    assert_eq!(answer.json(), json!({ "late": true }));
}

#[tokio::test]
async fn other_servers_wait_no_longer_for_an_upload_than_the_client() {
    let world = World::start().await;
    let (ann, bob) = (world.a.register("ann").await, world.b.register("bob").await);
    let made = ann.post_ok("/_matrix/media/v1/create", json!({})).await;
    let (server, id) = <&MxcUri>::from(made["content_uri"].as_str().unwrap()).parts().unwrap();
    let answer = download(&bob, &format!("{server}/{id}?timeout_ms=0")).await;
    assert_eq!(outcome(&answer), (504, "M_NOT_YET_UPLOADED".to_owned()));
    assert_eq!(world.requests("b.test", FEDERATION), [format!("{FEDERATION}{id}?timeout_ms=0")]);
}

/// A server that answers the first request as `first` says, and later ones as `second` does.
fn script(world: &World, name: &str, path: &str, answers: Vec<Response>) -> Arc<AtomicUsize> {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let answers = Arc::new(Mutex::new(answers.into_iter()));
    let answer = move || {
        count.fetch_add(1, Ordering::Relaxed);
        let next = answers.lock().next();
        std::future::ready(next.unwrap_or_else(|| refusal(404, "M_NOT_FOUND")))
    };
    let router = Router::new().route(path, get(answer));
    let refused = || std::future::ready(refusal(404, "M_UNRECOGNIZED"));
    world.network.attach(&ServerName::parse(name).unwrap(), router.fallback(refused));
    asked
}

fn refusal(status: u16, errcode: &str) -> Response {
    let body = json!({ "errcode": errcode, "error": "no" }).to_string();
    Response::builder().status(status).body(body.into()).unwrap()
}

fn parts(second: &str) -> Response {
    let body = format!("--xyz\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--xyz\r\n{second}");
    let kind = "multipart/mixed; boundary=xyz";
    Response::builder().header(header::CONTENT_TYPE, kind).body(body.into()).unwrap()
}

#[tokio::test]
async fn what_is_cut_short_or_nonsense_is_not_kept() {
    let world = World::start().await;
    let bob = world.b.register("bob").await;
    let nonsense = Response::builder().body("no parts at all".into()).unwrap();
    let answers = vec![
        parts("Content-Type: text/plain\r\n\r\nhalf of "),
        parts("Location: http://c.test/plain\r\n\r\n\r\n--xyz--"),
        nonsense,
        parts("Content-Type: text/plain\r\n\r\nall of it\r\n--xyz--"),
    ];
    let asked = script(&world, "c.test", &format!("{FEDERATION}{{id}}"), answers);
    for number in 1..=3 {
        let answer = download(&bob, "c.test/abc").await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{number}: {:?}", answer.body);
        assert_eq!(asked.load(Ordering::Relaxed), number);
    }
    for _ in 0..2 {
        assert_eq!(&download(&bob, "c.test/abc").await.body[..], b"all of it");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 4, "kept");
    assert_eq!(download(&bob, "c.test/other").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn servers_that_know_only_the_old_path_are_asked_there() {
    let world = World::start().await;
    let bob = world.b.register("bob").await;
    let old = Response::builder()
        .header(header::CONTENT_TYPE, "text/html")
        .header(header::CONTENT_DISPOSITION, "inline; filename=page.html")
        .body("<html>".into())
        .unwrap();
    let asked = script(&world, "c.test", &format!("{OLD}{{server}}/{{id}}"), vec![old]);
    for _ in 0..2 {
        let answer = download(&bob, "c.test/abc").await;
        assert_eq!(answer.body, Bytes::from_static(b"<html>"));
        let disposition = header_of(&answer, header::CONTENT_DISPOSITION);
        assert_eq!(disposition, "attachment; filename=page.html", "not as the other server says");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    let paths = world.requests("b.test", OLD);
    let [path] = paths.as_slice() else { panic!("{paths:?}") };
    assert!(path.starts_with(&format!("{OLD}c.test/abc?allow_remote=false&timeout_ms=")), "{path}");
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_old_content_makes_room() {
    let world = World::start_with(|config| {
        config.max_remote_bytes = 300_000;
        config.cache_bytes = 500_000;
    });
    let world = world.await;
    let (ann, bob) = (world.a.register("ann").await, world.b.register("bob").await);
    let path = "/_matrix/media/v3/upload";
    let large = upload(&ann, path, "a/b", vec![0; 300_001]).await;
    assert_eq!(outcome(&download(&bob, &large).await), (502, "M_TOO_LARGE".to_owned()));
    let mut items = Vec::new();
    for number in 0..4 {
        items.push(upload(&ann, path, "a/b", vec![number; 200_000]).await);
    }
    for item in &items {
        assert_eq!(download(&bob, item).await.body.len(), 200_000);
    }
    let kept = std::fs::read_dir(world.b.data_dir().join("media/content")).unwrap();
    let kept = kept.flat_map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap()).count();
    assert_eq!(kept, 2, "no more than fits");
    assert_eq!(download(&bob, &items[0]).await.body.len(), 200_000, "fetched again");
}
