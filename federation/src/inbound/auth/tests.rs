use hearth_http::{Endpoints, RawJson, Ruma};
use http::{HeaderMap, HeaderValue, Method, Request, header};
use proptest::{prelude::*, sample::Index};
use ruma::{
    api::{
        auth_scheme::AuthScheme as _,
        federation::{
            authentication::XMatrixSigningInput,
            event::{get_event, get_missing_events},
        },
    },
    server_name,
};
use serde_json::json;
use tower::ServiceExt as _;

use super::{header::parse, *};
use crate::testing::{Network, Server};

/// Origin, destination, key and signature of parameters, or nothing.
fn read(parameters: &str) -> Option<(String, Option<String>, String, Vec<u8>)> {
    let claim = parse(parameters).ok()?;
    let destination = claim.destination.map(|name| name.to_string());
    Some((claim.origin.to_string(), destination, claim.key.to_string(), claim.sig.into_inner()))
}

#[test]
fn parameters_are_read_leniently() {
    let expected =
        ("a.b:80".to_owned(), Some("c.d".to_owned()), "ed25519:k".to_owned(), b"test".to_vec());
    for parameters in [
        r#"origin="a.b:80",destination="c.d",key="ed25519:k",sig="dGVzdA""#,
        r#"sig="dGVzdA==",key="ed25519:k",destination="c.d",origin="a.b:80""#,
        "origin=a.b:80,destination=c.d,key=ed25519:k,sig=dGVzdA==",
        r#"  ORIGIN = "a.b:80" , Destination= c.d ,	kEy ="ed25519:k",, Sig=dGVzdA , "#,
        r#"origin="a\.b:8\0",destination=c.d,key="ed2\5519:k",sig=dGVzdA,other="x,y=\"z\"""#,
    ] {
        assert_eq!(read(parameters).as_ref(), Some(&expected), "{parameters}");
    }
    let without = read("origin=a.b:80,key=ed25519:k,sig=dGVzdA").unwrap();
    assert_eq!(without.1, None);
}

#[test]
fn malformed_parameters_are_refused() {
    for parameters in [
        "",
        "origin",
        "origin=a.b",
        "origin=a.b,key=ed25519:k",
        "origin=a.b,key=ed25519:k,sig=dGVzdA,sig=dGVzdA",
        r#"origin="a.b,key=ed25519:k,sig=dGVzdA"#,
        r#"origin="a.b" key=ed25519:k,sig=dGVzdA"#,
        "origin=a.b,key=ed25519,sig=dGVzdA",
        "origin=a b,key=ed25519:k,sig=dGVzdA",
        "origin=!!,key=ed25519:k,sig=dGVzdA",
        "origin=a.b,key=ed25519:k,sig=%%",
        r#"origin=a.b,key=ed25519:k,sig="dGVzdA\"#,
        "=,origin=a.b,key=ed25519:k,sig=dGVzdA",
    ] {
        assert_eq!(read(parameters), None, "{parameters}");
    }
}

/// A parameter in one of the forms that mean the same.
fn written(name: &str, value: &str, form: u8) -> String {
    let name = if form & 1 == 0 { name.to_owned() } else { name.to_ascii_uppercase() };
    let value = match form & 6 {
        0 => value.to_owned(),
        2 => format!("\"{value}\""),
        _ => format!("\"{}\"", value.chars().flat_map(|next| ['\\', next]).collect::<String>()),
    };
    let blank = if form & 8 == 0 { "" } else { " \t" };
    format!("{blank}{name}{blank}={blank}{value}{blank}")
}

proptest! {
    #[test]
    fn every_form_of_the_same_is_read_alike(
        origin in "[a-z]{1,10}\\.[a-z]{2}(:[1-9][0-9]{2})?",
        destination in proptest::option::of("[a-z]{1,10}\\.[a-z]{2}"),
        key in "[a-zA-Z0-9_]{1,8}",
        sig in proptest::collection::vec(any::<u8>(), 1..70),
        forms in any::<[u8; 4]>(),
        first in any::<Index>(),
    ) {
        let (key, encoded) = (format!("ed25519:{key}"), ruma::serde::Base64::<ruma::serde::base64::Standard, _>::new(&sig).encode());
        let mut parameters = vec![
            written("origin", &origin, forms[0]),
            written("key", &key, forms[1]),
            written("sig", &encoded, forms[2]),
        ];
        parameters.extend(destination.iter().map(|name| written("destination", name, forms[3])));
        let first = first.index(parameters.len());
        parameters.rotate_left(first);
        prop_assert_eq!(read(&parameters.join(",")), Some((origin, destination, key, sig)));
    }

    #[test]
    fn no_header_makes_the_parser_panic(value in "[ -~\\t]{0,80}", rest in "[origndestikyX\\-M=,\"\\\\ :]{0,60}") {
        for value in [value, format!("X-Matrix {rest}"), format!("X-Matrix origin={rest}")] {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(header::AUTHORIZATION, value);
                drop(claims(&headers, server_name!("us.example")));
            }
        }
    }
}

async fn missing(
    _: Api,
    request: Ruma<get_missing_events::v1::Request, Origin>,
) -> Result<RawJson, MatrixError> {
    Ok(RawJson(json!({ "origin": request.identity.0 }).to_string().into()))
}

async fn event(
    _: Api,
    request: Ruma<get_event::v1::Request, Origin>,
) -> Result<RawJson, MatrixError> {
    Ok(RawJson(json!({ "event": request.event_id }).to_string().into()))
}

/// Two servers, and endpoints of the first that tell who asked.
struct Bench {
    us: Server,
    them: Server,
    router: axum::Router,
}

async fn bench(deny: &[&str]) -> Bench {
    let network = Network::default();
    let us = Server::open_with("us.example", &network, |config| {
        config.deny = deny.iter().map(|name| (*name).to_owned()).collect();
    })
    .await;
    let them = Server::open("them.example", &network).await;
    let endpoints = Endpoints::new().ruma(missing).ruma(event);
    let router = hearth_http::finish(
        endpoints.into_router(Api::for_tests(us.federation.clone(), us.http.clone())),
    );
    Bench { us, them, router }
}

const MISSING: &str = "/_matrix/federation/v1/get_missing_events/%21a%3Ab";

impl Bench {
    /// A request of theirs, signed for `destination`.
    fn signed(&self, method: Method, uri: &str, body: &str, destination: &str) -> Request<Vec<u8>> {
        let mut request =
            Request::builder().method(method).uri(uri).body(body.as_bytes().to_vec()).unwrap();
        let identity = self.them.federation.identity();
        let input = XMatrixSigningInput::new(
            identity.server_name().to_owned(),
            OwnedServerName::try_from(destination).unwrap(),
            identity.key_pair(),
        );
        ServerSignatures::add_authentication(&mut request, input).unwrap();
        request
    }

    async fn send(&self, request: Request<Vec<u8>>) -> (u16, String) {
        let response =
            self.router.clone().oneshot(request.map(axum::body::Body::from)).await.unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }
}

const BODY: &str = r#"{"earliest_events": [], "latest_events": ["$a"], "é": "ü\u0041"}"#;

#[tokio::test]
async fn a_signed_request_is_known_by_its_origin() {
    let bench = bench(&[]).await;
    let post = bench.signed(Method::POST, MISSING, BODY, "us.example");
    assert_eq!(bench.send(post).await, (200, r#"{"origin":"them.example"}"#.to_owned()));
    let get =
        bench.signed(Method::GET, "/_matrix/federation/v1/event/%24a%2Fb?x=%20y", "", "us.example");
    assert_eq!(bench.send(get).await, (200, r#"{"event":"$a/b"}"#.to_owned()));
    // Our own requests to ourselves need no network.
    assert_eq!(bench.us.federation.identity().server_name(), "us.example");
}

#[tokio::test]
async fn what_was_changed_on_the_way_is_refused() {
    let bench = bench(&[]).await;
    let signed = || bench.signed(Method::POST, MISSING, BODY, "us.example");
    let mut body = signed();
    *body.body_mut() = BODY.replace("$a", "$b").into_bytes();
    let mut uri = signed();
    *uri.uri_mut() = MISSING.replace("%21", "!").parse().unwrap();
    let mut query = signed();
    *query.uri_mut() = format!("{MISSING}?x=y").parse().unwrap();
    let mut gone = signed();
    gone.headers_mut().remove(header::AUTHORIZATION);
    let mut bearer = signed();
    bearer.headers_mut().insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer abc"));
    let elsewhere = bench.signed(Method::POST, MISSING, BODY, "other.example");
    for request in [body, uri, query, gone, bearer, elsewhere] {
        let (status, answer) = bench.send(request).await;
        assert_eq!(status, 401, "{answer}");
        assert!(answer.contains("M_UNAUTHORIZED"));
    }
}

#[tokio::test]
async fn a_destination_may_be_left_out_and_one_of_several_headers_suffices() {
    let bench = bench(&[]).await;
    let mut request = bench.signed(Method::POST, MISSING, BODY, "us.example");
    let value = request.headers()[header::AUTHORIZATION].to_str().unwrap().to_owned();
    let value = value.replace("destination=us.example,", "");
    request.headers_mut().insert(header::AUTHORIZATION, value.parse().unwrap());
    assert_eq!(bench.send(request.clone()).await.0, 200);
    let wrong = "X-Matrix origin=them.example,key=ed25519:nobody,sig=dGVzdA";
    request.headers_mut().insert(header::AUTHORIZATION, HeaderValue::from_static(wrong));
    assert_eq!(bench.send(request.clone()).await.0, 401);
    request.headers_mut().append(header::AUTHORIZATION, value.parse().unwrap());
    assert_eq!(bench.send(request.clone()).await.0, 200);
    let other = "X-Matrix origin=other.example,key=ed25519:nobody,sig=dGVzdA";
    request.headers_mut().append(header::AUTHORIZATION, HeaderValue::from_static(other));
    assert_eq!(bench.send(request).await.0, 401);
}

/// A request to `us.example` that is signed whatever its body holds.
pub(in crate::inbound) fn signed_anyway(
    from: &Server,
    method: Method,
    uri: &str,
    body: String,
) -> Request<String> {
    let identity = from.federation.identity();
    let origin = identity.server_name();
    let parts = ["us.example", method.as_str(), origin.as_str(), uri];
    let object = canonical::request_object(parts, body.as_bytes()).unwrap();
    let signature = ruma::signatures::KeyPair::sign(identity.key_pair(), object.as_bytes());
    let value = format!(
        "X-Matrix origin={origin},destination=us.example,key={},sig={}",
        signature.id(),
        signature.base64()
    );
    let request = Request::builder().method(method).uri(uri);
    request.header(header::AUTHORIZATION, value).body(body).unwrap()
}

#[tokio::test]
async fn a_fraction_in_the_body_does_not_lose_the_request() {
    let bench = bench(&[]).await;
    let body = r#"{"earliest_events":[],"latest_events":[],"unheard_of":1.50}"#;
    let request = signed_anyway(&bench.them, Method::POST, MISSING, body.to_owned());
    assert_eq!(bench.send(request.map(String::into_bytes)).await.0, 200);
}

#[tokio::test]
async fn servers_that_are_not_federated_with_are_forbidden() {
    let bench = bench(&["them.example"]).await;
    let (status, answer) =
        bench.send(bench.signed(Method::POST, MISSING, BODY, "us.example")).await;
    assert_eq!(status, 403);
    assert!(answer.contains("M_FORBIDDEN"));
}
