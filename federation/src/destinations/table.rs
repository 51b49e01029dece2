//! The backoff of each server, in memory: plain state, moved by calls that carry the time.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use hearth_storage::postcard_record;
use ruma::{OwnedServerName, ServerName};
use serde::{Deserialize, Serialize};

/// Servers whose failures are remembered. Strangers can name servers that do not exist; beyond this the
/// half that is due first is forgotten, and so tried anew when it is needed.
const MAX_SERVERS: usize = 65_536;
/// A server that fails but speaks to us is due at most this often on that account.
const HEARD_INTERVAL_MS: u64 = 60_000;
/// How long the one request that a due server gets may stay without news before another may go. Longer
/// than any request takes: that for a room's state may be made three times of five minutes each, and
/// pause in between.
const PROBE_MS: u64 = 16 * 60_000;
/// The longest error that is kept, in bytes.
const MAX_ERROR_BYTES: usize = 200;

/// A server that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DestinationRow {
    /// Steps of the backoff so far.
    pub(crate) failures: u32,
    /// When it is due.
    pub(crate) retry_at_ms: u64,
    /// The last error, shortened.
    pub(crate) last_error: String,
}
postcard_record!(DestinationRow, version = 1);

/// The shortest and the longest step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steps {
    pub(super) min_ms: u64,
    pub(super) max_ms: u64,
}

/// What is held of a server that failed.
#[derive(Clone, Debug)]
pub(super) struct Failing {
    pub(super) row: DestinationRow,
    /// One request was let through; until then nobody else's is.
    probe_until_ms: Option<u64>,
    /// When it was last made due because it spoke to us.
    heard_ms: Option<u64>,
}

/// All servers that fail, and which of them have rows to be written.
#[derive(Debug)]
pub(super) struct Table {
    steps: Steps,
    /// Makes the jitter of two servers differ, and that of one server the same on every run.
    seed: u64,
    failing: HashMap<OwnedServerName, Failing>,
    dirty: HashSet<OwnedServerName>,
}

impl Table {
    pub(super) fn new(
        steps: Steps,
        own_name: &ServerName,
        rows: impl IntoIterator<Item = (OwnedServerName, DestinationRow)>,
    ) -> Self {
        let mut hasher = DefaultHasher::new();
        own_name.as_str().hash(&mut hasher);
        let failing = |row| Failing { row, probe_until_ms: None, heard_ms: None };
        let mut table = Self {
            steps,
            seed: hasher.finish(),
            failing: rows.into_iter().map(|(server, row)| (server, failing(row))).collect(),
            dirty: HashSet::new(),
        };
        table.make_room();
        table
    }

    /// How long to wait; `None` if the caller is the one who may try.
    pub(super) fn try_now(&mut self, server: &ServerName, now_ms: u64) -> Option<u64> {
        let known = self.failing.get_mut(server)?;
        let due_ms = known.row.retry_at_ms.max(known.probe_until_ms.unwrap_or(0));
        if now_ms < due_ms {
            return Some(due_ms - now_ms);
        }
        known.probe_until_ms = Some(now_ms.saturating_add(PROBE_MS));
        None
    }

    /// Did it fail the last time?
    pub(super) fn is_failing(&self, server: &ServerName) -> bool {
        self.failing.contains_key(server)
    }

    /// The one request is over, whether anything was heard or not. Says whether there was one.
    pub(super) fn end_probe(&mut self, server: &ServerName) -> bool {
        let known = self.failing.get_mut(server);
        known.is_some_and(|known| known.probe_until_ms.take().is_some())
    }

    /// How long until it is due; takes no turn.
    pub(super) fn due_in(&self, server: &ServerName, now_ms: u64) -> Option<u64> {
        let due_ms = self.failing.get(server)?.row.retry_at_ms;
        due_ms.checked_sub(now_ms).filter(|wait| *wait > 0)
    }

    /// Whether it had failed before.
    pub(super) fn succeeded(&mut self, server: &ServerName) -> bool {
        let Some((server, _)) = self.failing.remove_entry(server) else { return false };
        self.dirty.insert(server);
        true
    }

    /// Whether a step began: a failure within a step is of a request that was under way before it.
    pub(super) fn failed(&mut self, server: &ServerName, error: &str, now_ms: u64) -> bool {
        let shown = shorten(error);
        if let Some(known) = self.failing.get_mut(server)
            && now_ms < known.row.retry_at_ms
        {
            known.row.last_error = shown;
            return false;
        }
        let heard_ms = self.failing.get(server).and_then(|known| known.heard_ms);
        let failures = self.failing.get(server).map_or(0, |known| known.row.failures);
        let failures = failures.saturating_add(1);
        let retry_at_ms = now_ms.saturating_add(self.step_ms(server, failures));
        let row = DestinationRow { failures, retry_at_ms, last_error: shown };
        let failing = Failing { row, probe_until_ms: None, heard_ms };
        self.failing.insert(server.to_owned(), failing);
        self.dirty.insert(server.to_owned());
        self.make_room();
        true
    }

    /// Whether it is due now on that account.
    pub(super) fn heard_from(&mut self, server: &ServerName, now_ms: u64) -> bool {
        let Some(known) = self.failing.get_mut(server) else { return false };
        let lately = |heard: u64| now_ms < heard.saturating_add(HEARD_INTERVAL_MS);
        if known.heard_ms.is_some_and(lately) || known.row.retry_at_ms <= now_ms {
            return false;
        }
        known.heard_ms = Some(now_ms);
        known.row.retry_at_ms = now_ms;
        self.dirty.insert(server.to_owned());
        true
    }

    /// What is to be written since the last call: a row, or that there is none any more.
    pub(super) fn take_dirty(&mut self) -> Vec<(OwnedServerName, Option<DestinationRow>)> {
        let dirty = std::mem::take(&mut self.dirty);
        let row =
            |server: &OwnedServerName| self.failing.get(server).map(|known| known.row.clone());
        dirty.into_iter().map(|server| (row(&server), server)).map(|(row, s)| (s, row)).collect()
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = (&OwnedServerName, &DestinationRow)> {
        self.failing.iter().map(|(server, known)| (server, &known.row))
    }

    /// The length of a step: doubling, give or take a quarter.
    fn step_ms(&self, server: &ServerName, failures: u32) -> u64 {
        let doublings = failures.saturating_sub(1).min(u64::BITS - 1);
        let factor = 1_u64.checked_shl(doublings).unwrap_or(u64::MAX);
        let whole = self.steps.min_ms.saturating_mul(factor).min(self.steps.max_ms);
        let mut hasher = DefaultHasher::new();
        (self.seed, server.as_str(), failures).hash(&mut hasher);
        let spread = (whole / 2).max(1);
        (whole - whole / 4).saturating_add(hasher.finish() % spread)
    }

    fn make_room(&mut self) {
        if self.failing.len() <= MAX_SERVERS {
            return;
        }
        let mut due: Vec<_> = self.failing.values().map(|known| known.row.retry_at_ms).collect();
        let middle = due.len() / 2;
        let (_, median, _) = due.select_nth_unstable(middle);
        let median = *median;
        let dirty = &mut self.dirty;
        self.failing.retain(|server, known| {
            let stays = known.row.retry_at_ms > median;
            if !stays {
                dirty.insert(server.clone());
            }
            stays
        });
    }
}

fn shorten(error: &str) -> String {
    let mut end = error.len().min(MAX_ERROR_BYTES);
    while !error.is_char_boundary(end) {
        end -= 1;
    }
    error.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use ruma::{OwnedServerName, server_name};

    use super::*;

    const STEPS: Steps = Steps { min_ms: 1_000, max_ms: 60_000 };

    fn table() -> Table {
        Table::new(STEPS, server_name!("here.test"), [])
    }

    /// Lets time pass until the server is due.
    fn until_due(table: &Table, server: &ServerName, now_ms: &mut u64) -> u64 {
        let wait = table.due_in(server, *now_ms).unwrap();
        *now_ms += wait;
        wait
    }

    #[test]
    fn steps_double_to_the_longest_with_a_jitter() {
        let (mut table, there, mut now_ms) = (table(), server_name!("there.test"), 5_000);
        let mut steps = Vec::new();
        for _ in 0..9 {
            assert_eq!(table.try_now(there, now_ms), None);
            assert!(table.failed(there, "no", now_ms));
            steps.push(until_due(&table, there, &mut now_ms));
        }
        for (number, step) in steps.iter().enumerate() {
            let whole = (1_000_u64 << number).min(60_000);
            assert!((whole * 3 / 4..=whole * 5 / 4).contains(step), "step {number} is {step}");
        }
        let other = server_name!("elsewhere.test");
        table.failed(other, "no", 0);
        assert_ne!(table.due_in(other, 0), Some(steps[0]), "servers differ");
    }

    #[test]
    fn one_request_a_step() {
        let (mut table, there) = (table(), server_name!("there.test"));
        assert!(table.failed(there, "first", 0));
        assert!(!table.failed(there, "second, under way at the same time", 10));
        assert!(table.try_now(there, 10).is_some());
        let due = table.due_in(there, 0).unwrap();
        assert_eq!(table.try_now(there, due), None, "the probe");
        assert!(table.try_now(there, due).is_some(), "nobody else");
        assert_eq!(table.try_now(there, due + PROBE_MS), None, "a lost probe is replaced");
        assert!(table.failed(there, "third", due + PROBE_MS));
        assert_eq!(table.rows().next().unwrap().1.failures, 2);
    }

    #[test]
    fn an_answer_ends_the_backoff() {
        let (mut table, there) = (table(), server_name!("there.test"));
        assert!(!table.succeeded(there), "nothing was wrong");
        table.failed(there, "no", 0);
        assert!(table.succeeded(there));
        assert_eq!(table.try_now(there, 0), None);
        assert_eq!(table.try_now(there, 0), None, "as often as one likes");
        assert_eq!(table.take_dirty(), [(there.to_owned(), None)]);
        assert!(table.take_dirty().is_empty());
    }

    #[test]
    fn who_speaks_is_due_at_once_but_not_all_the_time() {
        let (mut table, there) = (table(), server_name!("there.test"));
        for _ in 0..5 {
            let due = table.due_in(there, 0).unwrap_or(0);
            table.failed(there, "no", due);
        }
        assert!(table.heard_from(there, 10));
        assert_eq!(table.try_now(there, 10), None);
        assert!(table.failed(there, "still no", 20));
        assert!(!table.heard_from(there, 30));
        assert!(table.try_now(there, 30).is_some());
        assert!(table.failed(there, "even later", HEARD_INTERVAL_MS));
        assert!(!table.heard_from(there, HEARD_INTERVAL_MS + 9));
        assert!(table.heard_from(there, HEARD_INTERVAL_MS + 10));
    }

    #[test]
    fn the_table_is_bounded_and_says_what_it_forgets() {
        let mut table = table();
        for number in 0..=MAX_SERVERS {
            let server: OwnedServerName = format!("s{number}.test").try_into().unwrap();
            table.failed(&server, "no", number as u64 * 10);
        }
        assert!(table.rows().count() <= MAX_SERVERS / 2 + 1);
        let gone = table.take_dirty().into_iter().filter(|(_, row)| row.is_none()).count();
        assert!(gone >= MAX_SERVERS / 2);
        let newest: OwnedServerName = format!("s{MAX_SERVERS}.test").try_into().unwrap();
        assert!(table.try_now(&newest, 0).is_some());
    }

    #[test]
    fn errors_are_shortened_between_characters() {
        let long = "ä".repeat(MAX_ERROR_BYTES);
        assert_eq!(shorten(&long).len(), MAX_ERROR_BYTES);
        assert_eq!(shorten(&format!("x{long}")).len(), MAX_ERROR_BYTES - 1);
    }
}
