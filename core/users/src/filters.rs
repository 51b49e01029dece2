//! Stored filters (CS "Filtering"): numbered, the same content once, the newest 1,000 per user kept.

use std::sync::Arc;

use hearth_storage::{Keyspace, postcard_record};
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

impl Users {
    /// Stores a filter, a JSON object of at most 64 KiB; returns its ID.
    pub async fn create_filter(
        &self,
        user_id: &UserId,
        filter: &RawValue,
    ) -> Result<String, UsersError> {
        todo!()
    }

    /// A stored filter as it was put.
    pub async fn filter(
        &self,
        user_id: &UserId,
        filter_id: &str,
    ) -> Result<Option<Box<RawValue>>, UsersError> {
        todo!()
    }

    /// A stored filter, parsed; kept in memory for the next request.
    pub async fn filter_definition(
        &self,
        user_id: &UserId,
        filter_id: &str,
    ) -> Result<Option<Arc<FilterDefinition>>, UsersError> {
        todo!()
    }
}
