//! Device lists, keys and one-time keys of other servers' users.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use hearth_e2ee::{RemoteKeys, RemoteKeysError};
use http::StatusCode;
use ruma::{
    OneTimeKeyAlgorithm, OwnedDeviceId, OwnedUserId, ServerName, UserId,
    api::{
        OutgoingRequest,
        federation::{
            authentication::ServerSignatures,
            device::get_devices,
            keys::{claim_keys, get_keys},
        },
        path_builder::SinglePath,
    },
};

use super::Remote;
use crate::{
    RemoteError,
    transport::{Limits, TransportError},
};

/// Bytes of an answer about keys: those of some hundred users, each with a few devices, or of one with
/// very many.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of an answer to a claim, of which one has some hundred keys.
const MAX_CLAIMED_BYTES: usize = 1024 * 1024;

#[async_trait]
impl RemoteKeys for Remote {
    async fn query(
        &self,
        server: &ServerName,
        users: BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>,
        timeout: Duration,
    ) -> Result<get_keys::v1::Response, RemoteKeysError> {
        self.ask_for_keys(server, get_keys::v1::Request::new(users), limits(timeout)).await
    }

    async fn claim(
        &self,
        server: &ServerName,
        keys: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>>,
        timeout: Duration,
    ) -> Result<claim_keys::v1::Response, RemoteKeysError> {
        let limits = Limits { timeout, max_bytes: MAX_CLAIMED_BYTES };
        self.ask_for_keys(server, claim_keys::v1::Request::new(keys), limits).await
    }

    async fn devices(
        &self,
        user_id: &UserId,
        timeout: Duration,
    ) -> Result<get_devices::v1::Response, RemoteKeysError> {
        let request = get_devices::v1::Request::new(user_id.to_owned());
        self.ask_for_keys(user_id.server_name(), request, limits(timeout)).await
    }
}

fn limits(timeout: Duration) -> Limits {
    Limits { timeout, max_bytes: MAX_BYTES }
}

impl Remote {
    async fn ask_for_keys<R>(
        &self,
        server: &ServerName,
        request: R,
        limits: Limits,
    ) -> Result<R::IncomingResponse, RemoteKeysError>
    where
        R: OutgoingRequest<Authentication = ServerSignatures, PathBuilder = SinglePath> + Send,
    {
        let answer = self.federation().client().send(server, request, limits).await;
        answer.map_err(|error| match &error {
            RemoteError::Transport(TransportError::TooLarge(_))
            | RemoteError::Matrix { status: StatusCode::PAYLOAD_TOO_LARGE, .. } => {
                RemoteKeysError::TooLarge(error.to_string())
            }
            _ => RemoteKeysError::Failed(error.to_string()),
        })
    }
}
