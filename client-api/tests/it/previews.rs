//! Previews of pages (CS "GET /_matrix/client/v1/media/preview_url"), of a web that is on loopback.

use std::{
    io::Cursor,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{Router, extract::Request, response::Response, routing::get};
use hearth_http::Rate;
use hearth_media::PreviewConfig;
use hearth_testkit::{TestServer, TestUser, encode};
use http::{HeaderMap, Method, StatusCode, header};
use image::{ImageFormat, RgbImage};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::{outcome, refused, text};

const PATH: &str = "/_matrix/client/v1/media/preview_url";
const OLD_PATHS: [&str; 2] = ["/_matrix/media/v3/preview_url", "/_matrix/media/r0/preview_url"];

/// A site of the web.
struct Site {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Site {
    async fn start() -> Self {
        Self::at(Ipv4Addr::LOCALHOST).await
    }

    async fn at(address: Ipv4Addr) -> Self {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let router = Router::new()
            .route("/page", get(|| html("<meta property=og:title content='Tom &amp; Anna'><meta property=og:image content=/p.png>")))
            .route("/shows", get(|request: Request| {
                let elsewhere = request.uri().query().unwrap_or_default().to_owned();
                html(&format!("<title>T</title><img src='data:,'><img src='{elsewhere}'><img src=p.png>"))
            }))
            .route("/p.png", get(|| bytes("image/png", picture())))
            .route("/koi8", get(|| bytes("text/html; charset=koi8-r", b"<title>\xf0\xd2\xc9</title>".to_vec())))
            .route("/svg", get(|| bytes("image/svg+xml", b"<svg onload=alert(1)>".to_vec())))
            .route("/to", get(|request: Request| {
                let to = request.uri().query().unwrap_or_default().to_owned();
                let response = Response::builder().status(302).header(header::LOCATION, to);
                std::future::ready(response.body(axum::body::Body::empty()).unwrap())
            }))
            .route("/language", get(|headers: HeaderMap| {
                let said = headers.get(header::ACCEPT_LANGUAGE).map_or("none", |said| said.to_str().unwrap());
                html(&format!("<title>{said}</title>"))
            }))
            .layer(axum::middleware::map_request(move |request: Request| {
                count.fetch_add(1, Ordering::Relaxed);
                std::future::ready(request)
            }));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, asked }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn bytes(kind: &'static str, body: Vec<u8>) -> std::future::Ready<Response> {
    let response = Response::builder().header(header::CONTENT_TYPE, kind);
    std::future::ready(response.body(body.into()).unwrap())
}

fn html(body: &str) -> std::future::Ready<Response> {
    bytes("text/html", body.as_bytes().to_vec())
}

fn picture() -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::new(42, 34).write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// A server that may preview the site, and what else `change` says.
async fn server_for(site: &Site, change: impl FnOnce(&mut PreviewConfig)) -> TestServer {
    let port = site.address.port();
    let builder = TestServer::builder().config(|config| {
        let previews = &mut config.media.previews;
        previews.allow_networks = vec!["127.0.0.1/32".parse().unwrap()];
        previews.ports = vec![80, 443, port];
        change(previews);
    });
    builder.start().await
}

async fn preview_at(user: &TestUser, path: &str, url: &str) -> (StatusCode, Value) {
    user.get(&format!("{path}?url={}", encode(url))).await
}

async fn preview(user: &TestUser, url: &str) -> (StatusCode, Value) {
    preview_at(user, PATH, url).await
}

#[tokio::test]
async fn a_page_is_shown_with_its_picture_at_every_path() {
    let site = Site::start().await;
    let server = server_for(&site, |_| ()).await;
    let ann = server.register("ann").await;
    let (status, shown) = preview(&ann, &site.url("/page")).await;
    assert_eq!(status, StatusCode::OK);
    let uri = text(&shown, "og:image").to_owned();
    let expected = json!({
        "og:title": "Tom & Anna", "og:image": uri, "og:image:type": "image/png",
        "og:image:width": 42, "og:image:height": 34, "matrix:image:size": picture().len(),
    });
    assert_eq!(shown, expected);
    assert_eq!(site.asked(), 2);
    for path in OLD_PATHS {
        assert_eq!(
            preview_at(&ann, path, &site.url("/page")).await,
            (StatusCode::OK, shown.clone())
        );
    }
    assert_eq!(site.asked(), 2, "kept");
    let item = uri.strip_prefix("mxc://").unwrap();
    let path = format!("/_matrix/client/v1/media/download/{item}");
    let answer = ann.send(Method::GET, &path, HeaderMap::new(), None).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.body[..] == picture()[..]);
    let path = format!("/_matrix/client/v1/media/thumbnail/{item}?width=6&height=6&method=scale");
    assert_eq!(ann.send(Method::GET, &path, HeaderMap::new(), None).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_picture_among_the_text_is_asked_for_where_pages_are_and_nowhere_else() {
    // At an address of its own, which previews may not be made of.
    let (site, inner) = (Site::start().await, Site::at(Ipv4Addr::new(127, 0, 0, 2)).await);
    let server = server_for(&site, |previews| previews.ports.push(inner.address.port())).await;
    let ann = server.register("ann").await;
    let page = site.url(&format!("/shows?{}", inner.url("/p.png")));
    let (status, shown) = preview(&ann, &page).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!((&shown["og:title"], &shown["og:image:width"]), (&json!("T"), &json!(42)));
    assert_eq!((site.asked(), inner.asked()), (2, 0));
}

#[tokio::test]
async fn letters_and_languages_are_those_of_the_page_and_the_user() {
    let site = Site::start().await;
    let server = server_for(&site, |_| ()).await;
    let ann = server.register("ann").await;
    assert_eq!(preview(&ann, &site.url("/koi8")).await.1, json!({ "og:title": "При" }));
    assert_eq!(preview(&ann, &site.url("/svg")).await.1, json!({}));
    let path = format!("{PATH}?url={}&ts=1510610716656", encode(&site.url("/language")));
    for said in ["fr;q=0.9, en", "de"] {
        let headers = HeaderMap::from_iter([(header::ACCEPT_LANGUAGE, said.parse().unwrap())]);
        let answer = ann.send(Method::GET, &path, headers, None).await;
        assert_eq!(answer.json(), json!({ "og:title": said }));
    }
}

#[tokio::test]
async fn nothing_inside_of_the_network_is_asked() {
    let site = Site::start().await;
    // Everything is as by default, but that the site's port is a usual one.
    let server = server_for(&site, |previews| previews.allow_networks = Vec::new()).await;
    let ann = server.register("ann").await;
    let port = site.address.port();
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.0.0.1.",
        "localhost",
        "0.0.0.0",
        "0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[0:0:0:0:0:ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "169.254.169.254",
        "10.0.0.1",
        "%31%32%37.0.0.1",
        "①②⑦.0.0.1",
    ] {
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://{host}:{port}/page");
            refused(preview(&ann, &url).await, 502, "M_UNKNOWN");
        }
    }
    for url in [
        format!("http://a@127.0.0.1:{port}/page"),
        format!("http://example.org@127.0.0.1:{port}/page"),
        format!("ftp://127.0.0.1:{port}/page"),
        "file:///etc/passwd".to_owned(),
        "http://127.0.0.1:22/".to_owned(),
        "http://localhost.:80/".to_owned(),
        "nonsense".to_owned(),
        String::new(),
    ] {
        refused(preview(&ann, &url).await, 403, "M_FORBIDDEN");
    }
    assert_eq!(site.asked(), 0);
}

#[tokio::test]
async fn no_redirect_leads_inside() {
    let (site, inner) = (Site::start().await, Site::start().await);
    let server = server_for(&site, |previews| previews.ports.push(inner.address.port())).await;
    let ann = server.register("ann").await;
    let port = inner.address.port();
    for to in [
        // Another loopback address than the one that is allowed.
        format!("http://127.0.0.2:{port}/page"),
        format!("http://[::1]:{port}/page"),
        format!("http://[::ffff:127.0.0.2]:{port}/page"),
        format!("http://0x7f.2:{port}/page"),
        format!("http://x:y@127.0.0.1:{port}/page"),
        "http://127.0.0.1:1/".to_owned(),
        "file:///etc/passwd".to_owned(),
        "gopher://127.0.0.1/".to_owned(),
        "//127.0.0.2/".to_owned(),
    ] {
        let url = site.url(&format!("/to?{to}"));
        refused(preview(&ann, &url).await, 502, "M_UNKNOWN");
    }
    assert_eq!((site.asked(), inner.asked()), (9, 0));
    let round = site.url("/to?/page");
    assert_eq!(preview(&ann, &round).await.1["og:title"], "Tom & Anna");
}

#[tokio::test]
async fn only_users_may_ask_and_not_too_often() {
    let site = Site::start().await;
    let server = TestServer::builder().config(|config| {
        config.http.rate_limits.enabled = true;
        config.http.rate_limits.preview.user = Rate::new(0.1, 2);
    });
    let server = server.start().await;
    let path = format!("{PATH}?url={}", encode(&site.url("/page")));
    for path in [path.as_str(), OLD_PATHS[0], OLD_PATHS[1]] {
        refused(server.client().get(path).await, 401, "M_MISSING_TOKEN");
    }
    let ann = server.register("ann").await;
    refused(ann.get(PATH).await, 400, "M_MISSING_PARAM");
    refused(ann.get(&format!("{path}&ts=yesterday")).await, 400, "M_INVALID_PARAM");
    assert_eq!(outcome(&ann.get(&path).await), (429, "M_LIMIT_EXCEEDED"));
    assert_eq!(site.asked(), 0);
}

#[tokio::test]
async fn the_operator_may_turn_them_off_or_deny_domains() {
    let site = Site::start().await;
    let server = server_for(&site, |previews| previews.enabled = false).await;
    let ann = server.register("ann").await;
    refused(preview(&ann, &site.url("/page")).await, 404, "M_UNRECOGNIZED");
    let server = server_for(&site, |previews| {
        previews.deny_networks = vec!["127.0.0.0/8".parse().unwrap()];
    });
    let ann = server.await.register("ann").await;
    refused(preview(&ann, &site.url("/page")).await, 502, "M_UNKNOWN");
    let server = server_for(&site, |previews| previews.allow_domains = vec!["example.org".into()]);
    let ann = server.await.register("ann").await;
    refused(preview(&ann, &site.url("/page")).await, 403, "M_FORBIDDEN");
    assert_eq!(site.asked(), 0);
}
