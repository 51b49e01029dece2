use ruma::push::{
    NewConditionalPushRule, NewPatternedPushRule, NewSimplePushRule, PredefinedOverrideRuleId,
};
use serde_json::Value;

use super::*;
use crate::{AccountDataScope, users::testing::Bench};

fn content_rule(rule_id: &str) -> NewPushRule {
    let actions = vec![Action::Notify];
    NewPushRule::Content(NewPatternedPushRule::new(rule_id.to_owned(), "cake".to_owned(), actions))
}

fn override_rule(rule_id: &str) -> NewPushRule {
    NewPushRule::Override(NewConditionalPushRule::new(rule_id.to_owned(), vec![], vec![]))
}

async fn content_ids(users: &Users, user_id: &UserId) -> Vec<String> {
    let rules = users.push_rules(user_id).await.unwrap();
    rules.content.iter().map(|rule| rule.rule_id.clone()).collect()
}

fn refusal(result: Result<(), UsersError>) -> PushRuleError {
    match result {
        Err(UsersError::PushRule(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_defaults_apply_until_changed() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let users = &bench.users;
    assert!(!users.has_own_push_rules(&alice).await.unwrap());
    let scope = AccountDataScope::Global;
    let content = users.account_data(&alice, scope, PUSH_RULES).await.unwrap().unwrap();
    let content: Value = serde_json::from_str(content.get()).unwrap();
    assert_eq!(content["global"]["override"][0]["rule_id"], ".m.rule.master");
    let suppress = PredefinedOverrideRuleId::SuppressNotices.as_str().to_owned();
    users.set_push_rule_enabled(&alice, RuleKind::Override, &suppress, false).await.unwrap();
    assert!(users.has_own_push_rules(&alice).await.unwrap());
    let rules = users.push_rules(&alice).await.unwrap();
    assert!(!rules.get(RuleKind::Override, &suppress).unwrap().enabled());
    let content = users.account_data(&alice, scope, PUSH_RULES).await.unwrap().unwrap();
    let stored: Content<Ruleset> = serde_json::from_str(content.get()).unwrap();
    assert!(!stored.global.get(RuleKind::Override, &suppress).unwrap().enabled());
}

/// The server-default rules of specification v1.19, in their order.
#[tokio::test]
async fn the_defaults_are_those_of_the_specification() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let rules = bench.users.push_rules(&alice).await.unwrap();
    let overrides: Vec<_> = rules.override_.iter().map(|rule| &*rule.rule_id).collect();
    let expected = [
        ".m.rule.master",
        ".m.rule.suppress_notices",
        ".m.rule.invite_for_me",
        ".m.rule.member_event",
        ".m.rule.is_user_mention",
        ".m.rule.is_room_mention",
        ".m.rule.tombstone",
        ".m.rule.reaction",
        ".m.rule.room.server_acl",
        ".m.rule.suppress_edits",
    ];
    assert_eq!(overrides, expected);
    let underrides: Vec<_> = rules.underride.iter().map(|rule| &*rule.rule_id).collect();
    let expected = [
        ".m.rule.call",
        ".m.rule.encrypted_room_one_to_one",
        ".m.rule.room_one_to_one",
        ".m.rule.message",
        ".m.rule.encrypted",
    ];
    assert_eq!(underrides, expected);
    assert!(rules.content.is_empty() && rules.room.is_empty() && rules.sender.is_empty());
}

#[tokio::test]
async fn rules_are_ordered_by_before_and_after() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let users = &bench.users;
    let put = async |rule_id: &str, before: Option<&str>, after: Option<&str>| {
        users.put_push_rule(&alice, content_rule(rule_id), before, after).await
    };
    for rule_id in ["c", "b", "a"] {
        put(rule_id, None, None).await.unwrap();
    }
    assert_eq!(content_ids(users, &alice).await, ["a", "b", "c"]);
    put("a", None, Some("c")).await.unwrap();
    assert_eq!(content_ids(users, &alice).await, ["b", "c", "a"]);
    put("b", Some("a"), None).await.unwrap();
    assert_eq!(content_ids(users, &alice).await, ["c", "b", "a"]);
    put("d", Some("a"), Some("c")).await.unwrap();
    assert_eq!(content_ids(users, &alice).await, ["c", "b", "d", "a"]);
    // Replaced in place, a rule stays where it is.
    put("b", None, None).await.unwrap();
    assert_eq!(content_ids(users, &alice).await, ["c", "b", "d", "a"]);
    assert_eq!(refusal(put("e", Some("c"), Some("a")).await), PushRuleError::BeforeHigherThanAfter);
    assert_eq!(refusal(put("e", Some("zz"), None).await), PushRuleError::UnknownRelative);
    assert_eq!(refusal(put("b", Some("b"), None).await), PushRuleError::UnknownRelative);
    assert_eq!(content_ids(users, &alice).await, ["c", "b", "d", "a"]);
}

#[tokio::test]
async fn the_switch_survives_replacing_and_moving() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let users = &bench.users;
    users.put_push_rule(&alice, content_rule("a"), None, None).await.unwrap();
    users.put_push_rule(&alice, content_rule("b"), None, None).await.unwrap();
    users.set_push_rule_enabled(&alice, RuleKind::Content, "a", false).await.unwrap();
    users.put_push_rule(&alice, content_rule("a"), Some("b"), None).await.unwrap();
    users.put_push_rule(&alice, content_rule("a"), None, None).await.unwrap();
    let rules = users.push_rules(&alice).await.unwrap();
    assert!(!rules.get(RuleKind::Content, "a").unwrap().enabled());
    assert_eq!(content_ids(users, &alice).await, ["a", "b"]);
}

#[tokio::test]
async fn the_master_rule_stays_first() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    bench.users.put_push_rule(&alice, override_rule("mine"), None, None).await.unwrap();
    let rules = bench.users.push_rules(&alice).await.unwrap();
    let first: Vec<_> = rules.override_.iter().take(2).map(|rule| &*rule.rule_id).collect();
    assert_eq!(first, [".m.rule.master", "mine"]);
}

#[tokio::test]
async fn server_rules_and_bad_ids_are_refused() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let users = &bench.users;
    let put = async |rule: NewPushRule, before: Option<&str>| {
        refusal(users.put_push_rule(&alice, rule, before, None).await)
    };
    assert_eq!(put(override_rule(".m.rule.master"), None).await, PushRuleError::ServerDefault);
    assert_eq!(put(override_rule(".mine"), None).await, PushRuleError::ServerDefault);
    assert_eq!(put(content_rule("a/b"), None).await, PushRuleError::InvalidRuleId);
    assert_eq!(put(content_rule("a\\b"), None).await, PushRuleError::InvalidRuleId);
    assert_eq!(put(content_rule(""), None).await, PushRuleError::InvalidRuleId);
    assert_eq!(put(content_rule(&"x".repeat(256)), None).await, PushRuleError::InvalidRuleId);
    let relative = put(override_rule("x"), Some(".m.rule.tombstone")).await;
    assert_eq!(relative, PushRuleError::RelativeToServerDefault);
    let delete = async |kind: RuleKind, rule_id: &str| {
        refusal(users.delete_push_rule(&alice, kind, rule_id).await)
    };
    assert_eq!(delete(RuleKind::Override, ".m.rule.master").await, PushRuleError::ServerDefault);
    assert_eq!(delete(RuleKind::Content, "unknown").await, PushRuleError::NotFound);
    let enable = users.set_push_rule_enabled(&alice, RuleKind::Room, "!x:y", true).await;
    assert_eq!(refusal(enable), PushRuleError::NotFound);
    let act = users.set_push_rule_actions(&alice, RuleKind::Sender, "@x:y", vec![]).await;
    assert_eq!(refusal(act), PushRuleError::NotFound);
    assert!(!users.has_own_push_rules(&alice).await.unwrap());
}

#[tokio::test]
async fn rules_are_deleted_and_bounded() {
    let bench = Bench::new().await;
    let alice = bench.user("alice").await;
    let users = &bench.users;
    let room = ruma::owned_room_id!("!room:b");
    let rule = NewPushRule::Room(NewSimplePushRule::new(room.clone(), vec![]));
    users.put_push_rule(&alice, rule, None, None).await.unwrap();
    let actions = vec![Action::Notify];
    users.set_push_rule_actions(&alice, RuleKind::Room, room.as_str(), actions).await.unwrap();
    let rules = users.push_rules(&alice).await.unwrap();
    assert!(matches!(rules.get(RuleKind::Room, &room).unwrap().actions(), [Action::Notify]));
    users.delete_push_rule(&alice, RuleKind::Room, room.as_str()).await.unwrap();
    assert!(users.push_rules(&alice).await.unwrap().room.is_empty());
    let mut refused = None;
    for number in 0..2_000 {
        let rule_id = format!("{number:0>200}");
        let put = users.put_push_rule(&alice, content_rule(&rule_id), None, None).await;
        if let Err(error) = put {
            refused = Some(error);
            break;
        }
    }
    assert!(matches!(refused, Some(UsersError::PushRule(PushRuleError::TooMany))));
}
