//! Who may invite a user: the account data `m.invite_permission_config` (CS "Invite permission").

use ruma::UserId;

use crate::{AccountDataScope, Users, UsersError};

const INVITE_PERMISSION: &str = "m.invite_permission_config";

impl Users {
    /// Does this user of the server refuse every invite? False for users of other servers.
    pub async fn blocks_invites(&self, user_id: &UserId) -> Result<bool, UsersError> {
        let scope = AccountDataScope::Global;
        let config = self.account_data_object(user_id, scope, INVITE_PERMISSION).await?;
        Ok(config.get("default_action").is_some_and(|action| action == "block"))
    }
}
