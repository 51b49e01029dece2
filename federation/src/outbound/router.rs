//! Reads the log and finds out whom each event concerns.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use hearth_rooms::{
    RoomError, StoredEvent,
    schema::{Forwarding, LOG_ROOM_EVENT, Standing, log_forwarding, log_ordinal},
};
use hearth_storage::{LogEntry, LogRecord};
use ruma::{
    OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::{
    Inner, edus::PublicReceipt, is_lasting, lanes::Item, lists::ListChange,
    messages::message_server_of,
};

/// Something and where it goes.
pub(super) struct Delivery {
    what: News,
    pub(super) servers: Arc<BTreeSet<OwnedServerName>>,
}

enum News {
    /// And who of this server's users comes to the room by it.
    Event(Item, Option<OwnedUserId>),
    /// A user of this server comes to the room by an event that another one passes on.
    Arrival(Item, OwnedUserId),
    Receipt(PublicReceipt),
    List(ListChange),
    /// Messages to devices wait for the server.
    Messages,
}

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
        let mut deliveries = Vec::new();
        for record in &records {
            until = until.max(record.position);
            let delivery = self.delivery(record).await?;
            let list = match &delivery {
                Some(delivery) => self.list_delivery_to_new_servers(delivery).await,
                None => Ok(None),
            };
            let list = match list {
                Err(error) if is_lasting(&error) => {
                    tracing::error!(%error, position = %record.position, "a list is not told");
                    None
                }
                list => list?,
            };
            deliveries.extend(delivery);
            deliveries.extend(list);
        }
        let mut newcomers = Vec::new();
        let (mut starting, mut gathering) = (BTreeSet::new(), Vec::new());
        {
            let (now, mut lanes) = (Instant::now(), self.lanes.lock());
            for Delivery { what, servers } in &deliveries {
                match what {
                    News::Event(item, newcomer) => {
                        for server in servers.iter() {
                            lanes.push(server, item.clone());
                            if lanes.start_if_due(server, now) {
                                starting.insert(server.clone());
                            }
                        }
                        let came = newcomer.as_ref().map(|user_id| (item, user_id, servers));
                        newcomers.extend(came);
                    }
                    News::Arrival(item, user_id) => newcomers.push((item, user_id, servers)),
                    News::Receipt(receipt) => {
                        let servers = servers.iter();
                        gathering.extend(servers.filter_map(|server| {
                            let first = lanes.push_receipt(server, receipt.clone(), now);
                            first.then(|| server.clone())
                        }));
                    }
                    News::List(change) => {
                        let servers = servers.iter();
                        gathering.extend(servers.filter_map(|server| {
                            let first = lanes.push_list_change(server, change.clone(), now);
                            first.then(|| server.clone())
                        }));
                    }
                    News::Messages => {
                        for server in servers.iter() {
                            lanes.push_messages(server);
                            if lanes.start_if_due(server, now) {
                                starting.insert(server.clone());
                            }
                        }
                    }
                }
            }
            lanes.set_routed(until, !records.is_empty());
        }
        self.start_senders(starting);
        self.come_back(gathering);
        for (item, user_id, servers) in newcomers {
            self.introduce(&item.room_id, user_id, servers).await;
        }
        Ok(full)
    }

    /// What a log entry tells other servers, and which, if it tells any.
    async fn delivery(&self, record: &LogRecord) -> Result<Option<Delivery>, RoomError> {
        let found = match (item_of(record), self.receipt_of(record)) {
            (Some(item), _) => self.event_delivery(item).await.map(Some),
            (None, Some(receipt)) => {
                let servers = self.receipt_servers(&receipt).await;
                servers.map(|servers| Some(Delivery { what: News::Receipt(receipt), servers }))
            }
            (None, None) => match (self.list_change_of(record), message_server_of(record)) {
                (Some(change), _) => {
                    let servers = self.list_servers(&change.user_id).await;
                    servers.map(|servers| Some(Delivery { what: News::List(change), servers }))
                }
                (None, Some(server)) => {
                    let servers = Arc::new(BTreeSet::from([server]));
                    Ok(Some(Delivery { what: News::Messages, servers }))
                }
                (None, None) => match arrival_of(record) {
                    Some(item) => self.arrival_delivery(item).await,
                    None => return Ok(None),
                },
            },
        };
        match found {
            Ok(delivery) => Ok(delivery.filter(|delivery| !delivery.servers.is_empty())),
            Err(error) if is_lasting(&error) => {
                let LogRecord { position, entry } = record;
                tracing::error!(%error, %position, topic = entry.topic.as_str(), "is not sent");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Somebody of this server comes to a room: its servers that shared none with them so far are told of
    /// their devices.
    async fn list_delivery_to_new_servers(
        &self,
        delivery: &Delivery,
    ) -> Result<Option<Delivery>, RoomError> {
        let (News::Event(item, Some(user_id)) | News::Arrival(item, user_id)) = &delivery.what
        else {
            return Ok(None);
        };
        let Some(change) = self.list_of_newcomer(item.position, user_id).await? else {
            return Ok(None);
        };
        let before = self.servers_sharing_other_rooms(user_id, &item.room_id).await?;
        let servers: BTreeSet<_> = delivery.servers.difference(&before).cloned().collect();
        let what = News::List(change);
        Ok((!servers.is_empty()).then(|| Delivery { what, servers: Arc::new(servers) }))
    }

    /// Somebody of this server came to a room by way of another one, which tells of that.
    async fn arrival_delivery(&self, item: Item) -> Result<Option<Delivery>, RoomError> {
        let Some(user_id) = self.newcomer_by(&item).await? else { return Ok(None) };
        let servers = self.admitted(self.rooms.remote_servers(&item.room_id).await?);
        Ok(Some(Delivery { what: News::Arrival(item, user_id), servers }))
    }

    /// The list of the user of this server who comes to a room by this event, if it is one's coming.
    pub(super) async fn list_of_newcomer_by(
        &self,
        item: &Item,
    ) -> Result<Option<ListChange>, RoomError> {
        match self.newcomer_by(item).await? {
            Some(user_id) => self.list_of_newcomer(item.position, &user_id).await,
            None => Ok(None),
        }
    }

    /// The user of this server who comes to a room by this event, if it is one's coming.
    async fn newcomer_by(&self, item: &Item) -> Result<Option<OwnedUserId>, RoomError> {
        let event = self.rooms.event(&item.room_id, item.ordinal).await?;
        let came = MemberChange::of(&event)
            .filter(|change| change.membership == MembershipState::Join && may_be_sent(&event));
        Ok(came.map(|change| change.user_id).filter(|user_id| self.identity.is_local(user_id)))
    }

    /// An event and whom it goes to.
    pub(super) async fn event_delivery(&self, item: Item) -> Result<Delivery, RoomError> {
        let event = self.rooms.event(&item.room_id, item.ordinal).await?;
        let change = MemberChange::of(&event);
        let servers = self.destinations_of(&item, &event, change.as_ref()).await?;
        let came = change.filter(|change| change.membership == MembershipState::Join);
        let newcomer = came.map(|change| change.user_id).filter(|id| self.identity.is_local(id));
        Ok(Delivery { what: News::Event(item, newcomer), servers: Arc::new(servers) })
    }

    /// The receipt that a log entry announces, if other servers learn of it.
    pub(super) fn receipt_of(&self, record: &LogRecord) -> Option<PublicReceipt> {
        let LogRecord { position, entry } = record;
        let receipt = PublicReceipt::of(*position, entry.kind, &entry.payload)?;
        self.identity.is_local(&receipt.key.1).then_some(receipt)
    }

    /// Whom a receipt goes to: the room's servers, unless it is large.
    pub(super) async fn receipt_servers(
        &self,
        receipt: &PublicReceipt,
    ) -> Result<Arc<BTreeSet<OwnedServerName>>, RoomError> {
        let (room_id, ..) = &receipt.key;
        let servers = self.rooms.remote_servers(room_id).await?;
        let stays = servers.is_empty() || self.users.is_large_room(room_id).await;
        Ok(if stays { Arc::default() } else { self.admitted(servers) })
    }

    /// Those of these servers that are spoken to.
    pub(super) fn admitted(
        &self,
        servers: Arc<BTreeSet<OwnedServerName>>,
    ) -> Arc<BTreeSet<OwnedServerName>> {
        if servers.iter().all(|server| self.config.admits(server)) {
            return servers;
        }
        let admitted = servers.iter().filter(|server| self.config.admits(server));
        Arc::new(admitted.cloned().collect())
    }

    /// Whom an event of this server goes to: the servers that were in the room before it, also when it is
    /// read from the log long after, and the server of somebody who is turned away, who has nobody else
    /// there.
    async fn destinations_of(
        &self,
        item: &Item,
        event: &StoredEvent,
        change: Option<&MemberChange>,
    ) -> Result<BTreeSet<OwnedServerName>, RoomError> {
        if !may_be_sent(event) {
            return Ok(BTreeSet::new());
        }
        let room_servers = self.rooms.remote_servers_before(&item.room_id, item.ordinal).await?;
        let mut servers: BTreeSet<_> = room_servers.iter().cloned().collect();
        servers.extend(change.and_then(MemberChange::turned_away));
        servers.retain(|server| self.is_destination(server, event));
        Ok(servers)
    }

    /// Is this another server that is spoken to, and not the one that the event is from?
    pub(super) fn is_destination(&self, server: &ServerName, event: &StoredEvent) -> bool {
        server != self.identity.server_name()
            && server != event.pdu.sender().server_name()
            && self.config.admits(server)
    }

    /// Does this event turn away a user of that server, which may have nobody else in the room?
    pub(super) async fn turns_away(
        &self,
        server: &ServerName,
        item: &Item,
    ) -> Result<bool, RoomError> {
        let event = self.rooms.event(&item.room_id, item.ordinal).await?;
        let may_go = may_be_sent(&event) && self.is_destination(server, &event);
        Ok(may_go && turns_away(&event, server))
    }

    /// Was this event to be sent to that server? Judged now, for a server that was away, or for which
    /// something of before it joined waits; it must not learn what else happened then.
    pub(super) async fn was_for(
        &self,
        server: &ServerName,
        item: &Item,
    ) -> Result<bool, RoomError> {
        let event = self.rooms.event(&item.room_id, item.ordinal).await?;
        if !may_be_sent(&event) || !self.is_destination(server, &event) {
            return Ok(false);
        }
        if turns_away(&event, server) {
            return Ok(true);
        }
        let Item { room_id, ordinal, .. } = item;
        Ok(self.rooms.has_joined_server_before(room_id, server, *ordinal).await?
            && self.rooms.visible_to_server(server, room_id, &event).await?)
    }
}

/// The event that a log entry announces, if this server passes it on.
pub(super) fn item_of(record: &LogRecord) -> Option<Item> {
    event_of(record, Forwarding::Here)
}

/// The event that a log entry announces, if a user of this server comes to a room by it and another
/// server passes it on.
pub(super) fn arrival_of(record: &LogRecord) -> Option<Item> {
    event_of(record, Forwarding::Arrival)
}

fn event_of(record: &LogRecord, forwarding: Forwarding) -> Option<Item> {
    let LogRecord { position, entry } = record;
    if entry.kind != LOG_ROOM_EVENT || log_forwarding(&entry.payload) != forwarding {
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
pub(super) fn may_be_sent(event: &StoredEvent) -> bool {
    event.header.standing == Standing::Accepted && !event.pdu.is_rejected()
}

/// Does an event put a user of that server out?
fn turns_away(event: &StoredEvent, server: &ServerName) -> bool {
    let away = MemberChange::of(event).and_then(|change| change.turned_away());
    away.is_some_and(|away| away == *server)
}

/// What a membership event does.
struct MemberChange {
    user_id: OwnedUserId,
    membership: MembershipState,
}

impl MemberChange {
    fn of(event: &StoredEvent) -> Option<Self> {
        #[derive(Deserialize)]
        struct Content {
            membership: MembershipState,
        }
        if *event.pdu.kind() != TimelineEventType::RoomMember {
            return None;
        }
        let Content { membership } = event.pdu.content_as().ok()?;
        let user_id = OwnedUserId::try_from(event.pdu.state_key()?).ok()?;
        Some(Self { user_id, membership })
    }

    /// The server of who is kicked, banned, or refused.
    fn turned_away(&self) -> Option<OwnedServerName> {
        let out = matches!(self.membership, MembershipState::Leave | MembershipState::Ban);
        out.then(|| self.user_id.server_name().to_owned())
    }
}
