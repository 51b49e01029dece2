//! What users report to the operator: users, rooms and events (CS "Reporting Content").
//!
//! A report is kept whether or not there is what it is about, so that neither the answer nor its time tells.

use std::{collections::HashMap, ops::Bound};

use hearth_storage::{Commit, Direction, Keyspace, postcard_record};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::{Users, UsersError};

/// Reports by number. They are the server's.
pub(crate) const REPORTS: Keyspace<(), u64, Report> = Keyspace::new("reports");
/// The number that was given last, in the one row [`LAST`].
pub(crate) const REPORT_NUMBER: Keyspace<(), u8, NumberRow> = Keyspace::new("report_number");
/// Keys are not empty.
const LAST: u8 = 0;

/// Reports that wait for the operator, of all users: what one person can still look through.
const MAX_REPORTS: usize = 10_000;
/// Reports of one user that wait: nobody fills the list alone.
const MAX_OF_USER: usize = 100;
/// The longest reason in bytes: a page of text.
const MAX_REASON_BYTES: usize = 4_096;
/// How much of a reported event's content is kept in bytes: enough to judge most, even if it is redacted.
const MAX_CONTENT_BYTES: usize = 4_096;
/// Reports in one list.
pub const LISTED: usize = 100;

/// What a report is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportSubject {
    /// A user.
    User(OwnedUserId),
    /// A room.
    Room(OwnedRoomId),
    /// An event in a room.
    Event(OwnedRoomId, OwnedEventId),
}

/// A reported event, as the reporting user could see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedEvent {
    /// Who sent it.
    pub sender: OwnedUserId,
    /// Its type.
    pub event_type: String,
    /// Its content as JSON, or the beginning of it.
    pub content: String,
}

/// A report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Who reports.
    pub reporter: OwnedUserId,
    /// When, in milliseconds since the epoch.
    pub at_ms: u64,
    /// What it is about. It need not exist.
    pub subject: ReportSubject,
    /// The event, if it is about one that the user could see.
    pub event: Option<ReportedEvent>,
    /// Why; may be empty.
    pub reason: String,
}
postcard_record!(Report, version = 1);

/// The row of [`REPORT_NUMBER`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NumberRow(u64);
postcard_record!(NumberRow, version = 1);

/// The turn of whoever changes reports, and how many wait; counted when they are first needed.
#[derive(Debug, Default)]
pub(crate) struct ReportDesk(Mutex<Option<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    of_user: HashMap<OwnedUserId, usize>,
}

impl Users {
    /// Keeps a report for the operator.
    ///
    /// # Errors
    ///
    /// [`UsersError::TooLarge`] for a long reason; [`UsersError::Busy`] if as many reports wait as may, of
    /// this user or of all.
    pub async fn report(
        &self,
        reporter: OwnedUserId,
        subject: ReportSubject,
        event: Option<ReportedEvent>,
        reason: String,
    ) -> Result<(), UsersError> {
        if reason.len() > MAX_REASON_BYTES {
            return Err(UsersError::TooLarge { max_bytes: MAX_REASON_BYTES });
        }
        let event = event.map(|mut event| {
            cut(&mut event.content);
            event
        });
        let report = Report { reporter, at_ms: self.now_ms(), subject, event, reason };
        let mut desk = self.inner.reports.0.lock().await;
        let counts = match &mut *desk {
            Some(counts) => counts,
            None => desk.insert(self.count_reports().await?),
        };
        let of_user = counts.of_user.get(&report.reporter).copied().unwrap_or_default();
        if of_user >= MAX_OF_USER {
            return Err(UsersError::Busy("reports of yours"));
        }
        if counts.total >= MAX_REPORTS {
            tracing::error!("a report was refused: {MAX_REPORTS} wait for the operator");
            return Err(UsersError::Busy("reports"));
        }
        let last = self.store().get(&REPORT_NUMBER, &(), &LAST).await?;
        let number = last.map_or(1, |NumberRow(last)| last.saturating_add(1));
        let mut commit = Commit::new(&());
        commit.put(&REPORTS, &(), &number, &report);
        commit.put(&REPORT_NUMBER, &(), &LAST, &NumberRow(number));
        self.store().commit(commit).await?;
        counts.total += 1;
        *counts.of_user.entry(report.reporter).or_default() += 1;
        tracing::info!(number, "a report came in");
        Ok(())
    }

    /// The newest reports with a smaller number than this, at most [`LISTED`] of them.
    pub async fn reports(&self, before: Option<u64>) -> Result<Vec<(u64, Report)>, UsersError> {
        let until = before.map_or(Bound::Unbounded, Bound::Excluded);
        let range = (Bound::Unbounded, until);
        Ok(self.store().page(&REPORTS, &(), range, Direction::Backward, LISTED).await?)
    }

    /// The report of this number.
    pub async fn get_report(&self, number: u64) -> Result<Option<Report>, UsersError> {
        Ok(self.store().get(&REPORTS, &(), &number).await?)
    }

    /// Removes a report that the operator has dealt with; whether there was one.
    pub async fn remove_report(&self, number: u64) -> Result<bool, UsersError> {
        let mut desk = self.inner.reports.0.lock().await;
        let Some(report) = self.get_report(number).await? else { return Ok(false) };
        let mut commit = Commit::new(&());
        commit.delete(&REPORTS, &(), &number);
        self.store().commit(commit).await?;
        if let Some(counts) = &mut *desk {
            counts.total = counts.total.saturating_sub(1);
            if let Some(of_user) = counts.of_user.get_mut(&report.reporter) {
                *of_user = of_user.saturating_sub(1);
            }
            counts.of_user.retain(|_, of_user| *of_user > 0);
        }
        Ok(true)
    }

    async fn count_reports(&self) -> Result<Counts, UsersError> {
        let mut counts = Counts::default();
        let mut before = None;
        loop {
            let page = self.reports(before).await?;
            let Some((last, _)) = page.last() else { return Ok(counts) };
            before = Some(*last);
            counts.total += page.len();
            for (_, report) in page {
                *counts.of_user.entry(report.reporter).or_default() += 1;
            }
        }
    }
}

/// Shortens a text to what is kept of it.
fn cut(text: &mut String) {
    if text.len() > MAX_CONTENT_BYTES {
        text.truncate(text.floor_char_boundary(MAX_CONTENT_BYTES));
        text.push('…');
    }
}

#[cfg(test)]
mod tests;
