//! Thumbnails (CS "Thumbnails").

use std::io::Cursor;

use bytes::Bytes;
use hearth_testkit::{Network, Response, TestServer, TestUser};
use http::{HeaderMap, Method, StatusCode, header};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use ruma::MxcUri;
use serde_json::json;

use crate::support::{outcome, refused};

const BASE: &str = "/_matrix/client/v1/media/thumbnail";

fn picture(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let image =
        RgbImage::from_fn(width, height, |x, y| Rgb([x.to_le_bytes()[0], 9, y.to_le_bytes()[0]]));
    DynamicImage::ImageRgb8(image).write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// Server name and media ID of what is uploaded.
async fn upload(user: &TestUser, kind: &str, body: Vec<u8>) -> String {
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, kind.parse().unwrap())]);
    let answer = user.send(Method::POST, "/_matrix/media/v3/upload", headers, Some(body.into()));
    let uri = answer.await.json();
    let (server, id) = <&MxcUri>::from(uri["content_uri"].as_str().unwrap()).parts().unwrap();
    format!("{server}/{id}")
}

async fn thumbnail(user: &TestUser, item: &str, query: &str) -> Response {
    user.send(Method::GET, &format!("{BASE}/{item}?{query}"), HeaderMap::new(), None).await
}

fn size(answer: &Response) -> (u32, u32) {
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    let image = image::load_from_memory(&answer.body).unwrap();
    (image.width(), image.height())
}

/// How many files hold content.
fn kept(server: &TestServer) -> usize {
    let shards = std::fs::read_dir(server.data_dir().join("media/content")).unwrap();
    shards.map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap().count()).sum()
}

#[tokio::test]
async fn thumbnails_are_made_once_and_kept_over_restarts() {
    let mut server = TestServer::start().await;
    let alice = server.register("alice").await;
    let item = upload(&alice, "image/png", picture(400, 200)).await;
    for _ in 0..2 {
        let query = "width=90&height=90&method=scale";
        let both = tokio::join!(thumbnail(&alice, &item, query), thumbnail(&alice, &item, query));
        for small in [both.0, both.1] {
            assert_eq!(size(&small), (192, 96));
            assert_eq!(small.headers[header::CONTENT_TYPE], "image/jpeg");
            let disposition = &small.headers[header::CONTENT_DISPOSITION];
            assert_eq!(disposition, "inline; filename=thumbnail.jpeg");
            assert!(small.headers.contains_key(header::CONTENT_SECURITY_POLICY));
        }
        assert_eq!(kept(&server), 2, "the original and its thumbnail");
        server.restart().await;
    }
    let square = thumbnail(&alice, &item, "width=32&height=32&method=crop").await;
    assert_eq!(size(&square), (32, 32));
    // The name under which it is kept is nothing that anybody can ask for.
    let path = format!("/_matrix/client/v1/media/download/{item}%2F32x32-crop");
    refused(alice.get(&path).await, 400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn what_is_small_comes_as_it_is() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let original = picture(60, 50);
    // It is shown as what it is, and not as what it was said to be.
    let item = upload(&alice, "text/html", original.clone()).await;
    let small = thumbnail(&alice, &item, "width=800&height=600").await;
    assert_eq!(small.body, Bytes::from(original));
    assert_eq!(small.headers[header::CONTENT_TYPE], "image/png");
    let disposition = small.headers[header::CONTENT_DISPOSITION].to_str().unwrap();
    assert!(disposition.starts_with("inline"), "{disposition}");
    assert_eq!(kept(&server), 1);
}

#[tokio::test]
async fn what_cannot_be_made_smaller_is_refused() {
    let server = TestServer::builder().config(|config| config.media.max_thumbnail_pixels = 9_999);
    let server = server.start().await;
    let alice = server.register("alice").await;
    let text = upload(&alice, "image/png", b"<svg onload=alert(1)>".to_vec()).await;
    let large = upload(&alice, "image/png", picture(100, 100)).await;
    let made = alice.post_ok("/_matrix/media/v1/create", json!({})).await;
    let (_, unfinished) = made["content_uri"].as_str().unwrap().split_once("//").unwrap();
    let cases = [
        (text.as_str(), "width=32&height=32", 400, "M_UNKNOWN"),
        (&large, "width=32&height=32", 413, "M_TOO_LARGE"),
        (&large, "width=0&height=32", 400, "M_INVALID_PARAM"),
        (&large, "height=32", 400, "M_MISSING_PARAM"),
        (&large, "width=-1&height=32", 400, "M_INVALID_PARAM"),
        ("localhost/unknown", "width=32&height=32", 404, "M_NOT_FOUND"),
        (unfinished, "width=32&height=32&timeout_ms=0", 504, "M_NOT_YET_UPLOADED"),
    ];
    for (item, query, status, errcode) in cases {
        let answer = alice.get(&format!("{BASE}/{item}?{query}")).await;
        assert_eq!(outcome(&answer), (status, errcode), "{item}?{query}: {}", answer.1);
    }
    let path = format!("{BASE}/{large}?width=32&height=32");
    refused(server.client().get(&path).await, 401, "M_MISSING_TOKEN");
    assert_eq!(kept(&server), 2);
}

#[tokio::test]
async fn thumbnails_of_other_servers_content_are_made_here() {
    let network = Network::new();
    let start = |name| TestServer::builder().federating(name, &network).start();
    let (a, b) = (start("a.test").await, start("b.test").await);
    let (ann, bob) = (a.register("ann").await, b.register("bob").await);
    let item = upload(&ann, "image/png", picture(300, 300)).await;
    for _ in 0..2 {
        assert_eq!(size(&thumbnail(&bob, &item, "width=96&height=96&method=crop").await), (96, 96));
    }
    let passages = network.take_passages();
    let asked = passages.iter().filter(|passage| passage.path.contains("/media/"));
    assert_eq!(asked.count(), 1);
    network.cut(a.name(), b.name());
    assert_eq!(size(&thumbnail(&bob, &item, "width=200&height=200").await), (240, 240));
}
