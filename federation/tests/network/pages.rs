//! Pages of the web: connected to only where strangers may have this server connect to.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::TryStreamExt as _;
use hearth_federation::{
    discovery::{
        dns::{DnsError, Resolver, Service},
        guard::AddressGuard,
    },
    transport::{BodyStream, Limits, WebClient, WebError},
};
use http::{Request, Response, StatusCode};
use ipnet::IpNet;

use crate::{
    HERE,
    fake::{Authority, Machine, Names, says},
    redirects,
};

const LIMITS: Limits = Limits { timeout: Duration::from_secs(20), max_bytes: 1_024 };

fn client(
    ca: &Authority,
    allowed: &[&str],
    denied: &[&str],
    resolver: Arc<dyn Resolver>,
) -> WebClient {
    let networks =
        |texts: &[&str]| -> Vec<IpNet> { texts.iter().map(|text| text.parse().unwrap()).collect() };
    let guard = AddressGuard::of_setting(networks(allowed), "test").denying(networks(denied));
    WebClient::with(&ca.config(), guard, true, 1, resolver).unwrap()
}

async fn get(client: &WebClient, url: &str) -> Result<Response<BodyStream>, WebError> {
    client.get(Request::get(url).body(()).unwrap(), LIMITS).await
}

async fn text(response: Response<BodyStream>) -> String {
    let chunks: Vec<bytes::Bytes> = response.into_body().try_collect().await.unwrap();
    String::from_utf8(chunks.concat()).unwrap()
}

#[tokio::test]
async fn a_page_is_read_and_its_redirects_are_for_others_to_follow() {
    let ca = Authority::new();
    let page = Machine::start(&ca, &["page.example"], 0, says("hello")).await;
    let away = Machine::start(&ca, &["page.example"], 0, redirects("http://127.0.0.1/")).await;
    let names = Arc::new(Names::default().host("page.example", &[HERE]));
    let client = client(&ca, &["127.0.0.0/8"], &[], names);
    let found = get(&client, &format!("https://page.example:{}/a?b", page.port())).await.unwrap();
    assert_eq!(text(found).await, "hello");
    assert_eq!(page.paths(), ["/a?b"]);
    let found = get(&client, &format!("https://page.example:{}/", away.port())).await.unwrap();
    assert_eq!(found.status(), StatusCode::FOUND);
    // A certificate for another name is not believed.
    assert!(get(&client, &format!("https://127.0.0.1:{}/", page.port())).await.is_err());
}

#[tokio::test]
async fn forbidden_addresses_are_not_connected_to_in_any_form() {
    let ca = Authority::new();
    let inner = Machine::start(&ca, &["127.0.0.1", "inner.example"], 0, says("secret")).await;
    let port = inner.port();
    let names = Names::default()
        .host("inner.example", &[HERE])
        .host("both.example", &[[10, 0, 0, 1], HERE])
        .host("mapped.example", &[[169, 254, 169, 254]]);
    let names = Arc::new(names);
    for (allowed, denied) in [(&[][..], &[][..]), (&["127.0.0.0/8"][..], &["127.0.0.1/32"][..])] {
        let client = client(&ca, allowed, denied, Arc::<Names>::clone(&names));
        for host in [
            "127.0.0.1",
            "inner.example",
            "both.example",
            "mapped.example",
            "localhost",
            "0.0.0.0",
            "[::]",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::ffff:0:127.0.0.1]",
            "[64:ff9b::127.0.0.1]",
            "[2002:7f00:1::]",
            "[fe80::1]",
            "[fd00::1]",
            "[ff02::1]",
            "100.64.0.1",
            "192.168.0.1",
            "224.0.0.1",
            "255.255.255.255",
        ] {
            for scheme in ["http", "https"] {
                let url = format!("{scheme}://{host}:{port}/");
                assert!(get(&client, &url).await.is_err(), "{url}");
            }
        }
    }
    assert_eq!(inner.connections(), 0);
}

/// A name whose address is another one whenever it is asked for.
#[derive(Debug)]
struct Turning(AtomicUsize);

#[async_trait]
impl Resolver for Turning {
    async fn addresses(&self, _: &str) -> Result<Vec<IpAddr>, DnsError> {
        let turn = self.0.fetch_add(1, Ordering::Relaxed);
        let last = if turn == 0 { 2 } else { 1 };
        Ok(vec![IpAddr::from([127, 0, 0, last])])
    }

    async fn services(&self, name: &str) -> Result<Vec<Service>, DnsError> {
        Err(DnsError::NoRecords(name.to_owned()))
    }
}

#[tokio::test]
async fn the_address_that_was_judged_is_the_one_that_is_connected_to() {
    let ca = Authority::new();
    // Serves on 127.0.0.1 only, which the guard forbids. 127.0.0.2, which it allows, has nobody at this port.
    let inner = Machine::start(&ca, &["turning.example"], 0, says("secret")).await;
    let names = Arc::new(Turning(AtomicUsize::new(0)));
    let client = client(&ca, &["127.0.0.2/32"], &[], Arc::<Turning>::clone(&names));
    let url = format!("http://turning.example:{}/", inner.port());
    for turn in 1..=3 {
        let error = get(&client, &url).await.map(|_| ()).unwrap_err();
        assert_eq!(names.0.load(Ordering::Relaxed), turn, "asked once for each request");
        let expected = if turn == 1 { "127.0.0.2" } else { "loopback" };
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert_eq!(inner.connections(), 0);
}
