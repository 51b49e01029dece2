//! The loop of a writer: drain the mailbox into one commit, hand it over, go on building while the
//! disk works, answer in order.

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use hearth_storage::{CommitError, Committed, run_blocking};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use tokio::sync::{Notify, mpsc, oneshot};

use super::{
    Batch, Context, NewEvent, Receive, Room, StepError,
    batch::{Reply, SealedBatch},
    room::MAX_LOCAL_EVENTS,
    table::Running,
};
use crate::{
    CheckedPdu, Rooms, Verdict,
    admit::{Admission, admit},
    error::RoomError,
    membership::MemberRequest,
    schema::{self, Membership, TransactionKey},
};

/// Commands that wait in a room's mailbox; further ones are refused as busy.
pub(super) const MAILBOX_CAPACITY: usize = 1_024;
/// Commits of one room that may wait for the disk at a time.
const MAX_IN_FLIGHT: usize = 4;
/// After this long without a command a writer leaves; where there is no room, at once.
const IDLE: Duration = Duration::from_mins(5);

/// What shall be done to a room.
pub(crate) enum Action {
    /// Append an event that is no membership event.
    Append(NewEvent),
    /// Change a membership.
    Member(MemberRequest),
    /// Make and authorize a membership event, without making it part of the room.
    Prepare(MemberRequest),
    /// Let a user forget the room that they left.
    Forget(OwnedUserId),
    /// Remove transactions that are too old to be repeated.
    Sweep(Vec<TransactionKey>),
    /// Note that another server does not have these previous events, which are not here.
    GapsTried(Vec<OwnedEventId>),
    /// Take in what began on another server; also in rooms that are not here.
    Admit(Admission),
    /// Take in events of other servers.
    Receive(Receive),
}

impl Action {
    /// The request that asks for it, where it may be repeated.
    fn transaction(&self) -> Option<&TransactionKey> {
        match self {
            Self::Append(event) => event.transaction.as_ref(),
            Self::Member(request) => request.transaction.as_ref(),
            _ => None,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// This event says it: a new one, or one that was there.
    Event(OwnedEventId),
    /// This event could say it: signed and authorized, not part of the room.
    Prepared(Box<CheckedPdu>),
    /// Done, without an event.
    Done,
    /// What became of each received event.
    Verdicts(Vec<Verdict>),
}

/// A request in a mailbox.
pub(crate) struct Command {
    pub(crate) action: Action,
    pub(crate) reply: oneshot::Sender<Result<Outcome, RoomError>>,
}

impl Rooms {
    /// Has a room's writer do something, and waits until it is durable.
    pub(crate) async fn act(
        &self,
        room_id: &ruma::RoomId,
        action: Action,
    ) -> Result<Outcome, RoomError> {
        if self.head(room_id).await?.is_none() {
            return Err(RoomError::UnknownRoom);
        }
        self.act_anywhere(room_id, action).await
    }

    /// The same for a room that need not be here.
    pub(crate) async fn act_anywhere(
        &self,
        room_id: &ruma::RoomId,
        action: Action,
    ) -> Result<Outcome, RoomError> {
        let (reply, answer) = oneshot::channel();
        self.writers().send(self, room_id, Command { action, reply })?;
        answer.await.map_err(|_| RoomError::internal("the room's writer ended"))?
    }

    /// The same for what makes an event. In a room with a policy server that is asked before the event
    /// becomes part of the room.
    pub(crate) async fn act_event(
        &self,
        room_id: &ruma::RoomId,
        action: Action,
    ) -> Result<OwnedEventId, RoomError> {
        let transaction = action.transaction().cloned();
        match self.act(room_id, action).await? {
            Outcome::Event(event_id) => Ok(event_id),
            Outcome::Prepared(event) => {
                let event = self.recommended(room_id, *event).await?;
                self.add_own(room_id, event, transaction).await
            }
            Outcome::Done | Outcome::Verdicts(_) => {
                Err(RoomError::internal("the writer made no event"))
            }
        }
    }

    /// The same for what receives events.
    pub(crate) async fn act_receive(
        &self,
        room_id: &ruma::RoomId,
        receive: Receive,
    ) -> Result<Vec<Verdict>, RoomError> {
        match self.act(room_id, Action::Receive(receive)).await? {
            Outcome::Verdicts(verdicts) => Ok(verdicts),
            Outcome::Prepared(_) | Outcome::Done | Outcome::Event(_) => {
                Err(RoomError::internal("the writer received nothing"))
            }
        }
    }

    /// Lets every writer finish its mailbox and end: for an orderly shutdown, before the store is
    /// closed. [`Self::ended`] waits for it.
    pub fn close(&self) {
        self.writers().close();
    }

    /// Waits until no writer runs; after [`Self::close`] none will.
    pub async fn ended(&self) {
        self.writers().ended().await;
    }
}

type Landing = Pin<Box<dyn Future<Output = Result<Committed, CommitError>> + Send>>;

/// A commit that waits for the disk.
struct InFlight {
    landing: Landing,
    batch: SealedBatch,
}

/// One room's writer.
pub(super) struct WriterTask {
    rooms: Rooms,
    room_id: OwnedRoomId,
    mailbox: mpsc::Receiver<Command>,
    /// `None` until it is first needed, and after a failure.
    room: Option<Room>,
    in_flight: VecDeque<InFlight>,
    next_batch: u64,
    /// A command that must wait until nothing is in flight.
    deferred: Option<Command>,
    /// A command that one batch was too small for.
    unfinished: Option<Command>,
    /// Nothing can be written until nothing is in flight.
    must_settle: bool,
    /// What is unfinished takes long: it gets a thread for that.
    takes_long: bool,
    /// The room is not here: there was something to keep that may lead to it.
    is_nowhere: bool,
    /// The table wants the place.
    leave: Arc<Notify>,
    /// Dropped last: whoever waits for the writers' end may close the store then.
    _running: Running,
}

impl WriterTask {
    pub(super) fn new(
        rooms: Rooms,
        room_id: OwnedRoomId,
        mailbox: mpsc::Receiver<Command>,
        leave: Arc<Notify>,
        running: Running,
    ) -> Self {
        Self {
            rooms,
            room_id,
            mailbox,
            room: None,
            in_flight: VecDeque::with_capacity(MAX_IN_FLIGHT),
            next_batch: 1,
            deferred: None,
            unfinished: None,
            must_settle: false,
            takes_long: false,
            is_nowhere: false,
            leave,
            _running: running,
        }
    }

    /// Runs until the writer has been idle for long, or its mailbox is closed.
    pub(super) async fn run(mut self) {
        loop {
            let must_settle = std::mem::take(&mut self.must_settle)
                || self.deferred.is_some()
                || self.room_is_heavy();
            if must_settle {
                self.settle().await;
            }
            let goes_on = self.unfinished.is_some() || self.room_lags();
            while goes_on && self.in_flight.len() >= MAX_IN_FLIGHT {
                self.land_one().await;
            }
            let command = match self.deferred.take().or_else(|| self.unfinished.take()) {
                Some(command) => Some(command),
                None if self.room_lags() => None,
                None => match self.next().await {
                    Next::Command(command) => Some(command),
                    Next::Landed => continue,
                    Next::End => break,
                },
            };
            let command = match command {
                Some(Command { action: Action::Admit(admission), reply }) => {
                    self.admit(admission, reply).await;
                    continue;
                }
                command => command,
            };
            let batch = if self.takes_long {
                let filled = run_blocking(move || {
                    let batch = self.fill_batch(command);
                    (self, batch)
                });
                let batch;
                (self, batch) = match filled.await {
                    Ok(filled) => filled,
                    // The next writer reads the room from the store.
                    Err(error) => return tracing::error!(%error, "a room's writer ended"),
                };
                batch
            } else {
                self.fill_batch(command)
            };
            if let Some(batch) = batch {
                self.submit(batch).await;
            }
        }
        self.settle().await;
    }

    /// Admits by commits of its own, while nothing else happens in the room.
    async fn admit(&mut self, admission: Admission, reply: Reply) {
        while self.room_lags() {
            match self.fill_batch(None) {
                Some(batch) => self.submit(batch).await,
                None => break,
            }
            self.settle().await;
        }
        self.settle().await;
        self.room = None;
        let admitted = admit(&self.rooms, admission).await.inspect_err(|error| {
            tracing::debug!(room_id = %self.room_id, ?error, "not admitted");
        });
        self.is_nowhere = matches!(self.rooms.head(&self.room_id).await, Ok(None));
        // A caller who left does not undo what is durable.
        drop(reply.send(admitted));
    }

    fn room_is_heavy(&self) -> bool {
        self.room.as_ref().is_some_and(|room| room.local.events.len() >= MAX_LOCAL_EVENTS)
    }

    /// Has the room rows to write that no command asks for?
    fn room_lags(&self) -> bool {
        let lags = |room: &Room| room.head.forks.lag.is_some() || !room.unwritten.is_empty();
        self.room.as_ref().is_some_and(lags)
    }

    /// Waits for a command, or for the oldest commit in flight, or for the end.
    async fn next(&mut self) -> Next {
        let may_build = self.in_flight.len() < MAX_IN_FLIGHT;
        let idle = self.in_flight.is_empty();
        let pause = if self.is_nowhere { Duration::ZERO } else { IDLE };
        let dismissal = async {
            tokio::select! {
                () = self.leave.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        };
        let landing = async {
            match self.in_flight.front_mut() {
                Some(first) => first.landing.as_mut().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            result = landing => {
                self.landed(result);
                Next::Landed
            }
            command = self.mailbox.recv(), if may_build => match command {
                Some(command) => Next::Command(command),
                None => Next::End,
            },
            () = dismissal, if idle => {
                if self.rooms.writers().retire(&self.room_id, &self.mailbox) {
                    Next::End
                } else {
                    Next::Landed
                }
            }
        }
    }

    /// The oldest commit in flight is done or has failed.
    fn landed(&mut self, result: Result<Committed, CommitError>) {
        let Some(InFlight { batch, .. }) = self.in_flight.pop_front() else {
            return;
        };
        match result {
            Ok(committed) => {
                if let Some(room) = &mut self.room {
                    room.local.settled.insert(batch.number, committed);
                }
                batch.publish(&self.room_id, self.rooms.caches(), committed);
            }
            Err(error) => {
                tracing::error!(room_id = %self.room_id, %error, "a room's commit failed");
                batch.fail();
                self.start_again();
            }
        }
    }

    /// What was built on a commit that failed never happened either: starts again from the store.
    fn start_again(&mut self) {
        self.room = None;
        for command in [&mut self.deferred, &mut self.unfinished].into_iter().flatten() {
            if let Action::Receive(receive) = &mut command.action {
                receive.restart();
            }
        }
    }

    /// Waits for the oldest commit in flight.
    async fn land_one(&mut self) {
        if let Some(first) = self.in_flight.front_mut() {
            let result = first.landing.as_mut().await;
            self.landed(result);
        }
    }

    /// Waits until nothing is in flight.
    async fn settle(&mut self) {
        while !self.in_flight.is_empty() {
            self.land_one().await;
        }
        if let Some(room) = &mut self.room {
            room.forget_settled();
        }
    }

    /// Does the command and what else is in the mailbox, up to a commit's worth. `None` if there is
    /// nothing to write. Without a command, goes on with what the last ones left.
    fn fill_batch(&mut self, first: Option<Command>) -> Option<Batch> {
        let rooms = self.rooms.clone();
        let may_take_long = std::mem::take(&mut self.takes_long);
        let view = Context { may_take_long, ..Context::new(&rooms) };
        if self.in_flight.is_empty()
            && let Some(room) = &mut self.room
        {
            room.forget_settled();
        }
        if let Err(error) = self.load(&view) {
            if let Some(first) = first {
                drop(first.reply.send(Err(error)));
            }
            return None;
        }
        let mut room = self.room.take()?;
        let mut batch = Batch::new(&self.room_id, self.next_batch);
        self.next_batch += 1;
        let mut next = first;
        match go_on(&mut room, &view, &mut batch) {
            Ok(()) if batch.is_full() => self.unfinished = next.take(),
            Ok(()) => {}
            Err(StepError::Refused(error)) => {
                tracing::error!(room_id = %self.room_id, ?error, "rows of members lag behind");
                if let Some(command) = next.take() {
                    drop(command.reply.send(Err(error)));
                }
                // Whoever asks next tries again, from the store.
                return None;
            }
            Err(StepError::Settle | StepError::Full | StepError::Long | StepError::Unsigned) => {
                self.must_settle = true;
                self.unfinished = next.take();
            }
        }
        while let Some(command) = next.take() {
            if !self.take_step(&mut room, &view, &mut batch, command) || batch.is_full() {
                break;
            }
            next = self.mailbox.try_recv().ok();
            if matches!(&next, Some(Command { action: Action::Admit(_), .. })) {
                self.deferred = next.take();
            }
        }
        self.room = Some(room);
        if batch.is_empty() {
            self.answer_without_commit(batch.take_answers());
            return None;
        }
        Some(batch)
    }

    /// Does one command. `false` if the batch takes no more.
    fn take_step(
        &mut self,
        room: &mut Room,
        view: &Context<'_>,
        batch: &mut Batch,
        mut command: Command,
    ) -> bool {
        match step(room, view, batch, &mut command.action) {
            Ok(outcome) => batch.answer_later(command.reply, outcome),
            Err(StepError::Refused(error)) => drop(command.reply.send(Err(error))),
            Err(StepError::Settle) if batch.is_empty() && self.in_flight.is_empty() => {
                let error = RoomError::internal("a position of a commit is lost");
                drop(command.reply.send(Err(error)));
            }
            Err(StepError::Full) if batch.is_empty() => {
                let error = RoomError::internal("an empty batch is full");
                drop(command.reply.send(Err(error)));
            }
            Err(StepError::Unsigned) => {
                let error = RoomError::internal("nobody asks for a signature");
                drop(command.reply.send(Err(error)));
            }
            Err(StepError::Settle) => {
                self.deferred = Some(command);
                return false;
            }
            Err(StepError::Long) if view.may_take_long => {
                let error = RoomError::internal("a step takes longer than long");
                drop(command.reply.send(Err(error)));
            }
            Err(StepError::Long) => {
                self.takes_long = true;
                self.unfinished = Some(command);
                return false;
            }
            Err(StepError::Full) => {
                self.unfinished = Some(command);
                return false;
            }
        }
        true
    }

    /// Reads the room into memory if it is not there.
    fn load(&mut self, view: &Context<'_>) -> Result<(), RoomError> {
        if self.room.is_some() {
            return Ok(());
        }
        // A room is only dropped while commits are in flight if one of them has failed.
        if !self.in_flight.is_empty() {
            return Err(RoomError::Busy);
        }
        let room = Room::load(view, &self.room_id);
        let room = room.inspect_err(|error| {
            tracing::error!(room_id = %self.room_id, ?error, "a room cannot be loaded");
        })?;
        self.room = Some(room.ok_or(RoomError::UnknownRoom)?);
        Ok(())
    }

    /// Answers that needed no write, but may speak of events that are in flight.
    fn answer_without_commit(&mut self, answers: Vec<(Reply, Outcome)>) {
        if let Some(last) = self.in_flight.back_mut() {
            last.batch.add_answers(answers);
            return;
        }
        for (reply, outcome) in answers {
            drop(reply.send(Ok(outcome)));
        }
    }

    /// Hands the batch to the committer.
    async fn submit(&mut self, batch: Batch) {
        let Some(room) = &self.room else {
            return;
        };
        let (commit, batch) = batch.seal(room);
        match self.rooms.store().submit(commit).await {
            Ok(ticket) => {
                self.in_flight.push_back(InFlight { landing: Box::pin(ticket.done()), batch });
            }
            Err(error) => {
                tracing::error!(room_id = %self.room_id, %error, "a room's commit was refused");
                batch.fail();
                self.start_again();
                self.settle().await;
            }
        }
    }
}

/// What a writer wakes up for.
enum Next {
    Command(Command),
    Landed,
    End,
}

/// Writes what earlier commands left to be written.
fn go_on(room: &mut Room, view: &Context<'_>, batch: &mut Batch) -> Result<(), StepError> {
    room.write_nodes(batch);
    if batch.is_full() { Ok(()) } else { room.catch_up(view, batch) }
}

/// Does one thing to the room, in memory and in the batch.
fn step(
    room: &mut Room,
    view: &Context<'_>,
    batch: &mut Batch,
    action: &mut Action,
) -> Result<Outcome, StepError> {
    match action {
        Action::Append(event) => {
            if let Some(event_id) = repeated(room, view, event.transaction.as_ref())? {
                return Ok(Outcome::Event(event_id));
            }
            if room.membership(view, &event.sender)? != Some(Membership::Join) {
                return Err(RoomError::NotJoined.into());
            }
            room.append_or_prepare(view, batch, event)
        }
        Action::Member(request) => {
            if let Some(event_id) = repeated(room, view, request.transaction.as_ref())? {
                return Ok(Outcome::Event(event_id));
            }
            room.change_member(view, batch, request)
        }
        Action::Prepare(request) => room.prepare_member(view, request),
        Action::Forget(user_id) => {
            room.forget(view, batch, user_id)?;
            Ok(Outcome::Done)
        }
        Action::Receive(receive) => {
            if let Some(event_id) = repeated(room, view, receive.transaction())? {
                return Ok(Outcome::Event(event_id));
            }
            room.receive(view, batch, receive).map(Outcome::Verdicts)
        }
        Action::Sweep(keys) => {
            for key in keys {
                batch.commit.delete(&schema::TRANSACTIONS, &room.id, key);
            }
            Ok(Outcome::Done)
        }
        Action::GapsTried(missing) => {
            room.gaps_tried(view, batch, missing)?;
            Ok(Outcome::Done)
        }
        // The loop hands these to `admit`.
        Action::Admit(_) => Err(StepError::Settle),
    }
}

/// The event that the same request made before, if it is a repeated one.
fn repeated(
    room: &Room,
    view: &Context<'_>,
    transaction: Option<&TransactionKey>,
) -> Result<Option<OwnedEventId>, StepError> {
    match transaction {
        Some(key) => Ok(room.transaction(view, key)?),
        None => Ok(None),
    }
}
