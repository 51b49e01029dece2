//! Messages to devices of other servers' users, on their way there (SS "Send-to-device messaging").
//!
//! They wait in the store, in order, until the other server has taken them: lanes only know whether there
//! may be some.

use hearth_e2ee::{LogKind, OutgoingMessage};
use hearth_rooms::RoomError;
use hearth_storage::LogRecord;
use hearth_types::StreamPosition;
use ruma::{OwnedServerName, ServerName, api::federation::transactions::edu::Edu, serde::Raw};
use serde_json::value::RawValue;

use super::{Inner, lanes::Batch, lists::into_room_error};

/// Messages in one transaction, an EDU each.
pub(super) const MESSAGES_AT_ONCE: usize = 50;
/// Bytes of the messages in one transaction; one is always sent.
const MAX_BYTES: usize = 2 << 20;

/// Messages for one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Messages {
    /// So many of those that wait go along, if none were chosen before.
    pub(super) wanted: usize,
    /// Those that were chosen. They are the first ones until they are delivered.
    pub(super) chosen: Vec<StreamPosition>,
}

/// The server that a message to devices waits for, if a log entry announces one.
pub(super) fn message_server_of(record: &LogRecord) -> Option<OwnedServerName> {
    let LogRecord { entry, .. } = record;
    if entry.kind != LogKind::Outgoing as u8 {
        return None;
    }
    ServerName::parse(entry.topic.as_str()).ok()
}

impl Inner {
    /// The EDUs with the messages of a batch, which are chosen now if they were not before.
    pub(super) async fn message_edus(
        &self,
        server: &ServerName,
        batch: &mut Batch,
    ) -> Result<Vec<Raw<Edu>>, RoomError> {
        let Messages { wanted, chosen } = &mut batch.messages;
        let again = !chosen.is_empty();
        let limit = if again { chosen.len() } else { *wanted };
        if limit == 0 {
            return Ok(Vec::new());
        }
        let waiting = self.e2ee.outgoing(server, limit).await.map_err(into_room_error)?;
        // Those behind a full page are taken next.
        let mut more = waiting.len() == limit;
        let (mut edus, mut bytes) = (Vec::with_capacity(waiting.len()), 0);
        for OutgoingMessage { position, content } in waiting {
            bytes += content.len();
            if again {
                if !chosen.contains(&position) {
                    continue;
                }
            } else if bytes > MAX_BYTES && !chosen.is_empty() {
                more = true;
                break;
            } else {
                chosen.push(position);
            }
            match edu(&content) {
                Ok(edu) => edus.push(edu),
                Err(error) => tracing::error!(%error, %server, "a message is not JSON"),
            }
        }
        *wanted = 0;
        if more {
            self.lanes.lock().push_messages(server);
        }
        Ok(edus)
    }

    /// The other server has taken these, or never will.
    pub(super) async fn messages_done(
        &self,
        server: &ServerName,
        messages: &Messages,
    ) -> Result<(), RoomError> {
        if messages.chosen.is_empty() {
            return Ok(());
        }
        self.e2ee.outgoing_done(server, &messages.chosen).await.map_err(into_room_error)
    }

    /// Nothing is sent to that server: what waits for it is forgotten.
    pub(super) async fn discard_messages(&self, server: &ServerName) -> Result<(), RoomError> {
        loop {
            let waiting = self.e2ee.outgoing(server, MESSAGES_AT_ONCE).await;
            let chosen: Vec<_> =
                waiting.map_err(into_room_error)?.iter().map(|message| message.position).collect();
            if chosen.is_empty() {
                return Ok(());
            }
            self.messages_done(server, &Messages { wanted: 0, chosen }).await?;
        }
    }
}

fn edu(content: &[u8]) -> Result<Raw<Edu>, serde_json::Error> {
    let content: &RawValue = serde_json::from_slice(content)?;
    let edu = format!(r#"{{"edu_type":"m.direct_to_device","content":{content}}}"#);
    Raw::from_json_string(edu)
}
