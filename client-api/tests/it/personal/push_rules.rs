//! `/pushrules` (CS "Push rules").

use hearth_testkit::TestServer;
use serde_json::{Value, json};

use crate::support::{V3, list, of_type, refused, text, tidy};

fn rules(rest: &str) -> String {
    format!("{V3}/pushrules/{rest}")
}

fn rule_ids(rules: &Value) -> Vec<&str> {
    list(rules).iter().map(|rule| text(rule, "rule_id")).collect()
}

#[tokio::test]
async fn start_with_the_defaults() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let all = alice.get_ok(&rules("")).await;
    insta::assert_json_snapshot!(tidy(&all, &[]));
    assert_eq!(alice.get_ok(&rules("global/")).await, all["global"]);
    let sync = alice.sync(None, "").await;
    assert_eq!(of_type(&sync["account_data"]["events"], "m.push_rules")["content"], all);
}

#[tokio::test]
async fn are_made_in_order_changed_and_deleted() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let since = alice.now().await;
    let content = |pattern: &str| json!({ "actions": ["notify"], "pattern": pattern });
    let path = |name: &str| rules(&format!("global/content/{name}"));
    alice.put_ok(&path("one"), content("one")).await;
    alice.put_ok(&path("two"), content("two")).await;
    alice.put_ok(&format!("{}?after=two", path("three")), content("three")).await;
    alice.put_ok(&format!("{}?before=three", path("four")), content("four")).await;
    let all = alice.get_ok(&rules("global/")).await;
    let own: Vec<_> =
        rule_ids(&all["content"]).into_iter().filter(|id| !id.starts_with('.')).collect();
    // A new rule comes before the user's others unless it says where.
    assert_eq!(own, ["two", "four", "three", "one"]);
    let one = alice.get_ok(&path("one")).await;
    let expected = json!({ "rule_id": "one", "pattern": "one", "actions": ["notify"],
        "enabled": true, "default": false });
    assert_eq!(one, expected);

    let loud = json!({ "actions": ["notify", { "set_tweak": "sound", "value": "default" }] });
    alice.put_ok(&format!("{}/actions", path("one")), loud.clone()).await;
    assert_eq!(alice.get_ok(&format!("{}/actions", path("one"))).await, loud);
    alice.put_ok(&format!("{}/enabled", path("one")), json!({ "enabled": false })).await;
    assert_eq!(
        alice.get_ok(&format!("{}/enabled", path("one"))).await,
        json!({ "enabled": false })
    );
    assert_eq!(alice.delete(&path("one"), None).await.1, json!({}));
    refused(alice.get(&path("one")).await, 404, "M_NOT_FOUND");

    let update = alice.wait_for_sync(&since).await;
    let event = of_type(&update["account_data"]["events"], "m.push_rules");
    assert_eq!(
        rule_ids(&event["content"]["global"]["content"]).len(),
        own.len() - 1 + rule_ids(&all["content"]).len() - own.len()
    );
}

#[tokio::test]
async fn server_defaults_can_be_switched_but_not_deleted() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let master = rules("global/override/.m.rule.master");
    assert_eq!(alice.get_ok(&format!("{master}/enabled")).await, json!({ "enabled": false }));
    alice.put_ok(&format!("{master}/enabled"), json!({ "enabled": true })).await;
    assert_eq!(alice.get_ok(&format!("{master}/enabled")).await, json!({ "enabled": true }));
    let message = rules("global/underride/.m.rule.message");
    alice.put_ok(&format!("{message}/actions"), json!({ "actions": [] })).await;
    let rule = alice.get_ok(&message).await;
    assert_eq!((&rule["actions"], &rule["default"]), (&json!([]), &json!(true)));
    let (status, _) = alice.delete(&message, None).await;
    assert!(status.is_client_error());
    alice.get_ok(&message).await;
}

#[tokio::test]
async fn bad_ones_are_refused() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let put = async |rest: &str, body: Value| alice.put(&rules(rest), body).await;
    let content = json!({ "actions": ["notify"], "pattern": "x" });
    for (rest, body) in [
        ("global/content/.m.rule.mine", content.clone()),
        ("global/content/a%2Fb", content.clone()),
        ("global/sideways/x", content.clone()),
        ("global/content/x", json!({ "actions": ["notify"] })),
        ("global/content/x", json!({ "pattern": "x" })),
        ("global/content/x", json!({ "actions": "notify", "pattern": "x" })),
        ("global/room/not-a-room", json!({ "actions": [] })),
    ] {
        let (status, answer) = put(rest, body).await;
        assert_eq!(status, 400, "{rest}: {answer}");
    }
    let (status, answer) = put("global/content/x?after=none", content.clone()).await;
    assert!(status == 400 || status == 404, "{answer}");
    refused(alice.get(&rules("global/content/none")).await, 404, "M_NOT_FOUND");
    refused(alice.get(&rules("global/content/none/enabled")).await, 404, "M_NOT_FOUND");
    let body = json!({ "enabled": true });
    refused(alice.put(&rules("global/content/none/enabled"), body).await, 404, "M_NOT_FOUND");
    refused(alice.delete(&rules("global/content/none"), None).await, 404, "M_NOT_FOUND");
}
