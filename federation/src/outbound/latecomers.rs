//! Servers that turn out to be in a room when its state becomes whole: what was made here before, and the
//! devices of who came, went to those alone that the answer to the join named.

use std::collections::BTreeSet;

use hearth_rooms::{RoomError, schema::EventOrdinal};
use hearth_types::StreamPosition;
use ruma::{OwnedServerName, RoomId};
use tokio::{task::yield_now, time::Instant};

use super::{
    Inner, Outbound,
    lanes::{Item, MAX_WAITING},
    lists::ListChange,
    router::{LOG_PAGE, arrival_of, item_of, may_be_sent},
};

impl Outbound {
    /// Sends to these servers what was made in a room after the join of this server, and of what devices
    /// its users are who came since. When it returns, that survives a restart.
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
        let Made { items, lists } = inner.made_after(room_id, join).await?;
        let (mut starting, mut gathering) = (Vec::<OwnedServerName>::new(), Vec::new());
        {
            let (now, mut lanes) = (Instant::now(), inner.lanes.lock());
            for server in servers {
                for change in &lists {
                    if lanes.push_earlier_list(server, change.clone(), now) {
                        gathering.push(server.clone());
                    }
                }
                lanes.push_earlier(server, &items);
                if lanes.start_if_due(server, now) {
                    starting.push(server.clone());
                }
            }
        }
        inner.start_senders(starting);
        inner.come_back(gathering);
        inner.save().await.map_err(|error| RoomError::Internal(error.into()))
    }
}

/// What was made here in a room, and who came to it.
#[derive(Default)]
struct Made {
    items: Vec<Item>,
    lists: Vec<ListChange>,
}

impl Inner {
    /// What was made here in a room behind one of its events, as far as it was routed: the first of it, as
    /// much as may wait. What is left out is found by whoever has read as far in the log.
    async fn made_after(&self, room_id: &RoomId, join: EventOrdinal) -> Result<Made, RoomError> {
        let routed = self.lanes.lock().routed();
        let (mut place, mut made) = (StreamPosition::default(), Made::default());
        loop {
            let records = self.store.log_after(place, LOG_PAGE).await?;
            for record in records.iter().take_while(|record| record.position <= routed) {
                let of_room = |item: &Item| item.room_id == room_id && item.ordinal >= join;
                let event = item_of(record).or_else(|| arrival_of(record)).filter(of_room);
                if let Some(item) = event
                    && may_be_sent(&*self.rooms.event(room_id, item.ordinal).await?)
                {
                    made.lists.extend(self.list_of_newcomer_by(&item).await?);
                    if item_of(record).is_some() && item.ordinal > join {
                        made.items.push(item);
                    }
                }
            }
            match records.last() {
                // More than may wait is read from the log again.
                _ if made.items.len() + made.lists.len() > MAX_WAITING => return Ok(made),
                Some(last) if records.len() >= LOG_PAGE && last.position < routed => {
                    place = last.position;
                }
                _ => return Ok(made),
            }
            yield_now().await;
        }
    }
}
