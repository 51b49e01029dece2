//! `/thirdparty/*`, and what only application services may ask, of a server without either.

use hearth_testkit::TestServer;
use serde_json::json;

use crate::support::{V3, refused};

#[tokio::test]
async fn a_server_without_bridges_knows_no_protocol() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    assert_eq!(alice.get_ok(&format!("{V3}/thirdparty/protocols")).await, json!({}));
    for path in [
        "protocol/irc",
        "location/irc?channel=%23matrix",
        "user/irc?nick=somebody",
        "location?alias=%23freenode_%23matrix:localhost",
        "user?userid=%40irc_somebody:localhost",
    ] {
        let answer = alice.get(&format!("{V3}/thirdparty/{path}")).await;
        refused(answer, 404, "M_NOT_FOUND");
    }
    let answer = server.client().get(&format!("{V3}/thirdparty/protocols")).await;
    refused(answer, 401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn nobody_is_an_application_service() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let ping = "/_matrix/client/v1/appservice/irc/ping";
    refused(alice.post(ping, json!({})).await, 403, "M_FORBIDDEN");
    let list = format!("{V3}/directory/list/appservice/irc/!room:localhost");
    refused(alice.put(&list, json!({ "visibility": "public" })).await, 403, "M_FORBIDDEN");
    refused(server.client().post(ping, json!({})).await, 401, "M_MISSING_TOKEN");
}
