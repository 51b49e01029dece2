//! Which rooms have a writer running, and the one place where writers start.

use std::{
    collections::HashMap,
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;
use ruma::{OwnedRoomId, RoomId};
use tokio::sync::{mpsc, mpsc::error::TrySendError, watch};

use super::{
    Command,
    task::{MAILBOX_CAPACITY, WriterTask},
};
use crate::{Rooms, error::RoomError};

/// The writers that are running: at most as many as the configuration allows.
pub(crate) struct WriterTable {
    mailboxes: Mutex<HashMap<OwnedRoomId, mpsc::Sender<Command>>>,
    max_writers: usize,
    /// Set under the lock: from then on no writer starts.
    closed: AtomicBool,
    /// How many writers run, those that are ending included.
    running: watch::Sender<usize>,
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
        let writers = self.mailboxes.lock().len();
        f.debug_struct("WriterTable").field("writers", &writers).finish_non_exhaustive()
    }
}

impl WriterTable {
    /// No writer runs yet.
    pub(crate) fn new(max_writers: usize) -> Self {
        Self {
            mailboxes: Mutex::new(HashMap::new()),
            max_writers,
            closed: AtomicBool::new(false),
            running: watch::Sender::new(0),
        }
    }

    /// Puts a command into a room's mailbox, and starts the room's writer if none runs.
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
        let mut mailboxes = self.mailboxes.lock();
        if self.closed.load(Ordering::Relaxed) {
            return Err(RoomError::Busy);
        }
        let Some(mailbox) = mailboxes.get(room_id) else {
            return self.start(&mut mailboxes, rooms, room_id, command);
        };
        match mailbox.try_send(command) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => Err(RoomError::Busy),
            Err(TrySendError::Closed(command)) => {
                // The writer died with a panic: the next one reads the room from the store.
                mailboxes.remove(room_id);
                self.start(&mut mailboxes, rooms, room_id, command)
            }
        }
    }

    fn start(
        &self,
        mailboxes: &mut HashMap<OwnedRoomId, mpsc::Sender<Command>>,
        rooms: &Rooms,
        room_id: &RoomId,
        command: Command,
    ) -> Result<(), RoomError> {
        if mailboxes.len() >= self.max_writers {
            return Err(RoomError::Busy);
        }
        let (sender, mailbox) = mpsc::channel(MAILBOX_CAPACITY);
        sender.try_send(command).map_err(|_| RoomError::Busy)?;
        mailboxes.insert(room_id.to_owned(), sender);
        self.running.send_modify(|running| *running += 1);
        let running = Running(self.running.clone());
        tokio::spawn(WriterTask::new(rooms.clone(), room_id.to_owned(), mailbox, running).run());
        Ok(())
    }

    /// Takes an idle writer off the table; false if a command has come meanwhile.
    pub(super) fn retire(&self, room_id: &RoomId, mailbox: &mpsc::Receiver<Command>) -> bool {
        let mut mailboxes = self.mailboxes.lock();
        if mailbox.is_empty() {
            mailboxes.remove(room_id);
            true
        } else {
            false
        }
    }

    /// Lets every writer finish what is in its mailbox and end. None starts any more: it would not
    /// know what the ending ones still have in flight.
    pub(crate) fn close(&self) {
        let mut mailboxes = self.mailboxes.lock();
        self.closed.store(true, Ordering::Relaxed);
        mailboxes.clear();
    }

    /// Waits until no writer runs.
    pub(crate) async fn ended(&self) {
        let mut running = self.running.subscribe();
        // The sender lives as long as the table.
        drop(running.wait_for(|running| *running == 0).await);
    }
}
