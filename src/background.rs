//! Threads for work that nobody waits for: it takes what the clients' requests leave of the processors.

use std::{
    io,
    num::NonZero,
    thread::available_parallelism,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use hearth_push::Foreground;
#[cfg(target_os = "linux")]
use thread_priority::{
    ThreadPriority,
    unix::{
        NormalThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy,
        thread_native_id, thread_schedule_policy,
    },
};
use tokio::runtime::{Builder, Handle, Runtime};

#[cfg(target_os = "linux")]
const IDLE: ThreadSchedulePolicy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);

/// Threads for reads that block; there are few such reads.
const MAX_BLOCKING_THREADS: usize = 4;

/// A runtime of such threads, at most one for two processors: the others do not have them even for a moment.
pub(crate) fn runtime() -> io::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    let processors = available_parallelism().map_or(1, NonZero::get);
    builder.worker_threads((processors / 2).max(1));
    builder.enable_all().max_blocking_threads(MAX_BLOCKING_THREADS).thread_name("background");
    step_back(&mut builder);
    builder.build()
}

/// The runtime that serves requests.
#[derive(Debug)]
pub(crate) struct Requests(pub(crate) Handle);

#[async_trait]
impl Foreground for Requests {
    async fn lateness(&self) -> Duration {
        let asked = Instant::now();
        // It ends without an answer when the server does.
        self.0.spawn(async move { asked.elapsed() }).await.unwrap_or_default()
    }
}

/// On Linux each thread has a policy of its own, which it gives to the threads that it makes. One with `SCHED_IDLE` leaves its
/// processor at once to any other that wakes up there, and counts for nothing where one is looked for that is free. A thread
/// with the greatest nice value does not: whoever wakes up waits until its slice is over, and requests of clients wake up
/// threads several times each. Where others want all processors all the time, one with `SCHED_IDLE` still
/// gets about three thousandths.
#[cfg(target_os = "linux")]
fn step_back(builder: &mut Builder) {
    let told = std::sync::Once::new();
    builder.on_thread_start(move || {
        let set = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, IDLE);
        // It sets the nice value, too, which it may not where the process has one: this policy does not look at it.
        if thread_schedule_policy() != Ok(IDLE) {
            told.call_once(|| {
                tracing::warn!(?set, "background work has the priority of everything else");
            });
        }
    });
}

/// Elsewhere it is the process's, and stays as it is.
#[cfg(not(target_os = "linux"))]
fn step_back(_: &mut Builder) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{future::ready, pin::pin};

    use thread_priority::unix::thread_schedule_policy;

    use super::*;

    #[test]
    fn work_is_late_while_the_threads_of_requests_are_busy() {
        let requests = Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let foreground = Requests(requests.handle().clone());
        let (busy, is_busy) = std::sync::mpsc::channel();
        let (let_go, until) = std::sync::mpsc::channel::<()>();
        requests.spawn(async move {
            busy.send(()).unwrap();
            until.recv().ok();
        });
        is_busy.recv().unwrap();
        runtime().unwrap().block_on(async move {
            let mut lateness = pin!(foreground.lateness());
            tokio::select! {
                biased;
                _ = &mut lateness => panic!("nobody was there to answer"),
                () = ready(()) => {}
            }
            let asked = Instant::now();
            std::thread::sleep(Duration::from_millis(1));
            let waited = asked.elapsed();
            let_go.send(()).unwrap();
            assert!(lateness.await >= waited);
        });
    }

    #[test]
    fn only_the_threads_in_the_background_step_back() {
        let before = thread_schedule_policy().unwrap();
        assert_ne!(before, IDLE);
        let background = runtime().unwrap();
        let there = background.block_on(async move {
            let policy = || thread_schedule_policy().unwrap();
            let working = tokio::spawn(async move { policy() }).await.unwrap();
            let blocking = tokio::spawn(tokio::task::spawn_blocking(policy)).await.unwrap();
            [working, blocking.unwrap()]
        });
        assert_eq!(there, [IDLE; 2]);
        assert_eq!(thread_schedule_policy().unwrap(), before);
    }
}
