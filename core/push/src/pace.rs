//! How much push may do: all that there is while requests are served in time; otherwise less and less, down to a floor, until
//! they are. A pure function of what it is told.

use std::time::Duration;

/// Work of requests that waits longer than this for a thread is late.
const LATE: Duration = Duration::from_micros(500);
/// Observations that are judged together.
const WINDOW: u32 = 8;
/// So many late ones of them are no accident.
const MAX_LATE: u32 = 2;
/// Steps a second that push may always take: it falls behind, and still gets somewhere.
const FLOOR: f64 = 50.0;
/// A limit that is as high as this is none any more.
const OPEN: f64 = 20_000.0;
/// Windows with late work in a row before there is a limit: a stall, such as a slow disk has, is nothing that push does.
const PATIENCE: u32 = 2;
/// What is left of the limit after a window with late work.
const SHRINK: f64 = 0.5;
/// What becomes of it after one without.
const GROW: f64 = 1.07;
/// The newest window's part in what is held for the rate.
const NEWEST: f64 = 0.125;
/// Steps that were not taken are kept for so long: what waits comes a few at a time.
const KEPT: Duration = Duration::from_millis(10);
/// Of what was done at once and turned out to be much, so much is to be waited for.
const MAX_DEBT: Duration = Duration::from_millis(100);

/// The pace of push, in steps: one is about as much work as a notification.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Steps a second; `None`: as many as there are.
    limit: Option<f64>,
    /// Steps that may be taken under a limit; negative if more was done.
    credit: f64,
    /// Steps a second of late.
    rate: f64,
    /// Windows with late work in a row.
    late: u32,
    window: Window,
}

/// What was observed since the limit was last judged.
#[derive(Debug, Default)]
struct Window {
    observed: u32,
    late: u32,
    steps: f64,
    lasted: Duration,
}

impl Pace {
    /// Is there a limit?
    pub(crate) fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    /// Takes a step, if it may be taken now.
    pub(crate) fn take(&mut self) -> bool {
        let may = self.limit.is_none() || self.credit > 0.0;
        if may {
            self.charge(1);
        }
        may
    }

    /// So much more was done than was asked for.
    pub(crate) fn charge(&mut self, steps: u32) {
        self.window.steps += f64::from(steps);
        if let Some(limit) = self.limit {
            self.credit = (self.credit - f64::from(steps)).max(lowest(limit));
        }
    }

    /// How long it is until a step may be taken.
    pub(crate) fn wait(&self) -> Duration {
        match self.limit {
            Some(limit) if self.credit <= 0.0 => {
                // A little more, so that there is something then.
                Duration::try_from_secs_f64((0.01 - self.credit) / limit).unwrap_or(MAX_DEBT)
            }
            _ => Duration::ZERO,
        }
    }

    /// Time goes by.
    pub(crate) fn pass(&mut self, elapsed: Duration) {
        self.window.lasted += elapsed;
        if let Some(limit) = self.limit {
            let most = (limit * KEPT.as_secs_f64()).max(1.0);
            self.credit = (self.credit + limit * elapsed.as_secs_f64()).min(most);
        }
    }

    /// Work of requests waited for so long for a thread.
    pub(crate) fn observe(&mut self, lateness: Duration) {
        self.window.observed += 1;
        self.window.late += u32::from(lateness > LATE);
        if self.window.observed >= WINDOW {
            let window = std::mem::take(&mut self.window);
            self.rate += (window.rate() - self.rate) * NEWEST;
            self.late = if window.late >= MAX_LATE { self.late.saturating_add(1) } else { 0 };
            match self.limit {
                Some(limit) if self.late > 0 => self.shrink(limit),
                Some(limit) => self.limit = Some(limit * GROW).filter(|limit| *limit < OPEN),
                None if self.late >= PATIENCE => self.shrink(self.rate.min(OPEN)),
                None => {}
            }
        }
    }

    /// There was nothing to do for a while: what was observed before says nothing any more.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    fn shrink(&mut self, from: f64) {
        let limit = (from * SHRINK).max(FLOOR);
        self.limit = Some(limit);
        // What was much less under the limit before would take long to wait for under this one.
        self.credit = self.credit.max(lowest(limit));
    }
}

/// The credit under a limit is never less.
fn lowest(limit: f64) -> f64 {
    -limit * MAX_DEBT.as_secs_f64() - 1.0
}

impl Window {
    fn rate(&self) -> f64 {
        self.steps / self.lasted.as_secs_f64().max(1e-3)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TICK: Duration = Duration::from_millis(10);
    const IN_TIME: Duration = Duration::from_micros(50);
    const VERY_LATE: Duration = Duration::from_millis(20);

    /// As many steps as may be taken in so many ticks with this lateness, by those who always want more.
    fn greedy(pace: &mut Pace, ticks: u32, lateness: Duration) -> u32 {
        let mut taken = 0;
        for _ in 0..ticks {
            pace.pass(TICK);
            // Nobody can do more in this time.
            for _ in 0..200 {
                taken += u32::from(pace.take());
            }
            pace.observe(lateness);
        }
        taken
    }

    #[test]
    fn there_is_no_limit_while_requests_are_served_in_time() {
        let mut pace = Pace::default();
        assert_eq!(greedy(&mut pace, 1_000, IN_TIME), 200 * 1_000);
        assert_eq!(pace.wait(), Duration::ZERO);
    }

    #[test]
    fn one_late_request_is_an_accident_and_so_is_one_stall() {
        let mut pace = Pace::default();
        for _ in 0..100 {
            pace.observe(VERY_LATE);
            (1..WINDOW).for_each(|_| pace.observe(IN_TIME));
        }
        assert!(!pace.is_limited());
        for _ in 0..100 {
            greedy(&mut pace, WINDOW, VERY_LATE);
            greedy(&mut pace, WINDOW, IN_TIME);
        }
        assert!(!pace.is_limited());
    }

    #[test]
    fn while_they_are_late_it_sinks_to_the_floor_within_seconds_and_no_further() {
        let mut pace = Pace::default();
        greedy(&mut pace, 300, VERY_LATE);
        assert_eq!(pace.limit, Some(FLOOR));
        let per_second = greedy(&mut pace, 1_000, VERY_LATE) / 10;
        assert!((49..=51).contains(&per_second), "{per_second}");
    }

    #[test]
    fn the_first_limit_goes_by_what_was_done_of_late() {
        let mut pace = Pace::default();
        let mut work = |steps: u32, lateness, windows: u32| {
            for _ in 0..windows * WINDOW {
                pace.pass(TICK);
                (0..steps).for_each(|_| assert!(pace.take()));
                pace.observe(lateness);
            }
            pace.limit
        };
        assert_eq!(work(10, IN_TIME, 100), None);
        // While all stands still, nothing is done.
        let limit = work(0, VERY_LATE, PATIENCE).unwrap();
        assert!((300.0..450.0).contains(&limit), "{limit} of 1,000");
    }

    #[test]
    fn steps_that_were_not_taken_are_not_saved_up() {
        let mut pace = Pace { limit: Some(1_000.0), ..Pace::default() };
        pace.pass(Duration::from_mins(1));
        let taken = (0..1_000).filter(|_| pace.take()).count();
        assert!((1..=10).contains(&taken), "{taken}");
    }

    #[test]
    fn what_cost_more_is_waited_for_but_not_for_long() {
        let mut pace = Pace { limit: Some(100.0), credit: 1.0, ..Pace::default() };
        assert!(pace.take());
        pace.charge(5);
        assert!(!pace.take());
        let wait = pace.wait();
        assert!(wait >= Duration::from_millis(50), "{wait:?}");
        pace.pass(wait);
        assert!(pace.take());
        pace.charge(1_000_000);
        assert!(pace.wait() <= 2 * MAX_DEBT);
        let mut pace = Pace { limit: Some(10_000.0), ..Pace::default() };
        pace.charge(1_000_000);
        for _ in 0..100 {
            pace.observe(VERY_LATE);
        }
        assert_eq!(pace.limit, Some(FLOOR));
        assert!(pace.wait() <= 2 * MAX_DEBT, "{:?}", pace.wait());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn property_never_starves_never_goes_beyond_its_bounds_and_recovers(
            history in prop::collection::vec((0_u64..2_000, 0_u64..50_000, 0_u32..300), 0..400),
        ) {
            let mut pace = Pace::default();
            for (lateness_us, passed_us, charged) in history {
                pace.pass(Duration::from_micros(passed_us));
                pace.charge(charged);
                pace.observe(Duration::from_micros(lateness_us));
                if let Some(limit) = pace.limit {
                    prop_assert!((FLOOR..OPEN).contains(&limit), "{limit}");
                }
                prop_assert!(pace.wait() <= 2 * MAX_DEBT, "{:?}", pace.wait());
                // Whoever waits as long as they are told to gets their turn.
                let mut later = Pace { limit: pace.limit, credit: pace.credit, ..Pace::default() };
                later.pass(pace.wait());
                prop_assert!(later.take());
            }
            // From the floor to the top by seven percent in each window.
            greedy(&mut pace, 100 * WINDOW, IN_TIME);
            prop_assert!(!pace.is_limited());
        }
    }
}
