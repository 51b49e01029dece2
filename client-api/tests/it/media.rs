//! Uploads and downloads (CS "Content repository").

use std::time::Duration;

use bytes::Bytes;
use hearth_http::Rate;
use hearth_testkit::{Response, TestServer, TestUser, encode};
use hearth_types::ManualClock;
use http::{HeaderMap, Method, StatusCode};
use ruma::MxcUri;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::support::{outcome, refused, text};

const UPLOAD: &str = "/_matrix/media/v3/upload";
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and so on";

fn headers(content_type: Option<&str>) -> HeaderMap {
    let headers = content_type.map(|kind| (http::header::CONTENT_TYPE, kind.parse().unwrap()));
    headers.into_iter().collect()
}

async fn try_upload(user: &TestUser, query: &str, kind: &str, body: &[u8]) -> Response {
    let body = Bytes::copy_from_slice(body);
    user.send(Method::POST, &format!("{UPLOAD}{query}"), headers(Some(kind)), Some(body)).await
}

/// Uploads; returns the path of the download.
async fn upload(user: &TestUser, query: &str, kind: &str, body: &[u8]) -> String {
    let answer = try_upload(user, query, kind, body).await;
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    let answer = answer.json();
    let uri = <&MxcUri>::from(text(&answer, "content_uri"));
    let (server, id) = uri.parts().unwrap();
    assert_eq!(server, "localhost");
    assert!(id.len() >= 20 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
    format!("/_matrix/client/v1/media/download/{server}/{id}")
}

async fn get(user: &TestUser, path: &str) -> Response {
    user.send(Method::GET, path, HeaderMap::new(), None).await
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
}

/// The names of the files in the folder of content, below it.
fn kept(server: &TestServer, folder: &str) -> usize {
    fn count(folder: &std::path::Path) -> usize {
        let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
        entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
    }
    count(&server.data_dir().join("media").join(folder))
}

#[tokio::test]
async fn what_one_uploads_others_download_after_a_restart_too() {
    let mut server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let path = upload(&alice, "?filename=cat.png", "image/png", PNG).await;
    for round in 0..2 {
        let got = get(&bob, &path).await;
        assert_eq!((got.status, &got.body[..]), (StatusCode::OK, PNG), "{round}");
        assert_eq!(header(&got, "content-type"), "image/png");
        assert_eq!(header(&got, "content-length"), PNG.len().to_string());
        assert_eq!(header(&got, "content-disposition"), "inline; filename=cat.png");
        assert_eq!(header(&got, "cross-origin-resource-policy"), "cross-origin");
        assert_eq!(header(&got, "x-content-type-options"), "nosniff");
        assert_eq!(header(&got, "access-control-allow-origin"), "*");
        let policy = header(&got, "content-security-policy");
        assert!(policy.starts_with("sandbox; default-src 'none'; script-src 'none';"), "{policy}");
        server.restart().await;
    }
}

#[tokio::test]
async fn names_and_types_come_back_as_they_may_stand_in_headers() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let cases = [
        ("text/html", "x.html", "text/html", "attachment; filename=x.html"),
        ("image/svg+xml", "", "image/svg+xml", "attachment"),
        ("no type at all", "", "image/png", "inline"),
        ("text/plain; charset=utf-8", "", "text/plain; charset=utf-8", "inline"),
        ("image/png", "../../a b.png", "image/png", "inline; filename=\"../../a b.png\""),
        ("image/png", "q\"\\.png", "image/png", "inline; filename=\"q\\\"\\\\.png\""),
        ("image/png", "a\r\nb: c", "image/png", "inline; filename=\"ab: c\""),
        ("image/png", "ä€.png", "image/png", "inline; filename*=utf-8''%C3%A4%E2%82%AC.png"),
    ];
    for (kind, name, served_as, disposition) in cases {
        let path = upload(&alice, &format!("?filename={}", encode(name)), kind, PNG).await;
        let got = get(&alice, &path).await;
        assert_eq!(header(&got, "content-type"), served_as, "{kind} {name}");
        assert_eq!(header(&got, "content-disposition"), disposition, "{kind} {name}");
        let got = get(&alice, &format!("{path}/{}", encode("other name.gif"))).await;
        assert!(header(&got, "content-disposition").ends_with("; filename=\"other name.gif\""));
        assert_eq!(&got.body[..], PNG);
    }
    let page = upload(&alice, "", "image/png", b" <html><script>").await;
    assert_eq!(header(&get(&alice, &page).await, "content-disposition"), "attachment");
    let long = format!("?filename={}", "x".repeat(2_000));
    refused_as(&try_upload(&alice, &long, "image/png", PNG).await, 400, "M_INVALID_PARAM");
}

fn refused_as(answer: &Response, status: u16, errcode: &str) {
    refused((answer.status, answer.json()), status, errcode);
}

#[tokio::test]
async fn both_ways_need_a_token() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let path = upload(&alice, "", "image/png", PNG).await;
    let stranger = server.client();
    refused(stranger.get(&path).await, 401, "M_MISSING_TOKEN");
    refused(stranger.post(UPLOAD, json!({})).await, 401, "M_MISSING_TOKEN");
    let wrong = stranger.with_token("wrong");
    refused(wrong.get(&path).await, 401, "M_UNKNOWN_TOKEN");
    refused(wrong.post(UPLOAD, json!({})).await, 401, "M_UNKNOWN_TOKEN");
    assert_eq!(kept(&server, "content"), 1);
}

#[tokio::test]
async fn the_limits_are_told_and_kept() {
    let server = TestServer::builder().config(|config| {
        config.media.max_upload_bytes = 2_000_000;
        config.media.user_quota_bytes = 3_000_000;
    });
    let server = server.start().await;
    let alice = server.register("alice").await;
    for path in ["/_matrix/client/v1/media/config", "/_matrix/media/v3/config"] {
        assert_eq!(alice.get_ok(path).await, json!({ "m.upload.size": 2_000_000 }));
        refused(server.client().get(path).await, 401, "M_MISSING_TOKEN");
    }
    // Above the limit of JSON bodies.
    upload(&alice, "", "a/b", &vec![1; 2_000_000]).await;
    refused_as(&try_upload(&alice, "", "a/b", &vec![2; 2_000_001]).await, 413, "M_TOO_LARGE");
    refused_as(&try_upload(&alice, "", "a/b", &vec![2; 9_000_000]).await, 413, "M_TOO_LARGE");
    refused_as(&try_upload(&alice, "", "a/b", &vec![2; 1_500_000]).await, 403, "M_FORBIDDEN");
    upload(&alice, "", "a/b", &vec![3; 1_000_000]).await;
    assert_eq!((kept(&server, "content"), kept(&server, "incoming")), (2, 0));
}

#[tokio::test]
async fn users_upload_so_often_and_no_more() {
    let server = TestServer::builder().config(|config| {
        config.http.rate_limits.enabled = true;
        config.http.rate_limits.upload.user = Rate::new(0.01, 2);
    });
    let server = server.start().await;
    let alice = server.register("alice").await;
    upload(&alice, "", "a/b", b"1").await;
    upload(&alice, "", "a/b", b"2").await;
    refused_as(&try_upload(&alice, "", "a/b", b"3").await, 429, "M_LIMIT_EXCEEDED");
}

#[tokio::test]
async fn paths_that_are_none_are_refused() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let base = "/_matrix/client/v1/media/download";
    let cases = [
        ("localhost/unknown", 404, "M_NOT_FOUND"),
        ("localhost/..%2F..%2Fstore", 400, "M_INVALID_PARAM"),
        ("localhost/%2e%2e", 400, "M_INVALID_PARAM"),
        ("localhost/a%00b", 400, "M_INVALID_PARAM"),
        ("localhost/a%5Cb", 400, "M_INVALID_PARAM"),
        ("..%2F..%2Fetc/passwd", 400, "M_INVALID_PARAM"),
        ("local%20host/abc", 400, "M_INVALID_PARAM"),
        ("127.0.0.1%2Fa/abc", 400, "M_INVALID_PARAM"),
    ];
    for (path, status, errcode) in cases {
        let answer = alice.get(&format!("{base}/{path}")).await;
        assert_eq!(outcome(&answer), (status, errcode), "{path}");
    }
}

#[tokio::test]
async fn the_paths_without_authentication_are_frozen() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let path = upload(&alice, "", "image/png", PNG).await;
    let item = path.strip_prefix("/_matrix/client/v1/media/download/").unwrap();
    for version in ["v3", "r0"] {
        let media = format!("/_matrix/media/{version}");
        for old in [
            format!("{media}/download/{item}"),
            format!("{media}/download/{item}/name.png"),
            format!("{media}/thumbnail/{item}?width=1&height=1"),
        ] {
            refused(server.client().get(&old).await, 404, "M_NOT_FOUND");
            refused(alice.get(&old).await, 404, "M_NOT_FOUND");
        }
    }
}

/// Begins an upload of 100 bytes by hand.
async fn begin(server: &TestServer, user: &TestUser) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let token = &user.token;
    let head = format!(
        "POST {UPLOAD} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: a/b\r\nContent-Length: 100\r\n\r\nhalf of it"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn eventually(mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it does not come about");
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let stream = begin(&server, &alice).await;
    eventually(|| kept(&server, "incoming") == 1).await;
    drop(stream);
    eventually(|| kept(&server, "incoming") == 0).await;
    assert_eq!(kept(&server, "content"), 0);
}

#[tokio::test]
async fn an_upload_that_stands_still_is_ended() {
    let server = TestServer::builder().config(|config| config.http.body_timeout_s = 1);
    let server = server.start().await;
    let alice = server.register("alice").await;
    let mut stream = begin(&server, &alice).await;
    let mut answer = vec![0; 1_000];
    let read = timeout(Duration::from_secs(20), stream.read(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    eventually(|| kept(&server, "incoming") == 0).await;
    assert_eq!(kept(&server, "content"), 0);
}

#[tokio::test]
async fn large_uploads_come_back_whole() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let body: Vec<u8> = (0..5_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let path = upload(&alice, "", "application/octet-stream", &body).await;
    assert!(get(&alice, &path).await.body == body);
}

/// Makes a URI; returns its server name and media ID, and when it expires.
async fn create(user: &TestUser) -> (String, u64) {
    let answer = user.post_ok("/_matrix/media/v1/create", json!({})).await;
    let (server, id) = <&MxcUri>::from(text(&answer, "content_uri")).parts().unwrap();
    (format!("{server}/{id}"), answer["unused_expires_at"].as_u64().unwrap())
}

fn fill_path(item: &str) -> String {
    format!("{UPLOAD}/{item}")
}

fn download_path(item: &str, timeout_ms: u64) -> String {
    format!("/_matrix/client/v1/media/download/{item}?timeout_ms={timeout_ms}")
}

#[tokio::test]
async fn a_uri_is_made_first_and_filled_once_by_its_maker() {
    let mut server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (item, _) = create(&alice).await;
    refused(alice.get(&download_path(&item, 0)).await, 504, "M_NOT_YET_UPLOADED");
    refused(bob.put(&fill_path(&item), json!({})).await, 403, "M_FORBIDDEN");
    refused(server.client().put(&fill_path(&item), json!({})).await, 401, "M_MISSING_TOKEN");
    server.restart().await;
    let body = json!({ "a": "b" });
    assert_eq!(alice.put_ok(&fill_path(&item), body.clone()).await, json!({}));
    assert_eq!(bob.get_ok(&download_path(&item, 0)).await, body);
    let again = alice.put(&fill_path(&item), json!({})).await;
    refused(again, 409, "M_CANNOT_OVERWRITE_MEDIA");
    refused(bob.put(&fill_path(&item), json!({})).await, 403, "M_FORBIDDEN");
    assert_eq!(bob.get_ok(&download_path(&item, 0)).await, body);
    let uploaded = upload(&alice, "", "a/b", b"x").await;
    let uploaded = uploaded.strip_prefix("/_matrix/client/v1/media/download/").unwrap();
    refused(alice.put(&fill_path(uploaded), json!({})).await, 409, "M_CANNOT_OVERWRITE_MEDIA");
    refused(alice.put(&fill_path("localhost/unknown"), json!({})).await, 404, "M_NOT_FOUND");
    refused(alice.put(&fill_path("other.test/unknown"), json!({})).await, 404, "M_NOT_FOUND");
    refused(alice.put(&fill_path("localhost/a%2Fb"), json!({})).await, 400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn a_download_waits_for_its_upload() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (item, _) = create(&alice).await;
    let fill = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        alice.put_ok(&fill_path(&item), json!({ "late": true })).await;
    };
    let path = download_path(&item, 20_000);
    let (got, ()) = tokio::join!(bob.get_ok(&path), fill);
    assert_eq!(got, json!({ "late": true }));
}

#[tokio::test]
async fn a_uri_that_nobody_fills_expires_and_makes_room() {
    let clock = std::sync::Arc::new(ManualClock::new(1_000_000));
    let server = TestServer::builder().clock(clock.clone()).start().await;
    let alice = server.register("alice").await;
    let (item, expires_ms) = create(&alice).await;
    assert_eq!(expires_ms, 1_000_000 + 24 * 60 * 60 * 1_000);
    for _ in 1..64 {
        create(&alice).await;
    }
    let path = "/_matrix/media/v1/create";
    refused(alice.post(path, json!({})).await, 429, "M_LIMIT_EXCEEDED");
    clock.advance(Duration::from_hours(24));
    refused(alice.put(&fill_path(&item), json!({})).await, 404, "M_NOT_FOUND");
    refused(alice.get(&download_path(&item, 20_000)).await, 404, "M_NOT_FOUND");
    let (item, _) = create(&alice).await;
    alice.put_ok(&fill_path(&item), json!({})).await;
}
