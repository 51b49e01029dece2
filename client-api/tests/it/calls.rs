//! `/voip/turnServer` and `/rtc/transports`: servers that carry calls.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hearth_testkit::{Client, TestServer, TestServerBuilder};
use hearth_users::Secret;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha1::Sha1;

use crate::support::{V1, V3, refused, text};

const UNSTABLE_TRANSPORTS: &str = "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports";

fn turn_server() -> String {
    format!("{V3}/voip/turnServer")
}

fn with_turn() -> TestServerBuilder {
    TestServer::builder().config(|config| {
        config.users.allow_guests = true;
        let calls = &mut config.client.calls;
        calls.turn_uris = vec!["turn:turn.example.org:3478?transport=udp".to_owned()];
        calls.turn_shared_secret = Some(Secret::new("shared".to_owned()));
        calls.turn_lifetime_s = 600;
    })
}

async fn guest(server: &TestServer) -> Client {
    let answer = server.client().post_ok(&format!("{V3}/register?kind=guest"), json!({})).await;
    server.client().with_token(text(&answer, "access_token"))
}

#[tokio::test]
async fn without_a_turn_server_there_are_no_credentials() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    assert_eq!(alice.get_ok(&turn_server()).await, json!({}));
    refused(server.client().get(&turn_server()).await, 401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn credentials_from_a_shared_secret_name_the_user_and_expire() {
    let server = with_turn().start().await;
    let alice = server.register("alice").await;
    let answer = alice.get_ok(&turn_server()).await;
    assert_eq!(answer["uris"], json!(["turn:turn.example.org:3478?transport=udp"]));
    assert_eq!(answer["ttl"], 600);
    let username = text(&answer, "username");
    let (expires, user_id) = username.split_once(':').unwrap();
    assert_eq!(user_id, alice.user_id.as_str());
    assert!(expires.parse::<u64>().unwrap() > 600);
    // What the TURN server computes from the user name.
    let mut mac = Hmac::<Sha1>::new_from_slice(b"shared").unwrap();
    mac.update(username.as_bytes());
    assert_eq!(answer["password"], STANDARD.encode(mac.finalize().into_bytes()));
}

#[tokio::test]
async fn fixed_credentials_are_the_configured_ones() {
    let server = with_turn()
        .config(|config| {
            let calls = &mut config.client.calls;
            calls.turn_shared_secret = None;
            calls.turn_username = Some("everybody".to_owned());
            calls.turn_password = Some(Secret::new("open sesame".to_owned()));
        })
        .start()
        .await;
    let alice = server.register("alice").await;
    let answer = alice.get_ok(&turn_server()).await;
    assert_eq!(
        (&answer["username"], &answer["password"]),
        (&json!("everybody"), &json!("open sesame"))
    );
}

#[tokio::test]
async fn guests_have_credentials_where_the_operator_says_so() {
    let server = with_turn().start().await;
    let client = guest(&server).await;
    refused(client.get(&turn_server()).await, 403, "M_GUEST_ACCESS_FORBIDDEN");
    let server = with_turn().config(|c| c.client.calls.turn_for_guests = true).start().await;
    let client = guest(&server).await;
    assert!(client.get_ok(&turn_server()).await["password"].is_string());
}

#[tokio::test]
async fn transports_of_rtc_are_the_configured_ones() {
    let url = "https://livekit.example.org/";
    let server = TestServer::builder()
        .config(|config| {
            config.users.allow_guests = true;
            config.client.base_url = Some("https://matrix.example.org".to_owned());
            config.client.calls.livekit_service_urls = vec![url.to_owned()];
        })
        .start()
        .await;
    let alice = server.register("alice").await;
    let expected: Value = json!([{ "type": "livekit", "livekit_service_url": url }]);
    for path in [format!("{V1}/rtc/transports"), UNSTABLE_TRANSPORTS.to_owned()] {
        assert_eq!(alice.get_ok(&path).await, json!({ "rtc_transports": expected }));
        assert_eq!(guest(&server).await.get_ok(&path).await["rtc_transports"], expected);
        refused(server.client().get(&path).await, 401, "M_MISSING_TOKEN");
    }
    let known = server.client().get_ok("/.well-known/matrix/client").await;
    assert_eq!(known["org.matrix.msc4143.rtc_foci"], expected);
    assert_eq!(known["m.homeserver"]["base_url"], "https://matrix.example.org");
    let versions = server.client().get_ok("/_matrix/client/versions").await;
    assert_eq!(versions["unstable_features"]["org.matrix.msc4143"], true);
}

#[tokio::test]
async fn without_transports_the_list_is_empty() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let answer = alice.get_ok(&format!("{V1}/rtc/transports")).await;
    assert_eq!(answer, json!({ "rtc_transports": [] }));
}
