//! What a user set for a room goes on in the room that replaces it (CS "Room upgrades").

use ruma::{
    RoomId, UserId,
    push::{NewPushRule, NewSimplePushRule, RuleKind},
};
use serde_json::{Map, Value};

use crate::{AccountDataScope, Users, UsersError, account_data::DIRECT};

impl Users {
    /// Gives the new room what the user has set for the old one: tags, the mark of a direct chat, and
    /// their push rule for it. What they have set for the new one already stays.
    pub async fn inherit_room_settings(
        &self,
        user_id: &UserId,
        old: &RoomId,
        new: &RoomId,
    ) -> Result<(), UsersError> {
        let tags = self.tags(user_id, old).await?;
        if !tags.is_empty() {
            self.add_missing_tags(user_id, new, tags).await?;
        }
        self.inherit_direct(user_id, old, new).await?;
        self.inherit_push_rule(user_id, old, new).await
    }

    /// The new room is a direct chat with whom the old one was.
    async fn inherit_direct(
        &self,
        user_id: &UserId,
        old: &RoomId,
        new: &RoomId,
    ) -> Result<(), UsersError> {
        let (old, new) = (Value::from(old.as_str()), Value::from(new.as_str()));
        self.exclusive(user_id, move |users, user_id| async move {
            let scope = AccountDataScope::Global;
            let mut chats = users.account_data_object(&user_id, scope, DIRECT).await?;
            let mut changed = false;
            for rooms in chats.values_mut().filter_map(Value::as_array_mut) {
                if rooms.contains(&old) && !rooms.contains(&new) {
                    rooms.push(new.clone());
                    changed = true;
                }
            }
            if changed {
                let key = (String::new(), DIRECT.to_owned());
                let json = Value::Object(chats).to_string();
                users.write_account_data_now(&user_id, key, json).await?;
            }
            Ok(())
        })
        .await
    }

    async fn inherit_push_rule(
        &self,
        user_id: &UserId,
        old: &RoomId,
        new: &RoomId,
    ) -> Result<(), UsersError> {
        let rules = self.push_rules(user_id).await?;
        let Some(rule) = rules.get(RuleKind::Room, old) else { return Ok(()) };
        if rules.get(RuleKind::Room, new).is_some() {
            return Ok(());
        }
        let copy = NewSimplePushRule::new(new.to_owned(), rule.actions().to_vec());
        self.put_push_rule(user_id, NewPushRule::Room(copy), None, None).await?;
        if !rule.enabled() {
            self.set_push_rule_enabled(user_id, RuleKind::Room, new.as_str(), false).await?;
        }
        Ok(())
    }

    async fn add_missing_tags(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        inherited: Map<String, Value>,
    ) -> Result<(), UsersError> {
        self.change_tags(user_id, room_id, |tags| {
            let before = tags.len();
            for (tag, info) in inherited {
                tags.entry(tag).or_insert(info);
            }
            tags.len() > before
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use ruma::{push::Action, room_id};
    use serde_json::{json, value::to_raw_value};

    use super::*;
    use crate::users::testing::Bench;

    #[tokio::test]
    async fn tags_direct_chats_and_push_rules_go_on_and_what_was_set_stays() {
        let bench = Bench::new().await;
        let alice = bench.user("alice").await;
        let users = &bench.users;
        let (old, new) = (room_id!("!old:hearth.test"), room_id!("!new:hearth.test"));
        let info = |order: f64| Map::from_iter([("order".to_owned(), json!(order))]);
        users.set_tag(&alice, old, "m.favourite", info(0.5)).await.unwrap();
        users.set_tag(&alice, old, "u.work", info(0.5)).await.unwrap();
        users.set_tag(&alice, new, "u.work", info(0.1)).await.unwrap();
        let direct = to_raw_value(&json!({
            "@bob:hearth.test": [old, "!other:hearth.test"], "@carol:hearth.test": [],
        }));
        let scope = AccountDataScope::Global;
        users.set_account_data(&alice, scope, DIRECT, &direct.unwrap()).await.unwrap();
        let muted = NewSimplePushRule::new(old.to_owned(), vec![Action::Notify]);
        users.put_push_rule(&alice, NewPushRule::Room(muted), None, None).await.unwrap();
        let kind = RuleKind::Room;
        users.set_push_rule_enabled(&alice, kind, old.as_str(), false).await.unwrap();

        users.inherit_room_settings(&alice, old, new).await.unwrap();
        // What is there already is not added again.
        users.inherit_room_settings(&alice, old, new).await.unwrap();
        let tags = Value::Object(users.tags(&alice, new).await.unwrap());
        let expected = json!({ "m.favourite": { "order": 0.5 }, "u.work": { "order": 0.1 } });
        assert_eq!(tags, expected);
        let chats = users.account_data_object(&alice, scope, DIRECT).await.unwrap();
        let expected = json!({
            "@bob:hearth.test": [old, "!other:hearth.test", new], "@carol:hearth.test": [],
        });
        assert_eq!(Value::Object(chats), expected);
        let rules = users.push_rules(&alice).await.unwrap();
        let rule = rules.get(RuleKind::Room, new).unwrap();
        assert!(!rule.enabled());
        assert!(matches!(rule.actions(), [Action::Notify]));
    }

    #[tokio::test]
    async fn who_has_set_nothing_gets_nothing() {
        let bench = Bench::new().await;
        let alice = bench.user("alice").await;
        let (old, new) = (room_id!("!old:hearth.test"), room_id!("!new:hearth.test"));
        bench.users.inherit_room_settings(&alice, old, new).await.unwrap();
        assert!(bench.users.room_account_data(&alice, new).await.unwrap().is_empty());
        assert!(!bench.users.has_own_push_rules(&alice).await.unwrap());
    }
}
