//! Stored filters (CS "Filtering"): numbered, the same content once, the newest 1,000 per user kept.

use std::{ops::Bound, sync::Arc};

use hearth_storage::{Commit, Direction, Keyspace, postcard_record};
use quick_cache::sync::Cache;
use ruma::{OwnedUserId, UserId, api::client::filter::FilterDefinition};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{TokenHash, Users, UsersError};

pub(crate) const FILTERS: Keyspace<OwnedUserId, u64, FilterRow> = Keyspace::new("filters");
/// From the hash of a filter's content to its number.
pub(crate) const FILTER_NUMBERS: Keyspace<OwnedUserId, TokenHash, FilterNumber> =
    Keyspace::new("filter_numbers");

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FilterRow {
    pub(crate) json: String,
}
postcard_record!(FilterRow, version = 1);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FilterNumber(pub(crate) u64);
postcard_record!(FilterNumber, version = 1);

/// The newest filters of a user that are kept.
const MAX_FILTERS: u64 = 1_000;
/// One filter.
const MAX_FILTER_BYTES: usize = 64 * 1024;
/// Parsed filters kept in memory.
const MAX_PARSED: usize = 5_000;
/// Rows deleted by one commit.
const BATCH: usize = 200;

/// Parsed filters. A number never gets another content, so nothing here goes stale.
#[derive(Debug)]
pub(crate) struct FilterCache(Cache<(OwnedUserId, u64), Arc<FilterDefinition>>);

impl FilterCache {
    pub(crate) fn new() -> Self {
        Self(Cache::new(MAX_PARSED))
    }
}

impl Users {
    /// Stores a filter, a JSON object of at most 64 KiB; returns its ID.
    pub async fn create_filter(
        &self,
        user_id: &UserId,
        filter: &RawValue,
    ) -> Result<String, UsersError> {
        let json = filter.get().to_owned();
        if json.len() > MAX_FILTER_BYTES {
            return Err(UsersError::TooLarge { max_bytes: MAX_FILTER_BYTES });
        }
        serde_json::from_str::<FilterDefinition>(&json)
            .map_err(|error| UsersError::InvalidContent(error.to_string()))?;
        let hash = TokenHash::of(&json);
        self.exclusive(user_id, move |users, user_id| async move {
            let store = users.store();
            if let Some(known) = store.get(&FILTER_NUMBERS, &user_id, &hash).await? {
                return Ok(known.0.to_string());
            }
            let newest = store.page(&FILTERS, &user_id, .., Direction::Backward, 1).await?;
            let number = newest.first().map_or(0, |(number, _)| number + 1);
            let mut commit = Commit::new(&user_id);
            commit.put(&FILTERS, &user_id, &number, &FilterRow { json });
            commit.put(&FILTER_NUMBERS, &user_id, &hash, &FilterNumber(number));
            if let Some(oldest) = number.checked_sub(MAX_FILTERS)
                && let Some(row) = store.get(&FILTERS, &user_id, &oldest).await?
            {
                commit.delete(&FILTERS, &user_id, &oldest);
                commit.delete(&FILTER_NUMBERS, &user_id, &TokenHash::of(&row.json));
            }
            store.commit(commit).await?;
            Ok(number.to_string())
        })
        .await
    }

    /// A stored filter as it was put.
    pub async fn filter(
        &self,
        user_id: &UserId,
        filter_id: &str,
    ) -> Result<Option<Box<RawValue>>, UsersError> {
        let Some(number) = filter_number(filter_id) else { return Ok(None) };
        let Some(row) = self.store().get(&FILTERS, &user_id.to_owned(), &number).await? else {
            return Ok(None);
        };
        RawValue::from_string(row.json)
            .map(Some)
            .map_err(|error| UsersError::Internal(format!("a stored filter: {error}")))
    }

    /// A stored filter, parsed; kept in memory for the next request.
    pub async fn filter_definition(
        &self,
        user_id: &UserId,
        filter_id: &str,
    ) -> Result<Option<Arc<FilterDefinition>>, UsersError> {
        let Some(number) = filter_number(filter_id) else { return Ok(None) };
        let key = (user_id.to_owned(), number);
        if let Some(parsed) = self.inner.filters.0.get(&key) {
            return Ok(Some(parsed));
        }
        let Some(row) = self.store().get(&FILTERS, &key.0, &number).await? else {
            return Ok(None);
        };
        let parsed: FilterDefinition = serde_json::from_str(&row.json)
            .map_err(|error| UsersError::Internal(format!("a stored filter: {error}")))?;
        let parsed = Arc::new(parsed);
        self.inner.filters.0.insert(key, Arc::clone(&parsed));
        Ok(Some(parsed))
    }

    /// Under the user's lock: all filters of a deactivated user.
    pub(crate) async fn delete_filters_now(&self, user_id: &OwnedUserId) -> Result<(), UsersError> {
        let all = (Bound::Unbounded, Bound::Unbounded);
        let rows = self.store().page_all(&FILTERS, user_id, all).await?;
        for chunk in rows.chunks(BATCH) {
            let mut commit = Commit::new(user_id);
            for (number, row) in chunk {
                commit.delete(&FILTERS, user_id, number);
                commit.delete(&FILTER_NUMBERS, user_id, &TokenHash::of(&row.json));
            }
            self.store().commit(commit).await?;
        }
        Ok(())
    }
}

/// The number behind a filter's ID, in the one way of writing it.
fn filter_number(filter_id: &str) -> Option<u64> {
    filter_id.parse().ok().filter(|number: &u64| number.to_string() == filter_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::testing::Bench;

    fn filter(limit: u64) -> Box<RawValue> {
        RawValue::from_string(format!(r#"{{"room":{{"timeline":{{"limit":{limit}}}}}}}"#)).unwrap()
    }

    #[tokio::test]
    async fn the_same_filter_has_one_id_and_belongs_to_its_user() {
        let bench = Bench::new().await;
        let (alice, bob) = (bench.user("alice").await, bench.user("bob").await);
        let users = &bench.users;
        let one = users.create_filter(&alice, &filter(1)).await.unwrap();
        let two = users.create_filter(&alice, &filter(2)).await.unwrap();
        assert_ne!(one, two);
        assert_eq!(users.create_filter(&alice, &filter(1)).await.unwrap(), one);
        assert_eq!(users.filter(&alice, &two).await.unwrap().unwrap().get(), filter(2).get());
        assert!(users.filter(&bob, &one).await.unwrap().is_none());
        for _ in 0..2 {
            let parsed = users.filter_definition(&alice, &two).await.unwrap().unwrap();
            assert_eq!(parsed.room.timeline.limit, Some(ruma::uint!(2)));
        }
        for unknown in ["", "x", "-1", "+0", "00", "99"] {
            assert!(users.filter(&alice, unknown).await.unwrap().is_none(), "{unknown}");
            assert!(users.filter_definition(&alice, unknown).await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn old_filters_make_room() {
        let bench = Bench::new().await;
        let alice = bench.user("alice").await;
        let users = &bench.users;
        let first = users.create_filter(&alice, &filter(0)).await.unwrap();
        for limit in 1..=MAX_FILTERS {
            users.create_filter(&alice, &filter(limit)).await.unwrap();
        }
        assert!(users.filter(&alice, &first).await.unwrap().is_none());
        assert!(users.filter(&alice, "1").await.unwrap().is_some());
        assert_ne!(users.create_filter(&alice, &filter(0)).await.unwrap(), first);
    }

    #[tokio::test]
    async fn what_is_not_a_filter_is_refused() {
        let bench = Bench::new().await;
        let alice = bench.user("alice").await;
        for bad in ["[]", "3", r#"{"room": 3}"#] {
            let raw = RawValue::from_string(bad.to_owned()).unwrap();
            let result = bench.users.create_filter(&alice, &raw).await;
            assert!(matches!(result, Err(UsersError::InvalidContent(_))), "{bad}");
        }
        let long = format!(r#"{{"x":"{}"}}"#, "y".repeat(MAX_FILTER_BYTES));
        let result = bench.users.create_filter(&alice, &RawValue::from_string(long).unwrap()).await;
        assert!(matches!(result, Err(UsersError::TooLarge { .. })));
    }
}
