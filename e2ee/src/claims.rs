//! Claims: each one-time key is handed out once, in the order of the uploads, then the fallback key
//! (CS "POST /keys/claim").
//!
//! Claims of one user's keys that come while a commit is under way wait for it and go into the next one
//! together: what is handed out is gone, durably, before anybody is answered.

mod desk;
mod hand_out;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::join, stream};
use ruma::{
    OneTimeKeyAlgorithm, OwnedDeviceId, OwnedOneTimeKeyId, OwnedServerName, OwnedUserId,
    api::federation::keys::claim_keys, encryption::OneTimeKey, serde::Raw,
};

pub(crate) use self::desk::ClaimDesk;
use crate::{E2ee, E2eeError, RemoteKeys};

/// Users of this server whose keys one request claims at a time.
const USERS_AT_ONCE: usize = 16;
/// Servers that one request asks at a time.
const SERVERS_AT_ONCE: usize = 32;
/// The longest that a client may let other servers take.
const MAX_TIMEOUT: Duration = Duration::from_mins(1);

/// Keys that are asked for: user, device, algorithm.
pub type Claims = BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>>;

/// Keys handed out: user, device, key.
pub type HandedOut =
    BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>>>;

/// The answer to claims of keys of users anywhere.
#[derive(Clone, Debug, Default)]
pub struct ClaimedKeys {
    /// What was handed out.
    pub one_time_keys: HandedOut,
    /// Servers that did not answer, and why.
    pub failures: BTreeMap<OwnedServerName, String>,
}

impl E2ee {
    /// Claims keys of users of this server and of others, those of other servers side by side. No server
    /// is waited for longer than the timeout, nor than a minute.
    ///
    /// # Errors
    ///
    /// [`E2eeError::Busy`] if nothing could be handed out because too many claim at the same time.
    pub async fn claim_keys(
        &self,
        claims: Claims,
        timeout: Duration,
    ) -> Result<ClaimedKeys, E2eeError> {
        let mut local = Claims::new();
        let mut by_server: BTreeMap<OwnedServerName, Claims> = BTreeMap::new();
        for (user_id, devices) in claims {
            if self.identity().is_local(&user_id) {
                local.insert(user_id, devices);
            } else {
                let server = user_id.server_name().to_owned();
                by_server.entry(server).or_default().insert(user_id, devices);
            }
        }
        let remote = self.claim_remote_keys(by_server, timeout.min(MAX_TIMEOUT));
        let (local, mut claimed) = join(self.claim_local_keys(local), remote).await;
        match local {
            Ok(local) => claimed.one_time_keys.extend(local),
            // What others gave away already must not be lost over this.
            Err(error) if claimed.one_time_keys.is_empty() => return Err(error),
            Err(error) => tracing::warn!(%error, "claims of this server's keys are left out"),
        }
        Ok(claimed)
    }

    /// Claims keys of users of this server, for another server. Others are passed over.
    ///
    /// # Errors
    ///
    /// [`E2eeError::Busy`] if nothing could be handed out because too many claim at the same time.
    pub async fn claim_local_keys(&self, claims: Claims) -> Result<HandedOut, E2eeError> {
        let local = claims.into_iter().filter(|(user_id, _)| self.identity().is_local(user_id));
        let answers: Vec<_> = stream::iter(local)
            .map(|(user_id, devices)| async {
                let keys = self.claim_of_user(&user_id, devices).await;
                (user_id, keys)
            })
            .buffer_unordered(USERS_AT_ONCE)
            .collect()
            .await;
        let (mut handed_out, mut failed) = (HandedOut::new(), None);
        for (user_id, keys) in answers {
            match keys {
                Ok(keys) if keys.is_empty() => {}
                Ok(keys) => {
                    handed_out.insert(user_id, keys);
                }
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            // Keys that are handed out are gone: who asked must get them.
            Some(error) if !handed_out.is_empty() => {
                tracing::warn!(%error, "some claims are left out");
                Ok(handed_out)
            }
            Some(error) => Err(error),
            None => Ok(handed_out),
        }
    }

    async fn claim_remote_keys(
        &self,
        by_server: BTreeMap<OwnedServerName, Claims>,
        timeout: Duration,
    ) -> ClaimedKeys {
        let mut claimed = ClaimedKeys::default();
        if by_server.is_empty() {
            return claimed;
        }
        let Some(remote) = self.remote() else {
            let failure = |server| (server, "this server does not federate".to_owned());
            claimed.failures = by_server.into_keys().map(failure).collect();
            return claimed;
        };
        let answers = stream::iter(by_server)
            .map(|(server, claims)| ask(&remote, server, claims, timeout))
            .buffer_unordered(SERVERS_AT_ONCE);
        let mut answers = Box::pin(answers);
        while let Some((server, answer)) = answers.next().await {
            match answer {
                Ok(keys) => claimed.one_time_keys.extend(keys),
                Err(why) => {
                    claimed.failures.insert(server, why);
                }
            }
        }
        claimed
    }
}

async fn ask(
    remote: &Arc<dyn RemoteKeys>,
    server: OwnedServerName,
    claims: Claims,
    timeout: Duration,
) -> (OwnedServerName, Result<HandedOut, String>) {
    let answer = remote.claim(&server, claims.clone(), timeout).await;
    let answer = answer.map(|answer| only_asked_for(&claims, answer));
    (server, answer.map_err(|error| error.to_string()))
}

/// Of another server's answer, what it was asked for: at most one key for each device, of the algorithm
/// asked for. Whether a key is the device's own is for clients to verify: they know whom they trust.
fn only_asked_for(claims: &Claims, answer: claim_keys::v1::Response) -> HandedOut {
    let mut kept = HandedOut::new();
    for (user_id, devices) in answer.one_time_keys {
        let Some(asked) = claims.get(&user_id) else { continue };
        for (device_id, keys) in devices {
            let Some(algorithm) = asked.get(&device_id) else { continue };
            let fits = |(key_id, key): &(OwnedOneTimeKeyId, Raw<OneTimeKey>)| {
                key_id.algorithm() == *algorithm && key.deserialize().is_ok()
            };
            if let Some((key_id, key)) = keys.into_iter().find(fits) {
                let of_user = kept.entry(user_id.clone()).or_default();
                of_user.entry(device_id).or_default().insert(key_id, key);
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests;
