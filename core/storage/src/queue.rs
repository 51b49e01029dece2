//! What waits for the committer.

use std::{collections::VecDeque, time::Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, Semaphore, oneshot};

use crate::{CommitError, Committed, commit::SealedCommit};

/// Commits that may wait.
const MAX_COMMITS: usize = 4_096;
/// Places of one commit, at least.
const MIN_PLACES: usize = 16;
/// Bytes behind one place; all places together bound the queue to 64 MiB.
const BYTES_IN_PLACE: usize = 1 << 10;
/// Keys and values that one engine batch gathers, in bytes. One commit more may go over it.
const MAX_BATCH_BYTES: usize = 8 << 20;

pub(crate) type Answer = oneshot::Sender<Result<Committed, CommitError>>;

/// A commit with somebody who waits for it.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) commit: SealedCommit,
    pub(crate) answer: Answer,
    places: usize,
}

/// The committer's bounded mailbox.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
    /// The same for a committer that is a task.
    arrived_for_task: Notify,
    places: Semaphore,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Submission>,
    closed: Option<String>,
}

/// What the committer is to do next.
#[derive(Debug)]
pub(crate) enum Work {
    /// Commit these.
    Commits(Vec<Submission>),
    /// The deadline has passed.
    Deadline,
    /// Nothing more will come.
    Closed,
}

impl Queue {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
            arrived: Condvar::new(),
            arrived_for_task: Notify::new(),
            places: Semaphore::new(MAX_COMMITS * MIN_PLACES),
        }
    }

    /// Waits for places, then enqueues.
    pub(crate) async fn submit(
        &self,
        commit: SealedCommit,
    ) -> Result<oneshot::Receiver<Result<Committed, CommitError>>, CommitError> {
        let places = MIN_PLACES + commit.bytes / BYTES_IN_PLACE;
        let wanted = u32::try_from(places).unwrap_or(u32::MAX);
        match self.places.acquire_many(wanted).await {
            Ok(permit) => permit.forget(),
            Err(_closed) => return Err(self.refusal()),
        }
        let (answer, ticket) = oneshot::channel();
        let mut state = self.state.lock();
        if let Some(reason) = &state.closed {
            return Err(CommitError::Unavailable(reason.clone()));
        }
        state.waiting.push_back(Submission { commit, answer, places });
        drop(state);
        self.arrived.notify_one();
        self.arrived_for_task.notify_one();
        Ok(ticket)
    }

    /// Takes all that waits, up to the size of one batch; waits if there is nothing.
    pub(crate) fn take(&self, deadline: Option<Instant>) -> Work {
        let mut state = self.state.lock();
        while state.waiting.is_empty() {
            if state.closed.is_some() {
                return Work::Closed;
            }
            match deadline {
                None => self.arrived.wait(&mut state),
                Some(deadline) => {
                    if self.arrived.wait_until(&mut state, deadline).timed_out()
                        && state.waiting.is_empty()
                    {
                        return Work::Deadline;
                    }
                }
            }
        }
        state.take_batch()
    }

    /// Waits, in a task, until there is something to take or nothing more will come. Only one task
    /// may wait.
    pub(crate) async fn arrived(&self) {
        loop {
            {
                let state = self.state.lock();
                if !state.waiting.is_empty() || state.closed.is_some() {
                    return;
                }
            }
            // What arrives between the look and the wait has left its permit.
            self.arrived_for_task.notified().await;
        }
    }

    /// [`Self::take`] without waiting: after [`Self::arrived`].
    pub(crate) fn take_arrived(&self) -> Work {
        let mut state = self.state.lock();
        if state.waiting.is_empty() {
            return if state.closed.is_some() { Work::Closed } else { Work::Deadline };
        }
        state.take_batch()
    }

    /// Gives the places of finished submissions back.
    pub(crate) fn release(&self, places: usize) {
        self.places.add_permits(places);
    }

    /// Refuses everything from now on; what waits is still taken.
    pub(crate) fn close(&self, reason: &str) {
        self.state.lock().closed.get_or_insert_with(|| reason.to_owned());
        self.places.close();
        self.arrived.notify_all();
        self.arrived_for_task.notify_one();
    }

    /// Refuses everything from now on, and what waits too.
    pub(crate) fn abort(&self, reason: &str) {
        self.close(reason);
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        let refusal = self.refusal();
        for submission in waiting {
            submission.refuse(&refusal);
        }
    }

    pub(crate) fn refusal(&self) -> CommitError {
        let reason = self.state.lock().closed.clone();
        CommitError::Unavailable(reason.unwrap_or_else(|| "closed".to_owned()))
    }
}

impl State {
    fn take_batch(&mut self) -> Work {
        let mut bytes = 0;
        let mut taken = Vec::with_capacity(self.waiting.len());
        while bytes < MAX_BATCH_BYTES
            && let Some(submission) = self.waiting.pop_front()
        {
            bytes += submission.commit.bytes;
            taken.push(submission);
        }
        Work::Commits(taken)
    }
}

impl Submission {
    pub(crate) fn places(&self) -> usize {
        self.places
    }

    /// Answers that nothing was committed. Whoever no longer waits has dropped the ticket.
    pub(crate) fn refuse(self, error: &CommitError) {
        drop(self.answer.send(Err(error.clone())));
    }
}
