//! What other servers are told: messages to devices of their users, in a durable queue for each server,
//! and how the devices of this server's users stand.

use std::{collections::BTreeSet, ops::ControlFlow};

use bytes::Bytes;
use hearth_storage::{Commit, Direction};
use hearth_types::StreamPosition;
use ruma::{
    DeviceId, OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName, UserId,
    encryption::{CrossSigningKey, DeviceKeys},
    serde::Raw,
};

use crate::{
    E2ee, E2eeError,
    schema::{CROSS_SIGNING_KEYS, DEVICE_LIST_CHANGES, DEVICE_LISTS, OUTGOING, OutgoingRow},
};

/// Rows that one commit deletes.
const DELETED_AT_ONCE: usize = 500;
/// The longest that a message waits for its server, in milliseconds: thirty days, for which servers know
/// what they have received. After that a repetition would be shown to a device again, and whoever was
/// away so long has lost the sessions that most messages are about.
pub(crate) const MAX_AGE_MS: u64 = 30 * 24 * 60 * 60 * 1_000;

/// A message on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutgoingMessage {
    /// Its place in the queue.
    pub position: StreamPosition,
    /// The content of its `m.direct_to_device`, as JSON.
    pub content: Bytes,
}

impl E2ee {
    /// The servers that messages wait for. Reads all queues: for the start.
    pub async fn outgoing_servers(&self) -> Result<Vec<OwnedServerName>, E2eeError> {
        let read = self.store().bulk(|view| {
            let mut servers = BTreeSet::new();
            view.for_each(&OUTGOING, |server, _, _| {
                servers.insert(server);
                ControlFlow::Continue(())
            })?;
            Ok(servers)
        });
        Ok(read.await?.into_iter().collect())
    }

    /// The first messages that wait for a server; a hundred at most. Those that have waited for too long are
    /// forgotten: whoever is not reached is tried again and again, which is when their age is seen.
    pub async fn outgoing(
        &self,
        server: &ServerName,
        limit: usize,
    ) -> Result<Vec<OutgoingMessage>, E2eeError> {
        let (owner, limit) = (server.to_owned(), limit.min(100));
        let oldest_ms = self.now_ms().saturating_sub(MAX_AGE_MS);
        loop {
            let rows = self.store().page(&OUTGOING, &owner, .., Direction::Forward, limit).await?;
            let old: Vec<_> = rows
                .iter()
                .take_while(|(_, row)| row.queued_ms < oldest_ms)
                .map(|(position, _)| *position)
                .collect();
            if old.is_empty() {
                let message = |(position, row): (_, OutgoingRow)| OutgoingMessage {
                    position,
                    content: row.content.into(),
                };
                return Ok(rows.into_iter().map(message).collect());
            }
            let count = old.len();
            tracing::warn!(%server, count, "messages to devices have waited for too long: dropped");
            self.outgoing_done(server, &old).await?;
        }
    }

    /// The server has taken these, or never will. Lazily durable: a server knows by its ID what comes a
    /// second time.
    pub async fn outgoing_done(
        &self,
        server: &ServerName,
        positions: &[StreamPosition],
    ) -> Result<(), E2eeError> {
        let owner = server.to_owned();
        for some in positions.chunks(DELETED_AT_ONCE) {
            let mut commit = Commit::new(&owner).lazy();
            for position in some {
                commit.delete(&OUTGOING, &owner, position);
            }
            self.store().commit(commit).await?;
            self.inner.queue_lengths.of_server(server).shrink(some.len());
        }
        Ok(())
    }
}

/// A device of a user of this server, as other servers are told of it.
#[derive(Clone, Debug, Default)]
pub struct DeviceForServers {
    /// Its identity keys, if it has some.
    pub keys: Option<Raw<DeviceKeys>>,
    /// Its name, if it has one.
    pub display_name: Option<String>,
}

impl E2ee {
    /// A device of a user of this server; `None` if there is none of this ID any more.
    pub async fn device_for_servers(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
    ) -> Result<Option<DeviceForServers>, E2eeError> {
        let session = self.users().device(user_id, device_id).await?;
        let keys = self.device_keys(user_id, device_id).await?;
        if session.is_none() && keys.is_none() {
            return Ok(None);
        }
        let keys = keys.map(|json| raw(&json)).transpose()?;
        let display_name = session.and_then(|device| device.display_name);
        Ok(Some(DeviceForServers { keys, display_name }))
    }

    /// Any device of a user of this server.
    pub async fn any_device(&self, user_id: &UserId) -> Result<Option<OwnedDeviceId>, E2eeError> {
        Ok(self.addressable_devices(user_id).await?.into_iter().next())
    }

    /// When the list of a user last changed; `None` if they never had keys.
    pub async fn list_version(
        &self,
        user_id: &UserId,
    ) -> Result<Option<StreamPosition>, E2eeError> {
        Ok(self.store().get(&DEVICE_LISTS, &user_id.to_owned(), &()).await?)
    }

    /// The users whose lists last changed after `since` and up to `until`, with when, in that order; a
    /// hundred at most.
    pub async fn list_changes(
        &self,
        since: StreamPosition,
        until: StreamPosition,
        limit: usize,
    ) -> Result<Vec<(StreamPosition, OwnedUserId)>, E2eeError> {
        if since >= until {
            return Ok(Vec::new());
        }
        let (range, limit) = (since.next()..=until, limit.min(100));
        let page = self.store().page(&DEVICE_LIST_CHANGES, &(), range, Direction::Forward, limit);
        Ok(page.await?.into_iter().map(|(position, row)| (position, row.0)).collect())
    }

    /// The master and the self-signing key of a user of this server.
    pub async fn signing_keys_for_servers(
        &self,
        user_id: &UserId,
    ) -> Result<(Option<Raw<CrossSigningKey>>, Option<Raw<CrossSigningKey>>), E2eeError> {
        let usages = ["master".to_owned(), "self_signing".to_owned()];
        let rows = self.store().get_many(&CROSS_SIGNING_KEYS, &user_id.to_owned(), &usages).await?;
        let mut keys = rows.into_iter().map(|row| row.map(|json| raw(&json)).transpose());
        Ok((keys.next().transpose()?.flatten(), keys.next().transpose()?.flatten()))
    }
}

fn raw<T>(json: &[u8]) -> Result<Raw<T>, E2eeError> {
    let json = serde_json::from_slice(json);
    Ok(Raw::from_json(json.map_err(|error| E2eeError::Internal(error.to_string()))?))
}
