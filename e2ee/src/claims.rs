//! Claims: each one-time key is handed out once, in the order of the uploads, then the fallback key
//! (CS "POST /keys/claim").
//!
//! Claims of one user's keys that come while a commit is under way wait for it and go into the next one
//! together: what is handed out is gone, durably, before anybody is answered.

use std::{collections::BTreeMap, time::Duration};

use ruma::{
    OneTimeKeyAlgorithm, OwnedDeviceId, OwnedOneTimeKeyId, OwnedServerName, OwnedUserId,
    encryption::OneTimeKey, serde::Raw,
};

use crate::{E2ee, E2eeError};

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

/// Claims that wait for their turn.
#[derive(Debug, Default)]
pub(crate) struct ClaimDesk {}

impl E2ee {
    /// Claims keys of users of this server and of others, those of other servers side by side.
    pub async fn claim_keys(
        &self,
        claims: Claims,
        timeout: Duration,
    ) -> Result<ClaimedKeys, E2eeError> {
        let _ = (claims, timeout);
        unimplemented!("keys")
    }

    /// Claims keys of users of this server, for another server. Others are passed over.
    pub async fn claim_local_keys(&self, claims: Claims) -> Result<HandedOut, E2eeError> {
        let _ = claims;
        unimplemented!("keys")
    }
}
