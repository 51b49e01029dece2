//! What a destination missed while it could not be reached, from the log; or, after a long absence, the
//! newest events of the rooms shared with it.

use hearth_rooms::RoomError;
use hearth_storage::{LogRecord, StoreError};
use hearth_types::StreamPosition;
use ruma::{RoomId, ServerName};
use tokio::task::yield_now;

use super::{
    Inner,
    edus::PublicReceipt,
    is_lasting,
    lanes::{Absence, Item},
    lists::ListChange,
    router::{LOG_PAGE, arrival_of, item_of},
};

/// Log entries that are read again for one destination. Who missed more was long away.
/// (Tests go to that length in less time.)
pub(super) const MAX_REPLAYED: usize = if cfg!(test) { 300 } else { 20_000 };
/// Log entries that are looked through, after a long absence, for users of a destination who were turned
/// away: about what the log keeps.
const MAX_LOOKED_THROUGH: usize = 5 * MAX_REPLAYED;
/// Events, receipts and changed lists that are read ahead for one destination, give or take a page of the
/// log. Receipts and lists fit among those that may wait.
const READ_AHEAD: usize = 200;
/// Rooms that are looked at at a time after a long absence.
const ROOM_PAGE: usize = 50;
/// Newest events of one room that are sent after a long absence: few rooms ever have more at once.
const MAX_NEWEST: usize = 20;

/// What was read again.
pub(super) struct Missed {
    pub(super) items: Vec<Item>,
    pub(super) receipts: Vec<PublicReceipt>,
    pub(super) lists: Vec<ListChange>,
    /// The place up to which these are all.
    pub(super) until: StreamPosition,
}

impl Inner {
    /// Reads on for a destination that is behind. `checked` says whether it is known that the log
    /// still holds what it missed.
    pub(super) async fn read_on(
        &self,
        server: &ServerName,
        after: StreamPosition,
        absence: Option<Absence>,
        checked: &mut bool,
    ) -> Result<(), RoomError> {
        if let Some(absence) = absence {
            if absence.lists_after.is_some() {
                return self.read_lists(server, after, absence).await;
            }
            return self.read_rooms(server, after, absence).await;
        }
        if !*checked && self.was_long_away(after).await? {
            self.begin_absence(server, after);
            return Ok(());
        }
        *checked = true;
        let missed = self.read_log(server, after).await?;
        if self.store.log_trimmed() > after {
            self.begin_absence(server, after);
            return Ok(());
        }
        self.lanes.lock().refill(server, missed);
        Ok(())
    }

    fn begin_absence(&self, server: &ServerName, after: StreamPosition) {
        tracing::info!(%server, "a server was long away: it is sent its rooms' newest events");
        let mut lanes = self.lanes.lock();
        let until = lanes.routed().max(after);
        lanes.refill_absence(
            server,
            Vec::new(),
            Absence { until, lists_after: Some(after), after_room: None },
        );
    }

    /// Has the log lost what came after this position, or is it too much to tell all of it?
    async fn was_long_away(&self, after: StreamPosition) -> Result<bool, StoreError> {
        let (mut place, mut count) = (after, 0);
        loop {
            let records = self.store.log_after(place, LOG_PAGE).await?;
            count += records.len();
            if count > MAX_REPLAYED || self.store.log_trimmed() > after {
                return Ok(true);
            }
            match records.last() {
                Some(last) if records.len() >= LOG_PAGE => place = last.position,
                _ => return Ok(false),
            }
            yield_now().await;
        }
    }

    /// The next events and receipts for this destination.
    async fn read_log(
        &self,
        server: &ServerName,
        after: StreamPosition,
    ) -> Result<Missed, RoomError> {
        let mut missed =
            Missed { items: Vec::new(), receipts: Vec::new(), lists: Vec::new(), until: after };
        while missed.items.len() + missed.receipts.len() + missed.lists.len() < READ_AHEAD {
            let routed = self.lanes.lock().routed();
            let records = self.store.log_after(missed.until, LOG_PAGE).await?;
            let full = records.len() >= LOG_PAGE;
            // What is not distributed yet will come in its turn.
            for record in records.iter().take_while(|record| record.position <= routed) {
                missed.until = record.position;
                match self.add_missed(server, record, &mut missed).await {
                    Ok(()) => {}
                    // A damaged room harms itself alone.
                    Err(error) if is_lasting(&error) => {
                        tracing::error!(%error, topic = record.entry.topic.as_str(), "passed over");
                    }
                    Err(error) => return Err(error),
                }
            }
            if !full || missed.until >= routed {
                missed.until = missed.until.max(routed);
                break;
            }
            yield_now().await;
        }
        Ok(missed)
    }

    async fn add_missed(
        &self,
        server: &ServerName,
        record: &LogRecord,
        missed: &mut Missed,
    ) -> Result<(), RoomError> {
        if let Some(item) = item_of(record)
            && self.was_for(server, &item).await?
        {
            missed.items.push(item.clone());
            missed.lists.extend(self.list_of_newcomer_by(&item).await?);
        }
        if let Some(item) = arrival_of(record)
            && self.rooms.has_joined_server(&item.room_id, server).await?
        {
            missed.lists.extend(self.list_of_newcomer_by(&item).await?);
        }
        if let Some(receipt) = self.receipt_of(record)
            && self.receipt_servers(&receipt).await?.contains(server)
        {
            missed.receipts.push(receipt);
        }
        if let Some(change) = self.list_change_of(record)
            && self.list_servers(&change.user_id).await?.contains(server)
        {
            missed.lists.push(change);
        }
        Ok(())
    }

    /// The newest events of some more rooms; after the last one the log is read again.
    async fn read_rooms(
        &self,
        server: &ServerName,
        after: StreamPosition,
        absence: Absence,
    ) -> Result<(), RoomError> {
        let after_room = absence.after_room.as_deref();
        let rooms = self.rooms.rooms_shared_with(server, after_room, ROOM_PAGE).await?;
        let Some(last) = rooms.last().cloned() else {
            let items = self.turned_away(server, after, absence.until).await?;
            self.lanes.lock().absence_over(server, items, absence.until);
            return Ok(());
        };
        let mut items = Vec::new();
        for room_id in &rooms {
            match self.newest_of(server, room_id, after).await {
                Ok(newest) => items.extend(newest),
                Err(error) if is_lasting(&error) => {
                    tracing::error!(%error, %room_id, "passed over");
                }
                Err(error) => return Err(error),
            }
        }
        let absence = Absence { after_room: Some(last), ..absence };
        self.lanes.lock().refill_absence(server, items, absence);
        Ok(())
    }

    /// Kicks and bans of its users that the log still holds: rooms that it has nobody left in are not among
    /// those that it shares. They stand where the newest events do.
    async fn turned_away(
        &self,
        server: &ServerName,
        after: StreamPosition,
        until: StreamPosition,
    ) -> Result<Vec<Item>, RoomError> {
        let (mut place, mut count) = (after, 0);
        let mut items = Vec::new();
        loop {
            let records = self.store.log_after(place, LOG_PAGE).await?;
            count += records.len();
            for record in records.iter().take_while(|record| record.position <= until) {
                let Some(item) = item_of(record) else { continue };
                match self.turns_away(server, &item).await {
                    Ok(true) => items.push(Item { position: after.next(), ..item }),
                    Ok(false) => {}
                    Err(error) if is_lasting(&error) => {
                        tracing::error!(%error, room_id = %item.room_id, "passed over");
                    }
                    Err(error) => return Err(error),
                }
            }
            match records.last() {
                Some(last)
                    if records.len() >= LOG_PAGE
                        && last.position < until
                        && count < MAX_LOOKED_THROUGH =>
                {
                    place = last.position;
                }
                _ => return Ok(items),
            }
            yield_now().await;
        }
    }

    /// They all stand at the place where the destination stopped, so that its cursor stays there until
    /// it has them all.
    async fn newest_of(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        after: StreamPosition,
    ) -> Result<Vec<Item>, RoomError> {
        let newest = self.rooms.newest_events(room_id).await?;
        let mut items = Vec::new();
        for event in newest.iter().filter(|event| self.is_destination(server, event)) {
            if items.len() >= MAX_NEWEST {
                break;
            }
            if self.rooms.visible_to_server(server, room_id, event).await? {
                let (position, room_id) = (after.next(), room_id.to_owned());
                items.push(Item { position, room_id, ordinal: event.ordinal });
            }
        }
        Ok(items)
    }
}
