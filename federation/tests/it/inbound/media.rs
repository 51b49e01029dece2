//! Content of this server's users, given to other servers (SS "Content Repository").

use bytes::Bytes;
use hearth_testkit::TestUser;
use http::{HeaderMap, Method, Response, StatusCode, header};
use ruma::MxcUri;
use serde_json::{Value, json};

use super::{Scene, assert_error};

const DOWNLOAD: &str = "/_matrix/federation/v1/media/download";

async fn ask(scene: &Scene, path: &str) -> Response<Bytes> {
    scene.peer.exchange(scene.name(), Method::GET, path, None).await
}

/// The media ID of what the user uploads.
async fn upload(user: &TestUser, name: &str, kind: &str, body: &[u8]) -> String {
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, kind.parse().unwrap())]);
    let path = format!("/_matrix/media/v3/upload?filename={name}");
    let body = Bytes::copy_from_slice(body);
    let answer = user.send(Method::POST, &path, headers, Some(body)).await.json();
    media_id(&answer)
}

fn media_id(answer: &Value) -> String {
    let uri = <&MxcUri>::from(answer["content_uri"].as_str().unwrap());
    uri.media_id().unwrap().to_owned()
}

/// The headers and the bytes of the second part; the first must be an empty object.
fn second_part(answer: &Response<Bytes>) -> (String, Vec<u8>) {
    assert_eq!(answer.status(), StatusCode::OK, "{:?}", answer.body());
    let kind = answer.headers()[header::CONTENT_TYPE].to_str().unwrap();
    let boundary = kind.strip_prefix("multipart/mixed; boundary=").unwrap();
    let body = answer.body();
    assert_eq!(answer.headers()[header::CONTENT_LENGTH], body.len().to_string().as_str());
    let before =
        format!("--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\n");
    let rest = body.strip_prefix(before.as_bytes()).unwrap();
    let part = rest.strip_suffix(format!("\r\n--{boundary}--\r\n").as_bytes()).unwrap();
    let end = part.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    (String::from_utf8(part[..end].to_vec()).unwrap(), part[end + 4..].to_vec())
}

#[tokio::test]
async fn content_is_given_in_two_parts() {
    let scene = Scene::start().await;
    let body: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let id = upload(&scene.ann, "a%20b.png", "image/png", &body).await;
    let (headers, bytes) = second_part(&ask(&scene, &format!("{DOWNLOAD}/{id}")).await);
    let expected = "Content-Type: image/png\r\nContent-Disposition: inline; filename=\"a b.png\"";
    assert_eq!(headers, expected);
    assert!(bytes == body);
    let page = upload(&scene.ann, "x.html", "text/html", b"<html>").await;
    let (headers, _) = second_part(&ask(&scene, &format!("{DOWNLOAD}/{page}")).await);
    assert!(headers.ends_with("Content-Disposition: attachment; filename=x.html"), "{headers}");
}

#[tokio::test]
async fn what_is_not_there_or_not_asked_for_well_is_refused() {
    let scene = Scene::start().await;
    let made = scene.ann.post_ok("/_matrix/media/v1/create", json!({})).await;
    let unfinished = format!("{DOWNLOAD}/{}?timeout_ms=0", media_id(&made));
    let answer = scene.peer.get(scene.name(), &unfinished).await;
    assert_error(&answer, StatusCode::GATEWAY_TIMEOUT, "M_NOT_YET_UPLOADED");
    let answer = scene.peer.get(scene.name(), &format!("{DOWNLOAD}/unknown")).await;
    assert_error(&answer, StatusCode::NOT_FOUND, "M_NOT_FOUND");
    let answer = scene.peer.get(scene.name(), &format!("{DOWNLOAD}/..%2F..%2Fstore")).await;
    assert_error(&answer, StatusCode::BAD_REQUEST, "M_INVALID_PARAM");
    let id = upload(&scene.ann, "", "a/b", b"x").await;
    let path = format!("{DOWNLOAD}/{id}");
    let answer = scene.peer.ask_unsigned(scene.name(), Method::GET, &path, None).await;
    assert_eq!(answer.0, StatusCode::UNAUTHORIZED, "{}", answer.1);
}

#[tokio::test]
async fn thumbnails_are_given_the_same_way() {
    let scene = Scene::start().await;
    // One grey pixel high, and 40 wide.
    let mut picture = b"P5 40 1 255\n".to_vec();
    picture.resize(picture.len() + 40, 99);
    let id = upload(&scene.ann, "", "image/x-portable-graymap", &picture).await;
    let path = format!("/_matrix/federation/v1/media/thumbnail/{id}?width=32&height=32");
    let answer = scene.peer.get(scene.name(), &path).await;
    assert_error(&answer, StatusCode::BAD_REQUEST, "M_UNKNOWN");
    // The smallest picture that there is.
    let gif =
        b"GIF89a\x01\0\x01\0\x80\0\0\xff\xff\xff\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";
    let id = upload(&scene.ann, "", "image/gif", gif).await;
    let path = |animated| {
        let query = format!("width=32&height=32&animated={animated}");
        format!("/_matrix/federation/v1/media/thumbnail/{id}?{query}")
    };
    let (headers, bytes) = second_part(&ask(&scene, &path(true)).await);
    assert!(headers.starts_with("Content-Type: image/gif\r\n"), "{headers}");
    assert_eq!(bytes, gif);
    let (headers, bytes) = second_part(&ask(&scene, &path(false)).await);
    assert!(headers.starts_with("Content-Type: image/png\r\n"), "{headers}");
    assert!(bytes.starts_with(b"\x89PNG"));
}
