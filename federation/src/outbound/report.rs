//! What the operator is told of the servers that this one sends to.

use std::collections::{BTreeMap, HashMap};

use hearth_rooms::RoomError;
use hearth_types::StreamPosition;
use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};
use tokio::{task::yield_now, time::Instant};

use super::{
    Inner, Outbound,
    catch_up::MAX_REPLAYED,
    is_lasting,
    lanes::LaneState,
    router::{LOG_PAGE, item_of},
};

/// A server that this one sends to, or cannot reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationReport {
    /// The server.
    pub server: OwnedServerName,
    /// Rooms in which it has joined members.
    pub rooms: u64,
    /// Events that wait for it.
    pub waiting: u64,
    /// Whether more may wait than were counted.
    pub waiting_is_more: bool,
    /// Failures in a row.
    pub failures: u32,
    /// When it is tried again, in milliseconds since 1970.
    pub retry_at_ms: Option<u64>,
    /// The last error, shortened.
    pub last_error: Option<String>,
}

impl DestinationReport {
    fn new(server: &OwnedServerName) -> Self {
        Self {
            server: server.clone(),
            rooms: 0,
            waiting: 0,
            waiting_is_more: false,
            failures: 0,
            retry_at_ms: None,
            last_error: None,
        }
    }

    /// Is there nothing to say of it?
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.waiting == 0 && !self.waiting_is_more && self.failures == 0
    }

    fn fails(&mut self, failures: u32, retry_at_ms: Option<u64>, error: Option<String>) {
        self.failures = self.failures.max(failures);
        self.retry_at_ms = self.retry_at_ms.max(retry_at_ms);
        self.last_error = error.or(self.last_error.take());
    }
}

/// What was counted of the log.
#[derive(Debug, Default)]
struct Counted {
    events: HashMap<OwnedServerName, u64>,
    /// Where counting began and ended.
    whole: Option<(StreamPosition, StreamPosition)>,
}

impl Outbound {
    /// Every server that shares a room with this one, has something waiting, or failed, by name.
    pub async fn report(&self) -> Result<Vec<DestinationReport>, RoomError> {
        self.0.report().await
    }
}

impl Inner {
    async fn report(&self) -> Result<Vec<DestinationReport>, RoomError> {
        let mut reports = BTreeMap::new();
        for (server, rooms) in self.rooms.servers_with_rooms().await? {
            report_of(&mut reports, &server).rooms = rooms;
        }
        let (states, routed) = {
            let lanes = self.lanes.lock();
            (lanes.states(), lanes.routed())
        };
        let cursor = |server: &OwnedServerName| {
            states.get(server).and_then(|state| state.behind).unwrap_or(routed)
        };
        let first = states.values().filter_map(|state| state.behind).min();
        let counted = self.count(first.map_or(routed, |first| first.min(routed)), cursor).await?;
        let (begin, end) = counted.whole.unwrap_or((routed, routed));
        for (server, events) in &counted.events {
            report_of(&mut reports, server).waiting = *events;
        }
        for (server, state) in &states {
            let report = report_of(&mut reports, server);
            report.waiting += state.held;
            let behind = state.behind.is_some_and(|behind| behind < begin || end < routed);
            report.waiting_is_more = behind;
            let retry_at_ms = self.retry_at_ms(state);
            report.fails(state.refusals, retry_at_ms, state.last_refusal.clone());
        }
        for (server, row) in self.destinations.rows() {
            let report = report_of(&mut reports, &server);
            report.fails(row.failures, Some(row.retry_at_ms), Some(row.last_error));
        }
        Ok(reports.into_values().collect())
    }

    /// When a destination that rests is tried again.
    fn retry_at_ms(&self, state: &LaneState) -> Option<u64> {
        let wait = state.rests_until?.saturating_duration_since(Instant::now());
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        Some(self.clock.now_ms().saturating_add(wait_ms))
    }

    /// Counts what the log has for each destination behind its cursor: one walk for all, as long as
    /// what is sent again to one at most.
    async fn count(
        &self,
        begin: StreamPosition,
        cursor: impl Fn(&OwnedServerName) -> StreamPosition,
    ) -> Result<Counted, RoomError> {
        let begin = begin.max(self.store.log_trimmed());
        let (mut counted, mut place, mut read) = (Counted::default(), begin, 0);
        loop {
            let records = self.store.log_after(place, LOG_PAGE).await?;
            read += records.len();
            for record in &records {
                place = record.position;
                let Some(item) = item_of(record) else { continue };
                let servers = match self.event_delivery(item).await {
                    Ok(delivery) => delivery.servers,
                    Err(error) if is_lasting(&error) => continue,
                    Err(error) => return Err(error),
                };
                for server in servers.iter().filter(|server| cursor(server) < place) {
                    *counted.events.entry(server.clone()).or_default() += 1;
                }
            }
            if records.len() < LOG_PAGE {
                place = place.max(self.store.notifier().published());
            }
            if records.len() < LOG_PAGE || read >= MAX_REPLAYED {
                counted.whole = Some((begin, place));
                return Ok(counted);
            }
            yield_now().await;
        }
    }
}

fn report_of<'a>(
    reports: &'a mut BTreeMap<OwnedServerName, DestinationReport>,
    server: &OwnedServerName,
) -> &'a mut DestinationReport {
    reports.entry(server.clone()).or_insert_with(|| DestinationReport::new(server))
}
