//! Ignored users: read from the account data `m.ignored_user_list`, kept in memory.

use std::{collections::HashSet, sync::Arc};

use ruma::{OwnedUserId, UserId};

use crate::{Users, UsersError};

impl Users {
    /// Whom a user ignores. Malformed entries of the list are passed over.
    pub async fn ignored_users(
        &self,
        user_id: &UserId,
    ) -> Result<Arc<HashSet<OwnedUserId>>, UsersError> {
        todo!()
    }
}
