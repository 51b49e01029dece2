//! Claims: each one-time key is handed out once, in the order of the uploads, then the fallback key
//! (CS "POST /keys/claim").
//!
//! Claims of one user's keys that come while a commit is under way wait for it and go into the next one
//! together: what is handed out is gone, durably, before anybody is answered.

mod desk;
mod hand_out;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::join, stream};
use hearth_types::limits::MAX_ID_BYTES;
use ruma::{
    OneTimeKeyAlgorithm, OwnedDeviceId, OwnedOneTimeKeyId, OwnedServerName, OwnedUserId,
    api::federation::keys::claim_keys, encryption::OneTimeKey, serde::Raw,
};
use tokio::time::{Instant, timeout_at};

pub(crate) use self::desk::ClaimDesk;
use crate::{
    E2ee, E2eeError, RemoteKeys, one_time_keys::MAX_KEY_BYTES, query::TOO_LATE, remote::patience,
};

/// Users of this server whose keys one request claims at a time.
const USERS_AT_ONCE: usize = 16;
/// Servers that one request asks at a time: usually all, for those that are silent hold up the others'
/// answers until nobody waits for them any more, and their keys are lost. How many are asked at once for
/// all requests is bounded by the federation client.
const SERVERS_AT_ONCE: usize = 1_000;
/// Devices in one request to another server: as many keys as an answer has room for.
const DEVICES_PER_REQUEST: usize = 400;
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
    /// Claims keys of users of this server and of others, those of other servers side by side. They are
    /// waited for until the timeout has passed, or a minute.
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
        let deadline = Instant::now() + timeout;
        let answers = stream::iter(by_server)
            .map(|(server, claims)| ask(&remote, server, claims, deadline))
            .buffer_unordered(SERVERS_AT_ONCE);
        let mut answers = Box::pin(answers);
        while let Some((server, keys, failure)) = answers.next().await {
            claimed.one_time_keys.extend(keys);
            if let Some(why) = failure {
                claimed.failures.insert(server, why);
            }
        }
        claimed
    }
}

/// Claims keys of one server's users, some at a time, until the deadline: what it has given until then is
/// handed on.
async fn ask(
    remote: &Arc<dyn RemoteKeys>,
    server: OwnedServerName,
    claims: Claims,
    deadline: Instant,
) -> (OwnedServerName, HandedOut, Option<String>) {
    let mut kept = HandedOut::new();
    for claims in parts(claims) {
        let patience = patience(deadline);
        if patience.is_zero() {
            return (server, kept, Some(TOO_LATE.to_owned()));
        }
        let answer = timeout_at(deadline, remote.claim(&server, claims.clone(), patience)).await;
        match answer {
            Ok(Ok(answer)) => add_what_was_asked_for(&mut kept, &claims, answer),
            Ok(Err(error)) => return (server, kept, Some(error.to_string())),
            Err(_) => return (server, kept, Some(TOO_LATE.to_owned())),
        }
    }
    (server, kept, None)
}

/// Claims as they go to a server, each with a bounded number of devices.
fn parts(claims: Claims) -> Vec<Claims> {
    let (mut parts, mut devices) = (Vec::<Claims>::new(), 0);
    let each = claims.into_iter().flat_map(|(user_id, devices)| {
        devices
            .into_iter()
            .map(move |(device_id, algorithm)| (user_id.clone(), device_id, algorithm))
    });
    for (user_id, device_id, algorithm) in each {
        if devices % DEVICES_PER_REQUEST == 0 {
            parts.push(Claims::new());
        }
        devices += 1;
        if let Some(part) = parts.last_mut() {
            part.entry(user_id).or_default().insert(device_id, algorithm);
        }
    }
    parts
}

/// Adds of another server's answer what it was asked for: at most one key for each device, of the algorithm
/// asked for, no larger than this server's own users' are. Whether a key is the device's own is for clients
/// to verify: they know whom they trust.
fn add_what_was_asked_for(kept: &mut HandedOut, claims: &Claims, answer: claim_keys::v1::Response) {
    for (user_id, devices) in answer.one_time_keys {
        let Some(asked) = claims.get(&user_id) else { continue };
        for (device_id, keys) in devices {
            let Some(algorithm) = asked.get(&device_id) else { continue };
            let fits = |(key_id, key): &(OwnedOneTimeKeyId, Raw<OneTimeKey>)| {
                key_id.algorithm() == *algorithm
                    && key_id.as_str().len() <= MAX_ID_BYTES
                    && key.json().get().len() <= MAX_KEY_BYTES
                    && key.deserialize().is_ok()
            };
            if let Some((key_id, key)) = keys.into_iter().find(fits) {
                let of_user = kept.entry(user_id.clone()).or_default();
                of_user.entry(device_id).or_default().insert(key_id, key);
            }
        }
    }
}

#[cfg(test)]
mod tests;
