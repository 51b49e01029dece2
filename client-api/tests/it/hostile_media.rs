//! Content that was made to do harm: what it costs, and what browsers are told of it.

use std::io::Cursor;

use bytes::Bytes;
use hearth_testkit::{Response, TestServer, TestUser, encode};
use http::{HeaderMap, Method, StatusCode, header};
use image::{ImageFormat, RgbImage};
use ruma::MxcUri;

use crate::support::text;

async fn upload_named(user: &TestUser, name: &str, kind: &str, body: &[u8]) -> Response {
    let path = format!("/_matrix/media/v3/upload?filename={}", encode(name));
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, kind.parse().unwrap())]);
    user.send(Method::POST, &path, headers, Some(Bytes::copy_from_slice(body))).await
}

/// Server name and media ID of what is uploaded.
async fn upload(user: &TestUser, kind: &str, body: &[u8]) -> String {
    let answer = upload_named(user, "", kind, body).await.json();
    let (server, id) = <&MxcUri>::from(text(&answer, "content_uri")).parts().unwrap();
    format!("{server}/{id}")
}

async fn get(user: &TestUser, path: &str) -> Response {
    user.send(Method::GET, &format!("/_matrix/client/v1/media/{path}"), HeaderMap::new(), None)
        .await
}

fn said<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
}

#[tokio::test]
async fn what_could_run_in_a_browser_is_given_as_a_file_that_may_do_nothing() {
    let server = TestServer::start().await;
    let ann = server.register("ann").await;
    let page = b"<html><script>alert(document.domain)</script></html>";
    let svg = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>";
    let wide: Vec<u8> =
        "\u{feff}<script>alert(1)</script>".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let cases: &[(&str, &[u8])] = &[
        ("text/html", page),
        ("TEXT/HTML; charset=utf-7", page),
        ("application/xhtml+xml", page),
        ("text/xml", page),
        ("application/xml", page),
        ("image/svg+xml", svg),
        ("image/svg+xml;x=image/png", svg),
        ("text/javascript", b"alert(1)"),
        ("application/javascript", b"alert(1)"),
        ("application/pdf", b"%PDF-1.4"),
        ("application/octet-stream", page),
        ("multipart/mixed", page),
        // What they are not.
        ("image/png", page),
        ("image/gif", svg),
        ("video/mp4", &wide),
        ("nonsense", page),
        ("image/png, text/html", page),
    ];
    for (kind, body) in cases {
        let item = upload(&ann, kind, body).await;
        let answer = get(&ann, &format!("download/{item}")).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert!(answer.body[..] == **body);
        assert!(said(&answer, "content-disposition").starts_with("attachment"), "{kind}");
        assert_eq!(said(&answer, "x-content-type-options"), "nosniff");
        assert_eq!(said(&answer, "cross-origin-resource-policy"), "cross-origin");
        let policy = said(&answer, "content-security-policy");
        assert!(policy.contains("sandbox") && policy.contains("script-src 'none'"), "{policy}");
        // Nor does a thumbnail of it show it.
        let thumbnail = get(&ann, &format!("thumbnail/{item}?width=32&height=32")).await;
        assert_eq!(thumbnail.status, StatusCode::BAD_REQUEST, "{kind}");
    }
}

#[tokio::test]
async fn names_are_names_and_no_paths_or_headers() {
    let server = TestServer::start().await;
    let ann = server.register("ann").await;
    for name in [
        "../../../../etc/passwd",
        "..\\..\\boot.ini",
        "/etc/passwd",
        "C:\\x",
        "a\"; filename=\"b.html",
        "a\r\nSet-Cookie: a=b\r\n\r\n<html>",
        "\u{202e}gpj.exe",
        "nul\0byte",
    ] {
        let answer = upload_named(&ann, name, "text/plain", b"x").await;
        assert_eq!(answer.status, StatusCode::OK);
        let answer = answer.json();
        let (host, id) = <&MxcUri>::from(text(&answer, "content_uri")).parts().unwrap();
        let answer = get(&ann, &format!("download/{host}/{id}")).await;
        assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"x"[..]));
        assert_eq!(answer.headers.get("set-cookie"), None);
        let disposition = said(&answer, "content-disposition");
        assert!(
            disposition.is_ascii() && !disposition.contains(['\r', '\n', '\0']),
            "{disposition}"
        );
        let read: ruma::http_headers::ContentDisposition = disposition.parse().unwrap();
        // What cannot stand in a header is left out of it.
        if !name.contains(char::is_control) {
            assert_eq!(read.filename.as_deref(), Some(name));
        }
        // Only what the server names is in its folder.
        let media = server.data_dir().join("media");
        let names: Vec<_> =
            std::fs::read_dir(media).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(names.iter().all(|name| name == "content" || name == "incoming"), "{names:?}");
    }
    for path in [
        "download/..%2f..%2fsigning.key/x",
        "download/localhost/..%2f..%2fsigning.key",
        "download/localhost/%2e%2e",
        "download/127.0.0.1:1%2f..%2f/x",
        "download/a@localhost/x",
        "download/localhost%00/x",
        "thumbnail/localhost/..%2fx?width=1&height=1",
    ] {
        assert!(get(&ann, path).await.status.is_client_error(), "{path}");
    }
}

/// A picture whose header claims other sides than it has.
fn lying(format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::new(2, 2).write_to(&mut bytes, format).unwrap();
    let mut bytes = bytes.into_inner();
    // Where the format has its width and height, of 16 bits or more each.
    let at = match format {
        ImageFormat::Gif => 6..10,
        ImageFormat::WebP => 21..25,
        _ => {
            let frame =
                bytes.windows(2).position(|marker| matches!(marker, [0xff, 0xc0..=0xc2])).unwrap();
            frame + 5..frame + 9
        }
    };
    bytes[at].fill(0xff);
    bytes
}

#[tokio::test]
async fn pictures_that_claim_or_have_too_many_pixels_cost_no_more_than_their_header() {
    let server =
        TestServer::builder().config(|config| config.media.max_thumbnail_pixels = 1_000_000);
    let server = server.start().await;
    let ann = server.register("ann").await;
    // A true one: nine million pixels in a few thousand bytes.
    let mut bomb = Cursor::new(Vec::new());
    image::GrayImage::new(3_000, 3_000).write_to(&mut bomb, ImageFormat::Png).unwrap();
    let bomb = bomb.into_inner();
    assert!(bomb.len() < 100_000, "{}", bomb.len());
    let mut pictures = vec![("image/png", bomb)];
    pictures.push(("image/gif", lying(ImageFormat::Gif)));
    pictures.push(("image/jpeg", lying(ImageFormat::Jpeg)));
    pictures.push(("image/webp", lying(ImageFormat::WebP)));
    for (kind, picture) in pictures {
        let item = upload(&ann, kind, &picture).await;
        for query in ["width=32&height=32", "width=32&height=32&animated=true&method=crop"] {
            let answer = get(&ann, &format!("thumbnail/{item}?{query}")).await;
            assert!(answer.status.is_client_error(), "{kind}: {}", answer.status);
        }
        assert_eq!(get(&ann, &format!("download/{item}")).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn nobody_learns_whether_a_stranger_has_a_file() {
    let server = TestServer::builder().config(|config| config.media.user_quota_bytes = 25_000);
    let server = server.start().await;
    let (ann, eve) = (server.register("ann").await, server.register("eve").await);
    let (known, unknown) = (vec![1; 10_000], vec![2; 10_000]);
    upload(&ann, "text/plain", &known).await;
    let told = async |body: &[u8]| {
        let answer = upload_named(&eve, "f", "text/plain", body).await;
        let mut names: Vec<_> = answer.headers.keys().map(ToString::to_string).collect();
        names.sort();
        let id_length = answer.json()["content_uri"].as_str().map(str::len);
        (answer.status, answer.body.len(), names, id_length)
    };
    assert_eq!(told(&known).await, told(&unknown).await);
    // Both count for her in full, so that a third does not fit, known or not.
    for body in [&known, &unknown] {
        assert_eq!(told(body).await.0, StatusCode::FORBIDDEN);
    }
    assert_eq!(told(&[3; 6_000]).await.0, StatusCode::FORBIDDEN);
}
