//! The users and rooms of a run, made when first needed and shared by the scenarios, and the helpers that all scenarios use.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{Account, Client};
use crate::connection::{RequestError, Target};
use crate::histogram::Histogram;
use crate::options::Options;
use crate::paths::Room;
use crate::process::{self, Reading};
use crate::register;
use crate::report::Report;

/// Connections that prepare users and rooms.
const PREPARING: u32 = 8;
/// Failed requests after which one worker of a measurement gives up.
const MAX_FAILURES: u64 = 200;

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Preparing a scenario failed: there is nothing to measure.
    #[error("{doing}: {error}")]
    Setup {
        /// What was being prepared.
        doing: &'static str,
        /// What went wrong.
        error: RequestError,
    },
    /// A worker ended by a fault of the generator itself.
    #[error("a worker failed: {0}")]
    Worker(#[from] tokio::task::JoinError),
    /// The server could not be started or reached.
    #[error("{0}")]
    Server(String),
}

/// Attaches what was being prepared to a request's error.
pub(crate) trait Doing<T> {
    /// Names what was being done.
    fn doing(self, what: &'static str) -> Result<T, Failure>;
}

impl<T> Doing<T> for Result<T, RequestError> {
    fn doing(self, what: &'static str) -> Result<T, Failure> {
        self.map_err(|error| Failure::Setup { doing: what, error })
    }
}

/// Everything that a scenario works with.
pub(crate) struct World {
    /// The server.
    pub(crate) target: Arc<Target>,
    /// The command line.
    pub(crate) options: Options,
    /// Where results go.
    pub(crate) report: Report,
    server_pid: Option<u32>,
    run: u32,
    cases: u32,
    accounts: Vec<Arc<Account>>,
    sized_rooms: BTreeMap<u32, Room>,
}

impl World {
    /// An empty world.
    pub(crate) fn new(
        target: Target,
        options: Options,
        report: Report,
        server_pid: Option<u32>,
    ) -> Self {
        Self {
            target: Arc::new(target),
            options,
            report,
            server_pid,
            // Not from the seed: a second run against the same server needs other user names.
            run: rand::random(),
            cases: 0,
            accounts: Vec::new(),
            sized_rooms: BTreeMap::new(),
        }
    }

    /// Goes on with another, empty server.
    pub(crate) fn move_to(&mut self, target: Target, server_pid: Option<u32>) {
        self.target = Arc::new(target);
        self.server_pid = server_pid;
        self.accounts.clear();
        self.sized_rooms.clear();
    }

    /// A client without a connection yet.
    pub(crate) fn client(&self) -> Client {
        Client::new(&self.target)
    }

    /// A random generator that depends on the seed and `stream` only.
    pub(crate) fn rng(&self, stream: u32) -> StdRng {
        StdRng::seed_from_u64(self.options.seed ^ (u64::from(stream) << 32))
    }

    /// A marker that no other case's messages hold.
    pub(crate) fn next_marker(&mut self) -> String {
        self.cases += 1;
        format!("lg{:08x}c{}-", self.run, self.cases)
    }

    /// What the server, if its process is known, and the generator have used so far.
    pub(crate) fn usage(&self) -> Reading {
        Reading {
            server: self.server_pid.and_then(process::usage),
            generator: process::usage(std::process::id()),
        }
    }

    /// The most memory that the server has had resident since [`Self::forget_peak`], if its process is known.
    pub(crate) fn peak_bytes(&self) -> Option<u64> {
        self.server_pid.and_then(process::peak)
    }

    /// Lets [`Self::peak_bytes`] begin anew. Was that possible?
    pub(crate) fn forget_peak(&self) -> bool {
        self.server_pid.is_some_and(process::forget_peak)
    }

    /// The first `count` users of this run, registered as needed.
    pub(crate) async fn accounts(&mut self, count: u32) -> Result<Vec<Arc<Account>>, Failure> {
        let have = u32::try_from(self.accounts.len()).unwrap_or(u32::MAX);
        if have < count {
            let (run, registration) = (self.run, Arc::new(self.options.registration()));
            let target = Arc::clone(&self.target);
            let made = in_parallel(count - have, move |worker, step, missing| {
                let (target, registration) = (Arc::clone(&target), Arc::clone(&registration));
                async move {
                    let mut client = Client::new(&target);
                    let mut made = Vec::new();
                    for index in (worker..missing).step_by(step) {
                        let name = format!("lg{run:08x}-{}", have + index);
                        let account = register::register(&mut client, &name, &registration).await;
                        made.push(Arc::new(account.doing("registering users")?));
                    }
                    Ok(made)
                }
            });
            self.accounts.extend(made.await?);
        }
        Ok(self.accounts.iter().take(count as usize).cloned().collect())
    }

    /// `count` new rooms, created by `owner`.
    pub(crate) async fn create_rooms(
        &self,
        owner: &Arc<Account>,
        count: u32,
    ) -> Result<Vec<Room>, Failure> {
        let (target, owner) = (Arc::clone(&self.target), Arc::clone(owner));
        in_parallel(count, move |worker, step, count| {
            let (target, owner) = (Arc::clone(&target), Arc::clone(&owner));
            async move {
                let mut client = Client::new(&target);
                let mut rooms = Vec::new();
                for index in (worker..count).step_by(step) {
                    let room = client.create_room(&owner, &format!("Load {index}")).await;
                    rooms.push(room.doing("creating rooms")?);
                }
                Ok(rooms)
            }
        })
        .await
    }

    /// Joins each pair's account to its room.
    pub(crate) async fn join_all(&self, joins: Vec<(Arc<Account>, Room)>) -> Result<(), Failure> {
        let target = Arc::clone(&self.target);
        let count = u32::try_from(joins.len()).unwrap_or(u32::MAX);
        let joins = Arc::new(joins);
        in_parallel(count, move |worker, step, _| {
            let (target, joins) = (Arc::clone(&target), Arc::clone(&joins));
            async move {
                let mut client = Client::new(&target);
                for (account, room) in joins.iter().skip(worker as usize).step_by(step) {
                    client.join(account, room).await.doing("joining rooms")?;
                }
                Ok(Vec::<()>::new())
            }
        })
        .await
        .map(drop)
    }

    /// A room whose members are the first `size` accounts; its creator is the first.
    pub(crate) async fn room_of(&mut self, size: u32) -> Result<Room, Failure> {
        if let Some(room) = self.sized_rooms.get(&size) {
            return Ok(room.clone());
        }
        let accounts = self.accounts(size).await?;
        let Some((owner, others)) = accounts.split_first() else {
            return Err(Failure::Server("a room needs a member".to_owned()));
        };
        let room = self
            .client()
            .create_room(owner, &format!("Load of {size}"))
            .await
            .doing("creating a room")?;
        self.join_all(others.iter().map(|account| (Arc::clone(account), room.clone())).collect())
            .await?;
        self.sized_rooms.insert(size, room.clone());
        Ok(room)
    }

    /// Remembers a room that a scenario has filled with the first `size` accounts.
    pub(crate) fn keep_room(&mut self, size: u32, room: Room) {
        self.sized_rooms.insert(size, room);
    }
}

/// Runs up to [`PREPARING`] workers. Each gets its number, the step to its next item and the number of items.
async fn in_parallel<F, W, T>(count: u32, worker: F) -> Result<Vec<T>, Failure>
where
    F: Fn(u32, usize, u32) -> W,
    W: Future<Output = Result<Vec<T>, Failure>> + Send + 'static,
    T: Send + 'static,
{
    let mut workers = JoinSet::new();
    for number in 0..PREPARING {
        workers.spawn(worker(number, PREPARING as usize, count));
    }
    let mut all = Vec::new();
    while let Some(made) = workers.join_next().await {
        all.extend(made??);
    }
    Ok(all)
}

/// Waits for all `workers` and adds up their tallies.
pub(crate) async fn gather(mut workers: JoinSet<Tally>) -> Result<Tally, Failure> {
    let mut total = Tally::default();
    while let Some(tally) = workers.join_next().await {
        total.merge(tally?);
    }
    Ok(total)
}

/// A message's content: `marker`, `number` and some words, about 100 bytes.
pub(crate) fn message(marker: &str, number: u32) -> Bytes {
    Bytes::from(format!(
        r#"{{"msgtype":"m.text","body":"{marker}{number:08} The quick brown fox jumps over the lazy dog by the fire"}}"#
    ))
}

/// The transaction ID of message `number`. It does not hold the marker itself: servers show it to the sender beside the content.
pub(crate) fn transaction(marker: &str, number: u32) -> String {
    format!("{}.{number}", marker.trim_end_matches('-'))
}

/// What one worker counted.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Durations of what succeeded.
    pub(crate) latency: Histogram,
    /// Number of requests that failed.
    pub(crate) failed: u64,
    /// The first failure's text.
    pub(crate) first_error: Option<String>,
}

impl Tally {
    /// Counts a request that was begun at `begun` and has just ended.
    pub(crate) fn note<T>(&mut self, begun: Instant, result: Result<T, RequestError>) -> Option<T> {
        match result {
            Ok(value) => {
                self.latency.record(begun.elapsed());
                Some(value)
            }
            Err(error) => {
                self.fail(&error);
                None
            }
        }
    }

    /// Counts a failure.
    pub(crate) fn fail(&mut self, error: &RequestError) {
        self.failed += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }

    /// Whether so much failed that going on is pointless.
    pub(crate) fn hopeless(&self) -> bool {
        self.failed >= MAX_FAILURES
    }

    /// Adds another worker's count.
    pub(crate) fn merge(&mut self, other: Self) {
        self.latency.merge(&other.latency);
        self.failed += other.failed;
        if self.first_error.is_none() {
            self.first_error = other.first_error;
        }
    }
}

/// The part of a measurement that counts, behind a warm-up of a tenth of its length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    begin: Instant,
    end: Instant,
}

impl Window {
    /// A window of `length`, whose warm-up begins now.
    pub(crate) fn starting_now(length: Duration) -> Self {
        let begin = Instant::now() + length / 10;
        Self { begin, end: begin + length }
    }

    /// Whether the window is over.
    pub(crate) fn over(self) -> bool {
        Instant::now() >= self.end
    }

    /// Whether something that has just ended counts.
    pub(crate) fn counts(self) -> bool {
        let now = Instant::now();
        now >= self.begin && now < self.end
    }

    /// Waits for the window and reads the server's usage at both of its ends.
    pub(crate) async fn observe(self, world: &World) -> (Reading, Reading) {
        tokio::time::sleep_until(self.begin).await;
        let before = world.usage();
        tokio::time::sleep_until(self.end).await;
        (before, world.usage())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan;

    #[test]
    fn a_message_is_found_once_even_beside_its_transaction_id() {
        let (marker, number) = ("lg0c1-", 7);
        let event = format!(
            r#"{{"content":{},"unsigned":{{"transaction_id":"{}"}}}}"#,
            String::from_utf8_lossy(&message(marker, number)),
            transaction(marker, number)
        );
        assert_eq!(scan::marked_numbers(event.as_bytes(), marker).collect::<Vec<_>>(), [7]);
        let content: serde_json::Value = serde_json::from_slice(&message(marker, number)).unwrap();
        assert_eq!(content["msgtype"], "m.text");
    }
}
