//! Ignored users: read from the account data `m.ignored_user_list`, kept in memory.

use std::{collections::HashSet, sync::Arc};

use quick_cache::sync::Cache;
use ruma::{OwnedUserId, UserId};
use serde_json::Value;

use crate::{AccountDataScope, Users, UsersError, account_data::IGNORED_USERS};

/// Users whose lists are kept in memory.
const MAX_CACHED: usize = 20_000;

/// Lists in memory, filled and emptied under the lock of their user.
#[derive(Debug)]
pub(crate) struct IgnoredCache(Cache<OwnedUserId, Arc<HashSet<OwnedUserId>>>);

impl IgnoredCache {
    pub(crate) fn new() -> Self {
        Self(Cache::new(MAX_CACHED))
    }

    pub(crate) fn remove(&self, user_id: &UserId) {
        self.0.remove(user_id);
    }
}

impl Users {
    /// Whom a user ignores. Malformed entries of the list are passed over.
    pub async fn ignored_users(
        &self,
        user_id: &UserId,
    ) -> Result<Arc<HashSet<OwnedUserId>>, UsersError> {
        if let Some(known) = self.inner.ignored.0.get(user_id) {
            return Ok(known);
        }
        self.exclusive(user_id, move |users, user_id| async move {
            let scope = AccountDataScope::Global;
            let mut content = users.account_data_object(&user_id, scope, IGNORED_USERS).await?;
            let ignored: HashSet<_> = match content.remove("ignored_users") {
                Some(Value::Object(list)) => list
                    .into_iter()
                    .filter_map(|(ignored, _)| UserId::parse(ignored).ok())
                    .collect(),
                _ => HashSet::new(),
            };
            let ignored = Arc::new(ignored);
            users.inner.ignored.0.insert(user_id, Arc::clone(&ignored));
            Ok(ignored)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::value::RawValue;

    use super::*;
    use crate::users::testing::Bench;

    #[tokio::test]
    async fn the_list_follows_the_account_data() {
        let bench = Bench::new().await;
        let alice = bench.user("alice").await;
        let users = &bench.users;
        let set = async |json: &str| {
            let content = RawValue::from_string(json.to_owned()).unwrap();
            let scope = AccountDataScope::Global;
            users.set_account_data(&alice, scope, IGNORED_USERS, &content).await.unwrap();
            users.ignored_users(&alice).await.unwrap().len()
        };
        assert!(users.ignored_users(&alice).await.unwrap().is_empty());
        assert_eq!(set(r#"{"ignored_users":{"@bob:b":{},"not a user":{}}}"#).await, 1);
        assert!(users.ignored_users(&alice).await.unwrap().contains(user_id!("@bob:b")));
        assert_eq!(set(r#"{"ignored_users":[]}"#).await, 0);
        assert_eq!(set("{}").await, 0);
    }
}
