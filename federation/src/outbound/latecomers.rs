//! Servers that turn out to be in a room when its state becomes whole: what was made here before went to
//! those alone that the answer to the join named.

use std::collections::BTreeSet;

use hearth_rooms::{RoomError, schema::EventOrdinal};
use hearth_types::StreamPosition;
use ruma::{OwnedServerName, RoomId};
use tokio::{task::yield_now, time::Instant};

use super::{
    Inner, Outbound,
    lanes::{Item, MAX_WAITING},
    router::{LOG_PAGE, item_of, may_be_sent},
};

impl Outbound {
    /// Sends to these servers what was made in a room after the join of this server. When it returns,
    /// that survives a restart.
    pub(crate) async fn tell_latecomers(
        &self,
        room_id: &RoomId,
        join: EventOrdinal,
        servers: &BTreeSet<OwnedServerName>,
    ) -> Result<(), RoomError> {
        let inner = &self.0;
        let admitted = |server: &&OwnedServerName| inner.config.admits(server);
        let servers: Vec<&OwnedServerName> = servers.iter().filter(admitted).collect();
        if servers.is_empty() {
            return Ok(());
        }
        let items = inner.made_after(room_id, join).await?;
        let mut starting: Vec<OwnedServerName> = Vec::new();
        {
            let (now, mut lanes) = (Instant::now(), inner.lanes.lock());
            for server in servers {
                lanes.push_earlier(server, &items);
                if lanes.start_if_due(server, now) {
                    starting.push(server.clone());
                }
            }
        }
        inner.start_senders(starting);
        inner.save().await.map_err(|error| RoomError::Internal(error.into()))
    }
}

impl Inner {
    /// What was made here in a room behind one of its events, as far as it was routed: the first of it, as
    /// much as may wait. What is left out is found by whoever has read as far in the log.
    async fn made_after(
        &self,
        room_id: &RoomId,
        join: EventOrdinal,
    ) -> Result<Vec<Item>, RoomError> {
        let routed = self.lanes.lock().routed();
        let (mut place, mut items) = (StreamPosition::default(), Vec::new());
        loop {
            let records = self.store.log_after(place, LOG_PAGE).await?;
            for record in records.iter().take_while(|record| record.position <= routed) {
                let item = item_of(record);
                let of_room = |item: &Item| item.room_id == room_id && item.ordinal > join;
                if let Some(item) = item.filter(of_room)
                    && may_be_sent(&*self.rooms.event(room_id, item.ordinal).await?)
                {
                    items.push(item);
                }
            }
            match records.last() {
                // More than may wait is read from the log again.
                _ if items.len() > MAX_WAITING => return Ok(items),
                Some(last) if records.len() >= LOG_PAGE && last.position < routed => {
                    place = last.position;
                }
                _ => return Ok(items),
            }
            yield_now().await;
        }
    }
}
