//! Reads the log and finds out whom each event concerns.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use hearth_rooms::{
    RoomError, StoredEvent,
    schema::{Forwarding, LOG_ROOM_EVENT, Standing, log_forwarding, log_ordinal},
};
use hearth_storage::{LogEntry, LogRecord};
use ruma::{
    OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::{Inner, is_lasting, lanes::Item};

/// An event and where it goes.
type Delivery = (Item, BTreeSet<OwnedServerName>);

/// Log entries that are read at a time.
pub(super) const LOG_PAGE: usize = 256;
/// How long to wait after the log could not be read.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Routes what comes, for as long as the server runs.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut publications = inner.store.notifier().publications();
    loop {
        publications.mark_unchanged();
        match inner.route_page().await {
            Ok(true) => {}
            Ok(false) => {
                if publications.changed().await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, "the log could not be read: nothing is sent");
                sleep(AFTER_FAILURE).await;
            }
        }
    }
}

impl Inner {
    /// Distributes the next entries; whether there may be more.
    async fn route_page(self: &Arc<Self>) -> Result<bool, RoomError> {
        let routed = self.lanes.lock().routed();
        let published = self.store.notifier().published();
        let records = self.store.log_after(routed, LOG_PAGE).await?;
        let full = records.len() >= LOG_PAGE;
        let mut until = if full { routed } else { published };
        let mut pushes = Vec::new();
        for record in &records {
            until = until.max(record.position);
            pushes.extend(self.deliveries(record).await?);
        }
        let mut starting = BTreeSet::new();
        {
            let (now, mut lanes) = (Instant::now(), self.lanes.lock());
            for (item, servers) in pushes {
                for server in servers {
                    lanes.push(&server, item.clone());
                    if lanes.start_if_due(&server, now) {
                        starting.insert(server);
                    }
                }
            }
            lanes.set_routed(until, !records.is_empty());
        }
        self.start_senders(starting);
        Ok(full)
    }

    /// The event of a log entry and the servers it goes to, if it goes to any.
    async fn deliveries(&self, record: &LogRecord) -> Result<Option<Delivery>, RoomError> {
        let Some(item) = item_of(record) else { return Ok(None) };
        match self.destinations_of(&item).await {
            Ok(servers) => Ok((!servers.is_empty()).then_some((item, servers))),
            Err(error) if is_lasting(&error) => {
                let Item { room_id, ordinal, .. } = &item;
                tracing::error!(%error, %room_id, ordinal, "an event is not sent");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whom an event of this server goes to: the room's servers, and the server of somebody who is
    /// turned away, who has nobody else there.
    async fn destinations_of(&self, item: &Item) -> Result<BTreeSet<OwnedServerName>, RoomError> {
        let room_servers = self.rooms.remote_servers(&item.room_id).await?;
        let event = self.rooms.event(&item.room_id, item.ordinal).await?;
        if !may_be_sent(&event) {
            return Ok(BTreeSet::new());
        }
        let mut servers: BTreeSet<_> = room_servers.iter().cloned().collect();
        servers.extend(turned_away(&event).map(|user_id| user_id.server_name().to_owned()));
        servers.retain(|server| self.is_destination(server, &event));
        Ok(servers)
    }

    /// Is this another server that is spoken to, and not the one that the event is from?
    pub(super) fn is_destination(&self, server: &ServerName, event: &StoredEvent) -> bool {
        server != self.identity.server_name()
            && server != event.pdu.sender().server_name()
            && self.config.admits(server)
    }

    /// Was this event to be sent to that server? Judged now, for a server that was away; it must not
    /// learn what happened before it joined.
    pub(super) async fn was_for(
        &self,
        server: &ServerName,
        item: &Item,
    ) -> Result<bool, RoomError> {
        let event = self.rooms.event(&item.room_id, item.ordinal).await?;
        if !may_be_sent(&event) || !self.is_destination(server, &event) {
            return Ok(false);
        }
        if turned_away(&event).is_some_and(|user_id| user_id.server_name() == server) {
            return Ok(true);
        }
        Ok(self.rooms.has_joined_server(&item.room_id, server).await?
            && self.rooms.visible_to_server(server, &item.room_id, &event).await?)
    }
}

/// The event that a log entry announces, if this server passes it on.
pub(super) fn item_of(record: &LogRecord) -> Option<Item> {
    let LogRecord { position, entry } = record;
    if entry.kind != LOG_ROOM_EVENT || log_forwarding(&entry.payload) != Forwarding::Here {
        return None;
    }
    let room_id = room_of(entry)?;
    let ordinal = log_ordinal(&entry.payload)?;
    Some(Item { position: *position, room_id, ordinal })
}

fn room_of(entry: &LogEntry) -> Option<OwnedRoomId> {
    RoomId::parse(entry.topic.as_str()).ok()
}

/// Only what is part of the room's history goes out.
fn may_be_sent(event: &StoredEvent) -> bool {
    event.header.standing == Standing::Accepted && !event.pdu.is_rejected()
}

/// Who is kicked, banned, or refused by this event.
fn turned_away(event: &StoredEvent) -> Option<&UserId> {
    #[derive(Deserialize)]
    struct Content {
        membership: MembershipState,
    }
    if *event.pdu.kind() != TimelineEventType::RoomMember {
        return None;
    }
    let content: Content = event.pdu.content_as().ok()?;
    let out = matches!(content.membership, MembershipState::Leave | MembershipState::Ban);
    let user_id = <&UserId>::try_from(event.pdu.state_key()?).ok()?;
    out.then_some(user_id)
}
