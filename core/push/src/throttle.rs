//! Push waits for its turn here while requests are served late.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::{
    sync::{Mutex as TurnMutex, Notify},
    time::{Instant, sleep, timeout},
};

use crate::pace::Pace;

/// How often it is asked how late requests are, while push is at work.
const ASK_EVERY: Duration = Duration::from_millis(10);
/// It is not waited longer for the answer.
const MAX_LATENESS: Duration = Duration::from_millis(100);
/// After so long without work what was observed is forgotten.
const REST: Duration = Duration::from_secs(1);
/// Whoever waits does so for no less: many small pauses would wake a processor for each.
const PAUSE: Duration = Duration::from_millis(5);
/// The log is read no more often than this, so that much that happens is read together.
const READ_EVERY: Duration = Duration::from_millis(5);
/// The same while requests are served late.
const READ_EVERY_IF_LATE: Duration = Duration::from_millis(50);

/// The work that push must not slow down: declared here, plugged in by the binary.
#[async_trait]
pub trait Foreground: Send + Sync + 'static {
    /// How long something that is to be done now waits for a thread there.
    async fn lateness(&self) -> Duration;
}

/// Gives push its turns. Without a [`Foreground`] to look after, at once.
pub(crate) struct Throttle {
    foreground: Option<Arc<dyn Foreground>>,
    state: Mutex<State>,
    /// Those who wait, in the order in which they came.
    line: TurnMutex<()>,
    working: Notify,
}

#[derive(Debug)]
struct State {
    pace: Pace,
    /// Until when the pace knows of time.
    passed: Instant,
    /// When lateness was last observed.
    observed: Instant,
    /// Was a turn asked for since then?
    is_used: bool,
    is_closed: bool,
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Throttle").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Throttle {
    pub(crate) fn new(foreground: Option<Arc<dyn Foreground>>) -> Self {
        let now = Instant::now();
        let state = State {
            pace: Pace::default(),
            passed: now,
            observed: now,
            is_used: false,
            is_closed: false,
        };
        Self {
            foreground,
            state: Mutex::new(state),
            line: TurnMutex::new(()),
            working: Notify::new(),
        }
    }

    /// Waits until about as much may be done as a notification is.
    pub(crate) async fn turn(&self) {
        if self.foreground.is_none() || self.take().is_none() {
            return;
        }
        let _first = self.line.lock().await;
        while let Some(wait) = self.take() {
            sleep(wait.max(PAUSE)).await;
        }
    }

    /// As many turns more were used than were waited for.
    pub(crate) fn charge(&self, turns: u32) {
        self.state.lock().pace.charge(turns);
    }

    /// Takes a turn; or how long there is none.
    fn take(&self) -> Option<Duration> {
        let mut state = self.state.lock();
        if state.is_closed {
            return None;
        }
        if !state.is_used {
            state.is_used = true;
            self.working.notify_one();
        }
        state.pass();
        if state.pace.take() { None } else { Some(state.pace.wait()) }
    }

    /// Is less done than could be?
    pub(crate) fn is_limited(&self) -> bool {
        self.state.lock().pace.is_limited()
    }

    /// How long there is to be at least between two readings of the log.
    pub(crate) fn read_every(&self) -> Duration {
        if self.is_limited() { READ_EVERY_IF_LATE } else { READ_EVERY }
    }

    /// Nobody waits any more.
    pub(crate) fn close(&self) {
        self.state.lock().is_closed = true;
    }

    /// Observes the foreground for as long as push is at work. When it is not, nothing wakes up for this.
    pub(crate) async fn observe(&self) {
        let Some(foreground) = &self.foreground else { return };
        loop {
            self.working.notified().await;
            self.state.lock().resume();
            while std::mem::take(&mut self.state.lock().is_used) {
                let asked = timeout(MAX_LATENESS, foreground.lateness()).await;
                self.state.lock().observe(asked.unwrap_or(MAX_LATENESS));
                sleep(ASK_EVERY).await;
            }
        }
    }
}

impl State {
    fn pass(&mut self) {
        let now = Instant::now();
        self.pace.pass(now.saturating_duration_since(self.passed));
        self.passed = now;
    }

    fn resume(&mut self) {
        if self.observed.elapsed() >= REST {
            self.pace.forget();
        }
    }

    fn observe(&mut self, lateness: Duration) {
        self.pass();
        self.observed = self.passed;
        self.pace.observe(lateness);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// As late as it is set to.
    #[derive(Default)]
    struct Fake {
        lateness: Mutex<Duration>,
        asked: AtomicU32,
    }

    #[async_trait]
    impl Foreground for Arc<Fake> {
        async fn lateness(&self) -> Duration {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let lateness = *self.lateness.lock();
            sleep(lateness).await;
            lateness
        }
    }

    fn throttle() -> (Arc<Fake>, Arc<Throttle>) {
        let fake = Arc::new(Fake::default());
        let throttle = Arc::new(Throttle::new(Some(Arc::new(Arc::clone(&fake)))));
        let observed = Arc::clone(&throttle);
        tokio::spawn(async move { observed.observe().await });
        (fake, throttle)
    }

    /// Turns that somebody gets in so many seconds who asks a thousand times a second at most.
    async fn turns(throttle: &Throttle, seconds: u64) -> u32 {
        let (mut turns, end) = (0, Instant::now() + Duration::from_secs(seconds));
        while Instant::now() < end {
            throttle.turn().await;
            sleep(Duration::from_millis(1)).await;
            turns += 1;
        }
        turns
    }

    #[tokio::test(start_paused = true)]
    async fn turns_come_slowly_while_requests_are_late_and_at_once_when_they_are_not() {
        let (fake, throttle) = throttle();
        assert_eq!(turns(&throttle, 2).await, 2_000);
        *fake.lateness.lock() = Duration::from_millis(20);
        turns(&throttle, 5).await;
        let late = turns(&throttle, 2).await;
        assert!((90..=110).contains(&late), "{late}");
        *fake.lateness.lock() = Duration::ZERO;
        turns(&throttle, 15).await;
        assert_eq!(turns(&throttle, 2).await, 2_000);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_asked_while_there_is_nothing_to_do() {
        let (fake, throttle) = throttle();
        let asked = || fake.asked.load(Ordering::Relaxed);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(asked(), 0);
        turns(&throttle, 1).await;
        let after = asked();
        assert!(after > 0);
        sleep(Duration::from_secs(10)).await;
        assert!(asked() <= after + 1, "{} after {after}", asked());
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_rest_it_begins_anew() {
        let (fake, throttle) = throttle();
        *fake.lateness.lock() = Duration::from_millis(20);
        turns(&throttle, 5).await;
        sleep(2 * REST).await;
        let before = Instant::now();
        for _ in 0..100 {
            throttle.turn().await;
            tokio::task::yield_now().await;
        }
        assert_eq!(before.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_one_that_is_closed() {
        let (fake, throttle) = throttle();
        *fake.lateness.lock() = Duration::from_millis(20);
        turns(&throttle, 5).await;
        let waiting = Arc::clone(&throttle);
        let waiting = tokio::spawn(async move {
            for _ in 0..1_000 {
                waiting.turn().await;
            }
        });
        sleep(PAUSE).await;
        let before = Instant::now();
        throttle.close();
        waiting.await.unwrap();
        assert!(before.elapsed() <= 2 * MAX_LATENESS, "{:?}", before.elapsed());
    }
}
