//! Destinations that found no place among the others. The cursor that all share stays before what they
//! were to be told, so that it survives a restart too.

use std::collections::BTreeSet;

use hearth_types::StreamPosition;
use ruma::{OwnedServerName, ServerName};

/// Destinations that are remembered by name. Further ones are found by who reads the log again after a
/// restart.
const MAX_LEFT_OUT: usize = if cfg!(test) { 5 } else { 100_000 };

/// Who found no place.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    servers: BTreeSet<OwnedServerName>,
    /// They were told everything up to here.
    since: Option<StreamPosition>,
    /// There were more.
    nameless: bool,
    /// Some of those that messages to devices wait for found none either.
    pub(super) messages: bool,
}

impl LeftOut {
    /// This destination is to be told something at this position.
    pub(super) fn add(&mut self, server: &ServerName, position: StreamPosition) {
        if self.since.is_none() {
            tracing::error!(%server, "too many destinations: the first one that has to wait");
        }
        let since = self.since.into_iter().chain([position.previous()]).min();
        self.since = since;
        if self.servers.len() < MAX_LEFT_OUT || self.servers.contains(server) {
            self.servers.insert(server.to_owned());
        } else {
            self.nameless = true;
        }
    }

    /// What this destination is to be told comes after this position, if it was left out.
    pub(super) fn remove(&mut self, server: &ServerName) -> Option<StreamPosition> {
        let since = self.since;
        let was_left_out = self.servers.remove(server) || self.nameless;
        if self.servers.is_empty() && !self.nameless {
            self.since = None;
        }
        since.filter(|_| was_left_out)
    }

    pub(super) fn first(&self) -> Option<OwnedServerName> {
        self.servers.first().cloned()
    }

    /// The cursor that all share may not pass this.
    pub(super) fn since(&self) -> Option<StreamPosition> {
        self.since
    }
}
