//! Whose turn it is when more is wanted than may run at once.
//!
//! Whoever came first is first; but in what runs, and in what is wanted at all, nobody has more than a share, neither
//! one user nor one server that is asked. So a server that takes its time is slow for what is behind it, and for
//! nothing else. What several users want waits for the first of their shares that has room.

use std::{
    borrow::Borrow,
    collections::{BTreeSet, HashMap},
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId};
use tokio::{sync::Notify, time::timeout};

use crate::MediaError;

/// Users in whose shares one thing may wait; whoever else wants it waits with them.
const MAX_USERS: usize = 8;

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
    /// By number.
    tickets: HashMap<u64, Wish>,
    /// Numbers of those that wait, so in the order in which they came. None of them could run now.
    waiting: BTreeSet<u64>,
    next: u64,
}

/// What a ticket is for.
#[derive(Debug)]
struct Wish {
    server: String,
    /// In whose shares it waits, or waited.
    users: Vec<OwnedUserId>,
    /// In whose share it runs.
    runs_for: Option<OwnedUserId>,
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
    begin: Arc<Notify>,
}

/// What is wanted under a ticket, for others who want the same.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    turns: Turns,
    number: u64,
}

impl Turns {
    pub(crate) fn new(bounds: TurnBounds) -> Self {
        Self(Arc::new(Inner { bounds, state: Mutex::default() }))
    }

    /// A place among what is wanted.
    pub(crate) fn ticket(&self, errand: Errand) -> Result<Ticket, Refused> {
        let bounds = self.0.bounds;
        let Errand { user_id, server } = errand;
        let mut state = self.0.state.lock();
        if !state.wanted.add(&user_id, &server, bounds.wanted) {
            return Err(Refused(bounds.refusal));
        }
        let (number, begin) = (state.next, Arc::new(Notify::new()));
        state.next = number.wrapping_add(1);
        let wish = Wish { server, users: vec![user_id], runs_for: None, begin: Arc::clone(&begin) };
        state.tickets.insert(number, wish);
        state.waiting.insert(number);
        state.begin(number, bounds);
        Ok(Ticket { turns: self.clone(), number, begin })
    }
}

impl Ticket {
    /// Waits for the turn, and has it from then on.
    pub(crate) async fn turn(&self) -> Result<(), Refused> {
        let TurnBounds { patience, refusal, .. } = self.turns.0.bounds;
        timeout(patience, self.begin.notified()).await.map_err(|_| Refused(refusal))
    }

    pub(crate) fn shared(&self) -> Shared {
        Shared { turns: self.turns.clone(), number: self.number }
    }
}

impl Shared {
    /// Has what still waits wait in this user's share too, who wants the same, if they may want that much: it runs
    /// in the first share that has room.
    pub(crate) fn join(&self, user_id: &UserId) {
        let Inner { bounds, state } = &*self.turns.0;
        let mut state = state.lock();
        if !state.waiting.contains(&self.number) {
            return;
        }
        let State { wanted, tickets, .. } = &mut *state;
        let Some(wish) = tickets.get_mut(&self.number) else { return };
        let is_known = wish.users.iter().any(|known| known == user_id);
        if is_known
            || wish.users.len() >= MAX_USERS
            || !wanted.add_user(user_id, bounds.wanted.of_user)
        {
            return;
        }
        wish.users.push(user_id.to_owned());
        state.begin(self.number, *bounds);
    }
}

impl State {
    /// Begins what waits under this number, if one of its shares has room.
    fn begin(&mut self, number: u64, bounds: TurnBounds) {
        let Some(wish) = self.tickets.get_mut(&number) else { return };
        let running = &mut self.running;
        let has_room = |user_id: &&OwnedUserId| running.add(user_id, &wish.server, bounds.running);
        wish.runs_for = wish.users.iter().find(has_room).cloned();
        if wish.runs_for.is_some() {
            wish.begin.notify_one();
            self.waiting.remove(&number);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Inner { bounds, state } = &*self.turns.0;
        let mut state = state.lock();
        state.waiting.remove(&self.number);
        let Some(wish) = state.tickets.remove(&self.number) else { return };
        state.wanted.remove(&wish.server);
        for user_id in &wish.users {
            lower(&mut state.wanted.by_user, user_id);
        }
        let Some(user_id) = wish.runs_for else { return };
        state.running.remove(&wish.server);
        lower(&mut state.running.by_user, &user_id);
        let waiting: Vec<u64> = state.waiting.iter().copied().collect();
        for number in waiting {
            if state.running.all >= bounds.running.all {
                break;
            }
            state.begin(number, *bounds);
        }
    }
}

impl Counts {
    /// Counts one more if there is room for it.
    fn add(&mut self, user_id: &UserId, server: &str, shares: Shares) -> bool {
        let has_room = self.all < shares.all
            && self.by_server.get(server).is_none_or(|count| *count < shares.of_server)
            && self.add_user(user_id, shares.of_user);
        if has_room {
            self.all += 1;
            *self.by_server.entry(server.to_owned()).or_default() += 1;
        }
        has_room
    }

    /// Counts one more of a user alone, if there is room for it.
    fn add_user(&mut self, user_id: &UserId, of_user: usize) -> bool {
        let has_room = self.by_user.get(user_id).is_none_or(|count| *count < of_user);
        if has_room {
            *self.by_user.entry(user_id.to_owned()).or_default() += 1;
        }
        has_room
    }

    /// The opposite of [`Self::add`], but for its user.
    fn remove(&mut self, server: &str) {
        self.all = self.all.saturating_sub(1);
        lower(&mut self.by_server, server);
    }
}

fn lower<K, Q>(counts: &mut HashMap<K, usize>, key: &Q)
where
    K: Borrow<Q> + Eq + Hash,
    Q: Eq + Hash + ?Sized,
{
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
        assert_nothing_is_left(&turns);
    }

    fn assert_nothing_is_left(turns: &Turns) {
        let State { wanted, running, tickets, waiting, .. } = &*turns.0.state.lock();
        assert!(tickets.is_empty() && waiting.is_empty());
        for counts in [wanted, running] {
            assert!(counts.by_user.is_empty() && counts.by_server.is_empty() && counts.all == 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_several_want_runs_in_the_first_share_that_has_room() {
        let turns = Turns::new(BOUNDS);
        let ticket = |user: &str, server: &str| turns.ticket(errand(user, server)).unwrap();
        let join = |ticket: &Ticket, user| ticket.shared().join(&errand(user, "").user_id);
        let mut anns = vec![ticket("ann", "1"), ticket("ann", "2"), ticket("ann", "3")];
        let lifted = ticket("ann", "4");
        join(&lifted, "ann");
        assert!(!has_turn(&lifted), "her share is used up");
        join(&lifted, "bob");
        assert!(has_turn(&lifted), "his is not");
        // It counts for who gave it its turn, however many join then.
        join(&lifted, "eve");
        let bobs = [ticket("bob", "5"), ticket("bob", "6")];
        assert_eq!(bobs.each_ref().map(has_turn), [true, true]);
        let (waits, other) = (ticket("bob", "7"), ticket("eve", "7"));
        join(&waits, "ann");
        drop(anns.pop());
        assert!(has_turn(&waits), "in her share, which had room first");
        assert!(!has_turn(&other), "all turns are taken");
        drop((anns, lifted, bobs));
        assert!(has_turn(&other));

        // Who may not want more waits with the others, and in their shares alone.
        let fill = |user: &str| {
            let wanted = (0..)
                .map_while(|number| turns.ticket(errand(user, &format!("{user}{number}"))).ok());
            wanted.collect::<Vec<_>>()
        };
        drop((waits, other));
        let (hers, mut others) = (fill("ann"), fill("bob"));
        assert_eq!((hers.len(), others.len()), (BOUNDS.wanted.of_user, BOUNDS.wanted.of_user));
        let last = others.pop().unwrap();
        join(&last, "ann");
        drop(hers);
        assert!(!has_turn(&last));
        drop(others);
        assert!(has_turn(&last));
        drop(last);
        assert_nothing_is_left(&turns);
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_gives_its_turn_back_to_who_lent_it() {
        let turns = Turns::new(BOUNDS);
        let ticket = |user: &str, server: &str| turns.ticket(errand(user, server)).unwrap();
        let anns = [ticket("ann", "1"), ticket("ann", "2"), ticket("ann", "3")];
        let lifted = ticket("ann", "4");
        lifted.shared().join(&errand("bob", "").user_id);
        let bobs = [ticket("bob", "5"), ticket("bob", "6")];
        assert!(anns.iter().chain([&lifted]).chain(&bobs).all(has_turn));
        let (hers, his) = (ticket("ann", "7"), ticket("bob", "8"));
        drop(lifted);
        assert!(!has_turn(&hers), "she came first, and has all of her share");
        assert!(has_turn(&his));
        drop((anns, bobs, hers, his));
        assert_nothing_is_left(&turns);
    }

    #[tokio::test(start_paused = true)]
    async fn joining_again_or_as_one_of_many_takes_no_places() {
        let turns = Turns::new(BOUNDS);
        let ticket = |user: &str, server: &str| turns.ticket(errand(user, server)).unwrap();
        let slow = [ticket("ann", "slow"), ticket("ann", "slow"), ticket("ann", "slow")];
        let waits = slow[2].shared();
        for user in 1..=MAX_USERS {
            for _ in 0..BOUNDS.wanted.of_user {
                waits.join(&errand(&user.to_string(), "").user_id);
            }
        }
        let places = |user: usize| {
            let ticket = |number: usize| errand(&user.to_string(), &number.to_string());
            let wanted = (0..).map_while(|number| turns.ticket(ticket(number)).ok());
            wanted.collect::<Vec<_>>().len()
        };
        // She is one of those in whose shares it waits.
        let (first, last, beyond) = (places(1), places(MAX_USERS - 1), places(MAX_USERS));
        let of_user = BOUNDS.wanted.of_user;
        assert_eq!((first, last, beyond), (of_user - 1, of_user - 1, of_user));
        drop(slow);
        assert_nothing_is_left(&turns);
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
