//! Which rooms have a writer running, and the one place where writers start.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use ruma::{OwnedRoomId, RoomId};
use tokio::sync::{Notify, mpsc, mpsc::error::TrySendError, watch};

use super::{
    Command,
    task::{MAILBOX_CAPACITY, WriterTask},
};
use crate::{Rooms, error::RoomError};

/// Of a full table, the part of the writers that are asked to leave together, those first that have had
/// nothing to do for longest: so that not every new writer looks through the whole table.
const LEAVING_PART: usize = 16;

/// The writers that are running: at most as many as the configuration allows, and those that are about
/// to leave for others.
pub(crate) struct WriterTable {
    writers: Mutex<Writers>,
    max_writers: usize,
    /// Set under the lock: from then on no writer starts.
    closed: AtomicBool,
    /// How many writers run, those that are ending included.
    running: watch::Sender<usize>,
}

#[derive(Default)]
struct Writers {
    by_room: HashMap<OwnedRoomId, Writer>,
    /// Counts the commands.
    commands: u64,
}

/// A writer as the table knows it.
struct Writer {
    mailbox: mpsc::Sender<Command>,
    /// When it got its last command, as the number of that.
    last: u64,
    /// Asks it to leave as soon as it is idle.
    leave: Arc<Notify>,
    /// That has been done.
    asked: bool,
}

impl Writers {
    /// Asks the writers to leave that have been idle for longest, a few of so many.
    fn make_place(&mut self, max_writers: usize) {
        let has_nothing = |writer: &&mut Writer| {
            !writer.asked && writer.mailbox.capacity() == writer.mailbox.max_capacity()
        };
        let mut idle: Vec<&mut Writer> = self.by_room.values_mut().filter(has_nothing).collect();
        idle.sort_unstable_by_key(|writer| writer.last);
        for writer in idle.into_iter().take(part(max_writers)) {
            writer.asked = true;
            writer.leave.notify_one();
        }
    }
}

/// How many writers are asked to leave together.
fn part(max_writers: usize) -> usize {
    max_writers.div_ceil(LEAVING_PART)
}

/// Counts a writer as running until it is dropped.
pub(super) struct Running(watch::Sender<usize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

impl fmt::Debug for WriterTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let writers = self.writers.lock().by_room.len();
        f.debug_struct("WriterTable").field("writers", &writers).finish_non_exhaustive()
    }
}

impl WriterTable {
    /// No writer runs yet.
    pub(crate) fn new(max_writers: usize) -> Self {
        Self {
            writers: Mutex::default(),
            max_writers,
            closed: AtomicBool::new(false),
            running: watch::Sender::new(0),
        }
    }

    /// Puts a command into a room's mailbox, and starts the room's writer if none runs. In a full table
    /// it takes the place of those that have been idle for longest.
    ///
    /// [`RoomError::Busy`] if the mailbox or the table is full.
    pub(crate) fn send(
        &self,
        rooms: &Rooms,
        room_id: &RoomId,
        command: Command,
    ) -> Result<(), RoomError> {
        // Commands enter under the lock, and writers retire under it: none enters a mailbox that
        // nobody reads, and no room has two writers.
        let mut writers = self.writers.lock();
        if self.closed.load(Ordering::Relaxed) {
            return Err(RoomError::Busy);
        }
        writers.commands += 1;
        let last = writers.commands;
        let Some(writer) = writers.by_room.get_mut(room_id) else {
            return self.start(&mut writers, rooms, room_id, command);
        };
        writer.last = last;
        match writer.mailbox.try_send(command) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => Err(RoomError::Busy),
            Err(TrySendError::Closed(command)) => {
                // The writer died with a panic: the next one reads the room from the store.
                writers.by_room.remove(room_id);
                self.start(&mut writers, rooms, room_id, command)
            }
        }
    }

    fn start(
        &self,
        writers: &mut Writers,
        rooms: &Rooms,
        room_id: &RoomId,
        command: Command,
    ) -> Result<(), RoomError> {
        if writers.by_room.len() >= self.max_writers {
            let leaving = writers.by_room.values().filter(|writer| writer.asked).count();
            if leaving == 0 {
                writers.make_place(self.max_writers);
            }
            // Those that were asked leave when they are idle, which mostly is at once.
            if writers.by_room.len() >= self.max_writers + part(self.max_writers) {
                return Err(RoomError::Busy);
            }
        }
        let (sender, mailbox) = mpsc::channel(MAILBOX_CAPACITY);
        sender.try_send(command).map_err(|_| RoomError::Busy)?;
        let leave = Arc::new(Notify::new());
        let last = writers.commands;
        let writer = Writer { mailbox: sender, last, leave: Arc::clone(&leave), asked: false };
        writers.by_room.insert(room_id.to_owned(), writer);
        self.running.send_modify(|running| *running += 1);
        let running = Running(self.running.clone());
        let task = WriterTask::new(rooms.clone(), room_id.to_owned(), mailbox, leave, running);
        tokio::spawn(task.run());
        Ok(())
    }

    /// Takes an idle writer off the table; false if a command has come meanwhile.
    pub(super) fn retire(&self, room_id: &RoomId, mailbox: &mpsc::Receiver<Command>) -> bool {
        let mut writers = self.writers.lock();
        if mailbox.is_empty() {
            writers.by_room.remove(room_id);
            return true;
        }
        // Asked to leave, it stays after all.
        if let Some(writer) = writers.by_room.get_mut(room_id) {
            writer.asked = false;
        }
        false
    }

    /// Lets every writer finish what is in its mailbox and end. None starts any more: it would not
    /// know what the ending ones still have in flight.
    pub(crate) fn close(&self) {
        let mut writers = self.writers.lock();
        self.closed.store(true, Ordering::Relaxed);
        writers.by_room.clear();
    }

    /// Waits until no writer runs.
    pub(crate) async fn ended(&self) {
        let mut running = self.running.subscribe();
        // The sender lives as long as the table.
        drop(running.wait_for(|running| *running == 0).await);
    }
}
