//! `GET /account/whoami`, `GET /account/3pid`, and how requests show who they are.

use hearth_testkit::TestServer;
use http::{HeaderMap, Method};

use crate::support::{V3, refused, tidy};

#[tokio::test]
async fn says_whose_token_it_is() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let path = format!("{V3}/account/whoami");
    let me = alice.get_ok(&path).await;
    assert_eq!(me["device_id"], alice.device_id.as_str());
    insta::assert_json_snapshot!(tidy(&me, &[]));
    let addresses = alice.get_ok(&format!("{V3}/account/3pid")).await;
    assert!(addresses["threepids"].as_array().is_none_or(Vec::is_empty), "{addresses}");
}

#[tokio::test]
async fn tokens_come_in_the_header_or_the_query() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let anybody = server.client();
    let path = format!("{V3}/account/whoami");
    refused(anybody.get(&path).await, 401, "M_MISSING_TOKEN");
    refused(anybody.with_token("made-up").get(&path).await, 401, "M_UNKNOWN_TOKEN");
    anybody.get_ok(&format!("{path}?access_token={}", alice.token)).await;
    let mut headers = HeaderMap::new();
    headers.insert("authorization", "Basic YTpi".parse().unwrap());
    let answer = anybody.send(Method::GET, &path, headers, None).await;
    refused((answer.status, answer.json()), 401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn sessions_survive_a_restart() {
    let mut server = TestServer::start().await;
    let alice = server.register("alice").await;
    server.restart().await;
    let me = alice.get_ok(&format!("{V3}/account/whoami")).await;
    assert_eq!(me["user_id"], "@alice:localhost");
    server.login("alice").await;
}
