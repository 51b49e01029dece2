//! The one task that writes receipts.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use hearth_storage::{Commit, CommitError, LogEntry, Positioned, Store, StoreError, Ticket, Topic};
use hearth_types::{Clock, StreamPosition};
use parking_lot::Mutex;
use ruma::{OwnedRoomId, events::receipt::ReceiptType};
use tokio::sync::{mpsc, oneshot};

use super::{RECEIPTS, ReceiptKey, ReceiptRow, ReceiptUpdate, recent::RecentReceipts};
use crate::{LogKind, ReceiptLog, UsersError};

/// Receipts waiting to be written; further ones wait for a place.
const QUEUE: usize = 4_096;
/// Receipts taken from the queue at once: with three operations each they fit one commit even if all
/// are of one room.
const BATCH: usize = 256;

type Answer = oneshot::Sender<Result<Option<StreamPosition>, UsersError>>;

/// The way to the writing task, and what it keeps in memory. The task ends with its owner.
#[derive(Debug)]
pub(crate) struct ReceiptLine {
    queue: mpsc::Sender<(ReceiptUpdate, Answer)>,
    recent: Arc<Mutex<RecentReceipts>>,
}

impl ReceiptLine {
    pub(crate) fn start(store: Store, clock: Arc<dyn Clock>) -> Self {
        let (queue, updates) = mpsc::channel(QUEUE);
        let recent = Arc::new(Mutex::new(RecentReceipts::new(store.notifier().published())));
        let writer = Writer { store, clock, recent: Arc::clone(&recent) };
        tokio::spawn(writer.run(updates));
        Self { queue, recent }
    }

    pub(crate) fn recent(&self) -> &Mutex<RecentReceipts> {
        &self.recent
    }

    pub(crate) async fn set(
        &self,
        update: ReceiptUpdate,
    ) -> Result<Option<StreamPosition>, UsersError> {
        let gone = || UsersError::Internal("the task that writes receipts is gone".to_owned());
        let (answer, answered) = oneshot::channel();
        self.queue.send((update, answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

struct Writer {
    store: Store,
    clock: Arc<dyn Clock>,
    recent: Arc<Mutex<RecentReceipts>>,
}

/// What a room's commit will hold.
#[derive(Default)]
struct Plan {
    /// The newest update of each receipt, with whether others are to be woken.
    moves: BTreeMap<ReceiptKey, (ReceiptRow, bool)>,
    /// Who waits, and for which receipt; `None`: it did not move.
    waiting: Vec<(Answer, Option<ReceiptKey>)>,
}

/// A submitted commit.
struct Flight {
    room_id: OwnedRoomId,
    ticket: Result<Ticket, CommitError>,
    /// The receipts in the order of the commit's positions.
    moves: Vec<(ReceiptKey, ReceiptRow)>,
    waiting: Vec<(Answer, Option<ReceiptKey>)>,
}

impl Writer {
    async fn run(self, mut updates: mpsc::Receiver<(ReceiptUpdate, Answer)>) {
        let mut batch = Vec::with_capacity(BATCH);
        while updates.recv_many(&mut batch, BATCH).await > 0 {
            self.write(batch.drain(..)).await;
        }
    }

    async fn write(&self, batch: impl Iterator<Item = (ReceiptUpdate, Answer)>) {
        let mut rooms: BTreeMap<OwnedRoomId, Vec<(ReceiptUpdate, Answer)>> = BTreeMap::new();
        for (update, answer) in batch {
            rooms.entry(update.room_id.clone()).or_default().push((update, answer));
        }
        let mut flights = Vec::with_capacity(rooms.len());
        for (room_id, updates) in rooms {
            flights.extend(self.submit(room_id, updates).await);
        }
        for flight in flights {
            self.land(flight).await;
        }
    }

    async fn submit(
        &self,
        room_id: OwnedRoomId,
        updates: Vec<(ReceiptUpdate, Answer)>,
    ) -> Option<Flight> {
        let plan = match self.plan(&room_id, updates).await {
            Ok(plan) => plan,
            Err((answers, error)) => {
                refuse(answers, &error);
                return None;
            }
        };
        if plan.moves.is_empty() {
            answer(plan.waiting, &BTreeMap::new());
            return None;
        }
        self.recent.lock().announce(&room_id, plan.moves.keys().cloned().collect());
        let commit = commit_of(&room_id, &plan.moves);
        let moves = plan.moves.into_iter().map(|(key, (row, _))| (key, row)).collect();
        let ticket = self.store.submit(commit).await;
        Some(Flight { room_id, ticket, moves, waiting: plan.waiting })
    }

    /// Reads how the receipts stand and keeps those updates that move one forward.
    async fn plan(
        &self,
        room_id: &OwnedRoomId,
        updates: Vec<(ReceiptUpdate, Answer)>,
    ) -> Result<Plan, (Vec<Answer>, StoreError)> {
        let now_ms = self.clock.now_ms();
        let mut plan = Plan::default();
        let mut stands: HashMap<ReceiptKey, Option<u64>> = HashMap::new();
        let mut updates = updates.into_iter();
        while let Some((update, answer)) = updates.next() {
            let thread = update.thread.as_str().unwrap_or_default().to_owned();
            let key = (update.user_id, update.receipt_type.as_str().to_owned(), thread);
            let stand = match stands.get(&key) {
                Some(stand) => *stand,
                None => match self.store.get(&RECEIPTS, room_id, &key).await {
                    Ok(row) => row.map(|row| row.record.timeline_position),
                    Err(error) => {
                        let told = plan.waiting.into_iter().map(|(answer, _)| answer);
                        let rest = updates.map(|(_, answer)| answer);
                        return Err((told.chain([answer]).chain(rest).collect(), error));
                    }
                },
            };
            let forward = stand < Some(update.timeline_position);
            stands.insert(key.clone(), stand.max(Some(update.timeline_position)));
            if !forward {
                plan.waiting.push((answer, None));
                continue;
            }
            let row = ReceiptRow {
                event_id: update.event_id,
                ts_ms: update.ts_ms.unwrap_or(now_ms),
                timeline_position: update.timeline_position,
            };
            plan.moves.insert(key.clone(), (row, update.fan_out));
            plan.waiting.push((answer, Some(key)));
        }
        Ok(plan)
    }

    async fn land(&self, flight: Flight) {
        let Flight { room_id, ticket, moves, waiting } = flight;
        let committed = match ticket {
            Ok(ticket) => ticket.done().await,
            Err(error) => Err(error),
        };
        match committed {
            Ok(committed) => {
                let mut position = committed.first;
                let mut positions = BTreeMap::new();
                let mut changes = Vec::with_capacity(moves.len());
                for (key, row) in moves {
                    positions.insert(key.clone(), position);
                    changes.push((position, key, row));
                    position = position.next();
                }
                self.recent.lock().settle(&room_id, changes);
                answer(waiting, &positions);
            }
            Err(error) => {
                self.recent.lock().settle(&room_id, Vec::new());
                for (waiting, _) in waiting {
                    // Nobody is told who went away.
                    let _gone = waiting.send(Err(error.clone().into()));
                }
            }
        }
    }
}

fn answer(
    waiting: Vec<(Answer, Option<ReceiptKey>)>,
    positions: &BTreeMap<ReceiptKey, StreamPosition>,
) {
    for (waiting, key) in waiting {
        let position = key.and_then(|key| positions.get(&key).copied());
        let _gone = waiting.send(Ok(position));
    }
}

fn refuse(answers: Vec<Answer>, error: &StoreError) {
    for waiting in answers {
        let error = UsersError::Internal(format!("receipts could not be read: {error}"));
        let _gone = waiting.send(Err(error));
    }
}

/// One position, one row and one log entry per receipt.
fn commit_of(room_id: &OwnedRoomId, moves: &BTreeMap<ReceiptKey, (ReceiptRow, bool)>) -> Commit {
    let mut commit = Commit::new(room_id).lazy();
    let room = Topic::new(room_id.as_str());
    for (key, (row, fan_out)) in moves {
        let position = commit.next_position();
        let stored = Positioned { position, record: row.clone() };
        commit.put(&RECEIPTS, room_id, key, &stored);
        let is_private = key.1 == ReceiptType::ReadPrivate.as_str();
        let own = Topic::new(key.0.as_str());
        let (kind, topic) = if is_private {
            (LogKind::PrivateReceipt, own.clone())
        } else {
            (LogKind::Receipt, room.clone())
        };
        let payload = ReceiptLog {
            room_id: room_id.clone(),
            user_id: key.0.clone(),
            receipt_type: key.1.clone(),
            thread: key.2.clone(),
            event_id: row.event_id.clone(),
            ts_ms: row.ts_ms,
        };
        // Strings and numbers cannot fail to become JSON; an empty payload would be skipped.
        let payload = serde_json::to_vec(&payload).unwrap_or_default().into();
        commit.log(position, LogEntry { kind: kind as u8, topic, payload });
        let wakes_room = *fan_out && !is_private;
        commit.touch(if wakes_room { room.clone() } else { own });
    }
    commit
}
