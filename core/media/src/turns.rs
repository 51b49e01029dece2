//! Whose turn it is when more is wanted than may run at once.
//!
//! Whoever came first is first; but in what runs, and in what is wanted at all, nobody has more than a share, neither
//! one user nor one server that is asked. So a server that takes its time is slow for what is behind it, and for
//! nothing else.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use ruma::OwnedUserId;
use tokio::{sync::Notify, time::timeout};

use crate::MediaError;

/// A number, and how much of it may be of the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shares {
    /// Altogether.
    pub(crate) all: usize,
    /// For one user.
    pub(crate) of_user: usize,
    /// From one server.
    pub(crate) of_server: usize,
}

/// How much may be wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TurnBounds {
    /// What runs at once.
    pub(crate) running: Shares,
    /// What runs, or waits for its turn.
    pub(crate) wanted: Shares,
    /// How long a turn is waited for.
    pub(crate) patience: Duration,
    /// What is said to those who get none.
    pub(crate) refusal: &'static str,
}

/// Who wants something, and from where.
#[derive(Clone, Debug)]
pub(crate) struct Errand {
    pub(crate) user_id: OwnedUserId,
    pub(crate) server: String,
}

/// There is no turn for this now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refused(&'static str);

impl From<Refused> for MediaError {
    fn from(Refused(why): Refused) -> Self {
        Self::Busy(why)
    }
}

/// Who runs, and who waits. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Turns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bounds: TurnBounds,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    wanted: Counts,
    running: Counts,
    /// By number, so in the order in which they came. None of them could run now.
    waiting: BTreeMap<u64, Waiting>,
    next: u64,
}

#[derive(Debug)]
struct Waiting {
    errand: Errand,
    begin: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    by_user: HashMap<OwnedUserId, usize>,
    by_server: HashMap<String, usize>,
}

/// A place among what is wanted, and a turn in the end; both are given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    turns: Turns,
    number: u64,
    errand: Errand,
    begin: Arc<Notify>,
}

impl Turns {
    pub(crate) fn new(bounds: TurnBounds) -> Self {
        Self(Arc::new(Inner { bounds, state: Mutex::default() }))
    }

    /// A place among what is wanted.
    pub(crate) fn ticket(&self, errand: Errand) -> Result<Ticket, Refused> {
        let bounds = self.0.bounds;
        let mut state = self.0.state.lock();
        if !state.wanted.add(&errand, bounds.wanted) {
            return Err(Refused(bounds.refusal));
        }
        let (number, begin) = (state.next, Arc::new(Notify::new()));
        state.next = number.wrapping_add(1);
        if state.running.add(&errand, bounds.running) {
            begin.notify_one();
        } else {
            let waiting = Waiting { errand: errand.clone(), begin: Arc::clone(&begin) };
            state.waiting.insert(number, waiting);
        }
        Ok(Ticket { turns: self.clone(), number, errand, begin })
    }
}

impl Ticket {
    /// Waits for the turn, and has it from then on.
    pub(crate) async fn turn(&self) -> Result<(), Refused> {
        let TurnBounds { patience, refusal, .. } = self.turns.0.bounds;
        timeout(patience, self.begin.notified()).await.map_err(|_| Refused(refusal))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Inner { bounds, state } = &*self.turns.0;
        let mut state = state.lock();
        let State { wanted, running, waiting, .. } = &mut *state;
        wanted.remove(&self.errand);
        if waiting.remove(&self.number).is_some() {
            return;
        }
        running.remove(&self.errand);
        let can_run = |_: &u64, next: &mut Waiting| running.add(&next.errand, bounds.running);
        for (_, next) in waiting.extract_if(.., can_run) {
            next.begin.notify_one();
        }
    }
}

impl Counts {
    /// Counts one more if there is room for it.
    fn add(&mut self, errand: &Errand, shares: Shares) -> bool {
        let Errand { user_id, server } = errand;
        let has_room = self.all < shares.all
            && self.by_user.get(user_id).is_none_or(|count| *count < shares.of_user)
            && self.by_server.get(server).is_none_or(|count| *count < shares.of_server);
        if has_room {
            self.all += 1;
            *self.by_user.entry(user_id.clone()).or_default() += 1;
            *self.by_server.entry(server.clone()).or_default() += 1;
        }
        has_room
    }

    fn remove(&mut self, errand: &Errand) {
        self.all = self.all.saturating_sub(1);
        lower(&mut self.by_user, &errand.user_id);
        lower(&mut self.by_server, &errand.server);
    }
}

fn lower<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    let Some(count) = counts.get_mut(key) else { return };
    *count = count.saturating_sub(1);
    if *count == 0 {
        counts.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use ruma::UserId;

    use super::*;

    const BOUNDS: TurnBounds = TurnBounds {
        running: Shares { all: 6, of_user: 3, of_server: 2 },
        wanted: Shares { all: 12, of_user: 6, of_server: 5 },
        patience: Duration::from_secs(30),
        refusal: "too many",
    };

    fn errand(user: &str, server: &str) -> Errand {
        let user_id = UserId::parse(format!("@{user}:here.test")).unwrap();
        Errand { user_id, server: server.to_owned() }
    }

    fn has_turn(ticket: &Ticket) -> bool {
        ticket.turn().now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_has_more_than_a_share_of_the_turns() {
        let turns = Turns::new(BOUNDS);
        let ticket = |user, server| turns.ticket(errand(user, server)).unwrap();
        let slow = [ticket("ann", "slow"), ticket("ann", "slow"), ticket("bob", "slow")];
        assert_eq!(slow.each_ref().map(has_turn), [true, true, false], "the server's share");
        let others = [ticket("ann", "x"), ticket("ann", "y"), ticket("bob", "y")];
        assert_eq!(others.each_ref().map(has_turn), [true, false, true], "the user's share");
        let more = [ticket("eve", "1"), ticket("eve", "2"), ticket("eve", "3")];
        assert_eq!(more.each_ref().map(has_turn), [true, true, false], "all there are");
        drop(more);
        let [first, second, third] = slow;
        assert!(!has_turn(&others[1]) && !has_turn(&third));
        drop(first);
        // Both shares have room again.
        assert!(has_turn(&third) && has_turn(&others[1]));
        drop((second, third, others));
        let state = turns.0.state.lock();
        assert!(state.waiting.is_empty() && state.wanted.by_user.is_empty());
        assert!(state.running.by_server.is_empty() && state.wanted.by_server.is_empty());
        assert_eq!((state.running.all, state.wanted.all), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_has_more_than_a_share_of_the_queue_nor_waits_for_ever() {
        let turns = Turns::new(BOUNDS);
        let fill = |user: &str, server: &str| {
            std::iter::from_fn(|| turns.ticket(errand(user, server)).ok()).collect::<Vec<_>>()
        };
        let of_server = fill("ann", "slow");
        assert_eq!(of_server.len(), BOUNDS.wanted.of_server);
        let of_user = fill("ann", "x");
        assert_eq!(of_server.len() + of_user.len(), BOUNDS.wanted.of_user);
        let others: Vec<_> = (0..9).flat_map(|number| fill("bob", &number.to_string())).collect();
        assert_eq!(others.len(), BOUNDS.wanted.of_user);
        let refused = turns.ticket(errand("eve", "y")).map(|_| ()).map_err(MediaError::from);
        assert!(matches!(refused, Err(MediaError::Busy("too many"))));
        drop(others);
        assert!(turns.ticket(errand("eve", "y")).is_ok());
        let began = tokio::time::Instant::now();
        assert!(of_server.last().unwrap().turn().await.is_err());
        assert_eq!(began.elapsed(), BOUNDS.patience);
    }
}
