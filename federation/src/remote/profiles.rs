//! Profiles of other servers' users, asked for when somebody looks, and remembered for a while.

use std::time::Duration;

use async_trait::async_trait;
use hearth_users::{Profile, RemoteProfiles, UsersError};
use quick_cache::sync::Cache;
use ruma::{
    OwnedUserId, UserId, api::federation::query::get_profile_information::v1 as get_profile,
};

use super::{Remote, asking::brief};
use crate::{Federation, RemoteError, transport::Limits};

/// Profiles that are remembered.
const CACHED: usize = 1_000;
/// For how long, in milliseconds: other servers' users change them without telling us.
const FRESH_MS: u64 = 60_000;
/// How long a profile may take: it is only a name and a picture.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that a profile may have (CS "Profiles"), with what JSON adds.
const MAX_BYTES: usize = 128 * 1024;

/// Profiles of other servers' users.
pub(super) struct Profiles(Cache<OwnedUserId, Cached>);

#[derive(Clone)]
struct Cached {
    until_ms: u64,
    /// `None` if there is no such profile.
    profile: Option<Profile>,
}

impl Default for Profiles {
    fn default() -> Self {
        Self(Cache::new(CACHED))
    }
}

#[async_trait]
impl RemoteProfiles for Remote {
    async fn remote_profile(&self, user_id: &UserId) -> Result<Option<Profile>, UsersError> {
        let (federation, profiles) = (self.federation(), &self.profiles().0);
        let now_ms = federation.clock().now_ms();
        if let Some(cached) = profiles.get(user_id)
            && cached.until_ms > now_ms
        {
            return Ok(cached.profile);
        }
        let profile = ask(federation, user_id).await?;
        let cached = Cached { until_ms: now_ms.saturating_add(FRESH_MS), profile: profile.clone() };
        profiles.insert(user_id.to_owned(), cached);
        Ok(profile)
    }
}

async fn ask(federation: &Federation, user_id: &UserId) -> Result<Option<Profile>, UsersError> {
    let request = get_profile::Request::new(user_id.to_owned());
    let limits = Limits { timeout: brief(federation).timeout.min(TIMEOUT), max_bytes: MAX_BYTES };
    match federation.client().send(user_id.server_name(), request, limits).await {
        Ok(answer) => Ok(Some(Profile { fields: answer.into_iter().collect() })),
        Err(RemoteError::Matrix { status: http::StatusCode::NOT_FOUND, .. }) => Ok(None),
        Err(error) => Err(UsersError::Remote(error.to_string())),
    }
}
