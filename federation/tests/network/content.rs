//! Content that another server keeps elsewhere on the web, and bodies that are read as they come.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use hearth_federation::{
    FederationConfig,
    transport::{BodyStream, HttpTransport, Limits, Transport as _, TransportError},
};
use http::{Request, Response, StatusCode};
use ruma::ServerName;
use url::Url;

use crate::{
    CLOSED, HERE, LIMITS,
    fake::{Authority, Machine, Names, says, transport},
    redirects,
};

async fn whole(response: Response<BodyStream>) -> Result<Bytes, TransportError> {
    let chunks: Vec<Bytes> = response.into_body().try_collect().await?;
    Ok(chunks.concat().into())
}

async fn fetch(transport: &HttpTransport, url: &str) -> Result<Bytes, TransportError> {
    let server = <&ServerName>::try_from("a.example").unwrap();
    let response = transport.fetch(server, &Url::parse(url).unwrap(), LIMITS).await?;
    assert_eq!(response.status(), StatusCode::OK);
    whole(response).await
}

#[tokio::test]
async fn what_is_elsewhere_is_found_over_redirects() {
    let ca = Authority::new();
    let last = Machine::start(&ca, &["cdn.example"], 0, says("the bytes")).await;
    let to = format!("https://cdn.example:{}/b?c", last.port());
    let first = Machine::start(&ca, &["www.example"], 0, redirects(&to)).await;
    let names = Names::default().host("www.example", &[HERE]).host("cdn.example", &[HERE]);
    let transport = transport(&ca.config(), &Arc::new(names), CLOSED, CLOSED);
    let url = format!("https://www.example:{}/a", first.port());
    assert_eq!(fetch(&transport, &url).await.unwrap(), "the bytes");
    assert_eq!((first.paths(), last.paths()), (vec!["/a".to_owned()], vec!["/b?c".to_owned()]));
}

#[tokio::test]
async fn no_hop_leads_to_private_addresses_or_away_from_https() {
    let ca = Authority::new();
    let inner = Machine::start(&ca, &["127.0.0.1", "inner.example"], 0, says("secret")).await;
    let port = inner.port();
    let config = FederationConfig { allow_networks: Vec::new(), ..ca.config() };
    let names =
        Names::default().host("inner.example", &[HERE]).host("ten.example", &[[10, 0, 0, 1]]);
    let transport = transport(&config, &Arc::new(names), port, port);
    for url in [
        format!("https://127.0.0.1:{port}/"),
        format!("https://inner.example:{port}/"),
        format!("https://[::ffff:127.0.0.1]:{port}/"),
        format!("https://[::1]:{port}/"),
        format!("https://2130706433:{port}/"),
        format!("https://0x7f.1:{port}/"),
        format!("https://localhost:{port}/"),
        format!("https://ten.example:{port}/"),
        format!("https://169.254.169.254:{port}/"),
        format!("http://inner.example:{port}/"),
        "file:///etc/passwd".to_owned(),
    ] {
        let error = fetch(&transport, &url).await.unwrap_err();
        assert!(matches!(error, TransportError::Unreachable { .. }), "{url}: {error}");
    }
    assert_eq!(inner.connections(), 0);
}

#[tokio::test]
async fn a_redirect_to_a_private_address_is_not_followed() {
    let ca = Authority::new();
    let inner = Machine::start(&ca, &["inner.example"], 0, says("secret")).await;
    let config =
        FederationConfig { allow_networks: vec!["127.0.0.1/32".parse().unwrap()], ..ca.config() };
    let names = Arc::new(
        Names::default()
            .host("www.example", &[HERE])
            .host("inner.example", &[[127, 0, 0, 2]])
            .host("inner.test", &[HERE]),
    );
    for to in [
        format!("https://inner.example:{}/", inner.port()),
        format!("https://[::1]:{}/", inner.port()),
        format!("http://inner.test:{}/", inner.port()),
        "/round/and/round".to_owned(),
    ] {
        let www = Machine::start(&ca, &["www.example"], 0, redirects(&to)).await;
        let transport = transport(&config, &names, CLOSED, CLOSED);
        let url = format!("https://www.example:{}/", www.port());
        let error = fetch(&transport, &url).await.unwrap_err();
        assert!(matches!(error, TransportError::Unreachable { .. }), "{to}: {error}");
        assert!((1..=6).contains(&www.paths().len()), "{:?}", www.paths());
    }
    assert_eq!(inner.connections(), 0);
}

#[tokio::test]
async fn bodies_are_bounded_where_they_are_read() {
    let ca = Authority::new();
    let server = Machine::start(&ca, &["127.0.0.1"], 0, says("x".repeat(1025))).await;
    let transport = transport(&ca.config(), &Arc::default(), server.port(), CLOSED);
    let open = async |limits| {
        let request = Request::get("/x").body(Bytes::new()).unwrap();
        let server = <&ServerName>::try_from("127.0.0.1").unwrap();
        whole(transport.open(server, request, limits).await?).await
    };
    let error = open(LIMITS).await.unwrap_err();
    assert!(matches!(error, TransportError::TooLarge(_)), "{error}");
    let enough = Limits { max_bytes: 1025, ..LIMITS };
    assert_eq!(open(enough).await.unwrap().len(), 1025);
    let url = format!("https://127.0.0.1:{}/", server.port());
    let error = fetch(&transport, &url).await.unwrap_err();
    assert!(matches!(error, TransportError::TooLarge(_)), "{error}");
}
