//! One pusher's queue, and how the pusher stands to what is routed.

use std::{collections::VecDeque, sync::Arc};

use hearth_rooms::schema::EventOrdinal;
use hearth_types::StreamPosition;
use ruma::{OwnedRoomId, push::Action};

use crate::registry::Entry;

/// Notifications that wait for one pusher: more than a busy moment brings. With more it is behind, and catches up.
pub(crate) const MAX_QUEUED: usize = 256;
/// The same while less is sent than could be: a second of a busy user.
pub(crate) const MAX_QUEUED_IF_LIMITED: usize = 32;

/// Something to push.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// When it happened.
    pub(crate) position: StreamPosition,
    pub(crate) what: What,
}

/// What there is to push.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// An event of a room that the user is in, or the user's invitation to one that this server is in.
    Event { room_id: OwnedRoomId, ordinal: EventOrdinal, actions: Arc<[Action]> },
    /// An invitation to a room that this server is not in.
    Invitation { room_id: OwnedRoomId, actions: Arc<[Action]> },
    /// The unread count may be another.
    Badge,
}

/// What became of something that was to wait for a pusher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It waits.
    Queued,
    /// It was delivered before, or the pusher catches up anyhow.
    Dropped,
    /// The queue is full.
    Full,
}

/// What is to be done next for a pusher.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// Send this, with an unread count as of `counted` or later.
    Send { item: Item, counted: StreamPosition },
    /// Look for what it missed.
    LookBack,
    /// Everything up to here is sent: it may keep up again.
    KeepUp { until: StreamPosition },
}

/// A pusher with something to send.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) entry: Arc<Entry>,
    /// Is ready, waits for its gateway, or is at work.
    pub(crate) is_scheduled: bool,
    /// The first may be under way.
    queue: VecDeque<Item>,
    standing: Standing,
}

/// How a pusher stands to what is routed.
#[derive(Debug)]
enum Standing {
    /// It is queued.
    KeepsUp,
    /// It is dropped: the timelines have it.
    Behind,
    /// The queue has what was missed up to `until`, which is not known while that is looked for. What is routed
    /// meanwhile comes after it; with `None` there was too much of that, and it is to be looked for again.
    CatchesUp { until: Option<StreamPosition>, later: Option<Later> },
}

/// What was routed since a pusher began to catch up.
#[derive(Debug)]
struct Later {
    after: StreamPosition,
    items: VecDeque<Item>,
}

impl Lane {
    pub(crate) fn new(entry: &Arc<Entry>) -> Self {
        Self {
            entry: Arc::clone(entry),
            is_scheduled: false,
            queue: VecDeque::new(),
            standing: Standing::KeepsUp,
        }
    }

    /// Does it take what is routed? Otherwise it will find it in the timelines.
    pub(crate) fn takes(&self) -> bool {
        match &self.standing {
            Standing::KeepsUp => true,
            Standing::CatchesUp { later, .. } => later.is_some(),
            Standing::Behind => false,
        }
    }

    /// Takes what is routed, unless so much waits already.
    pub(crate) fn push(&mut self, item: Item, most: usize) -> Pushed {
        match &mut self.standing {
            Standing::KeepsUp => push(&mut self.queue, item, most),
            Standing::CatchesUp { later: Some(later), .. } if item.position <= later.after => {
                Pushed::Dropped
            }
            Standing::CatchesUp { later, .. } => {
                let pushed = later.as_mut().map(|later| push(&mut later.items, item, most));
                if pushed == Some(Pushed::Full) {
                    *later = None;
                }
                Pushed::Dropped
            }
            Standing::Behind => Pushed::Dropped,
        }
    }

    /// The position after which the log is still needed for it.
    pub(crate) fn held(&self) -> Option<StreamPosition> {
        match &self.standing {
            Standing::KeepsUp => self.queue.front().map(|item| item.position.previous()),
            Standing::CatchesUp { later, .. } => later.as_ref().map(|later| later.after),
            Standing::Behind => None,
        }
    }

    /// Does it need the log from before this position, without its row saying that it is behind?
    pub(crate) fn keeps_up_from_before(&self, position: StreamPosition) -> bool {
        matches!(self.standing, Standing::KeepsUp)
            && self.held().is_some_and(|held| held < position)
    }

    /// While it catches up, lets go of the log from before this position.
    pub(crate) fn let_go_before(&mut self, position: StreamPosition) {
        if let Standing::CatchesUp { later, .. } = &mut self.standing
            && later.as_ref().is_some_and(|later| later.after < position)
        {
            *later = None;
        }
    }

    pub(crate) fn fall_behind(&mut self) {
        self.standing = Standing::Behind;
        self.queue.clear();
    }

    /// Is there nothing to do for it?
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.standing, Standing::KeepsUp) && self.queue.is_empty()
    }

    /// Drops what waits.
    pub(crate) fn clear(&mut self) {
        self.queue.clear();
    }

    /// What is to be done next, when everything up to `routed` was distributed.
    pub(crate) fn next(&mut self, routed: StreamPosition) -> Option<Work> {
        match (&self.standing, self.queue.front()) {
            (Standing::KeepsUp, item) => {
                item.map(|item| Work::Send { item: item.clone(), counted: item.position })
            }
            (Standing::CatchesUp { until: Some(until), .. }, Some(item)) => {
                Some(Work::Send { item: item.clone(), counted: item.position.max(*until) })
            }
            (Standing::CatchesUp { until: Some(until), .. }, None) => {
                Some(Work::KeepUp { until: *until })
            }
            (Standing::Behind | Standing::CatchesUp { until: None, .. }, _) => {
                let later = Some(Later { after: routed, items: VecDeque::new() });
                self.standing = Standing::CatchesUp { until: None, later };
                self.queue.clear();
                Some(Work::LookBack)
            }
        }
    }

    /// What was sent need not wait any more; unless it was given up meanwhile.
    pub(crate) fn sent(&mut self, position: StreamPosition) {
        if self.queue.front().is_some_and(|front| front.position == position) {
            self.queue.pop_front();
        }
    }

    /// What it missed up to a position, oldest first.
    pub(crate) fn refill(&mut self, missed: VecDeque<Item>, up_to: StreamPosition) {
        if let Standing::CatchesUp { until, .. } = &mut self.standing {
            *until = Some(up_to);
            self.queue = missed;
        }
    }

    /// What it missed is sent. If nothing of what was routed meanwhile is lost, it keeps up from here on;
    /// otherwise it is still behind.
    pub(crate) fn keep_up(&mut self) -> bool {
        let Standing::CatchesUp { until: Some(until), later } = &mut self.standing else {
            return false;
        };
        let (until, later) = (*until, later.take());
        let Some(mut later) = later else {
            self.fall_behind();
            return false;
        };
        later.items.retain(|item| item.position > until);
        self.queue = later.items;
        self.standing = Standing::KeepsUp;
        true
    }
}

fn push(queue: &mut VecDeque<Item>, item: Item, most: usize) -> Pushed {
    let waiting = queue.len();
    if let Some(last) = queue.back_mut() {
        // The same again comes after the log could not be read to the end.
        if last.position >= item.position {
            return Pushed::Dropped;
        }
        // One waits already, and is not under way: it will tell the newer count.
        if waiting > 1 && matches!((&last.what, &item.what), (What::Badge, What::Badge)) {
            last.position = item.position;
            return Pushed::Dropped;
        }
    }
    if waiting >= most {
        return Pushed::Full;
    }
    queue.push_back(item);
    Pushed::Queued
}
