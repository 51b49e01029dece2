//! Threads for work that nobody waits for: it takes what the clients' requests leave of the processors.

use std::{
    io,
    num::NonZero,
    thread::available_parallelism,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use hearth_push::Foreground;
use tokio::runtime::{Builder, Handle, Runtime};

/// How far these threads step back (`nice`). Where all want a processor at once, they get about a tenth of it: so
/// they are never starved, and slow the others down by no more than that.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;
/// The last there is.
#[cfg(target_os = "linux")]
const MAX_NICE: i32 = 19;
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

/// On Linux each thread has a nice value of its own, which it gives to the threads that it makes.
#[cfg(target_os = "linux")]
fn step_back(builder: &mut Builder) {
    use rustix::process::{getpriority_process, setpriority_process};

    let nice = getpriority_process(None).map(|nice| nice.saturating_add(NICENESS).min(MAX_NICE));
    builder.on_thread_start(move || {
        if let Err(error) = nice.and_then(|nice| setpriority_process(None, nice)) {
            tracing::warn!(%error, "background work has the priority of everything else");
        }
    });
}

/// Elsewhere it is the process's, and stays as it is.
#[cfg(not(target_os = "linux"))]
fn step_back(_: &mut Builder) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{future::ready, pin::pin};

    use rustix::process::getpriority_process;

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
        let nice = || getpriority_process(None).unwrap();
        let before = nice();
        let background = runtime().unwrap();
        let there = background.block_on(async move {
            let working = tokio::spawn(async move { nice() }).await.unwrap();
            let blocking = tokio::spawn(tokio::task::spawn_blocking(nice)).await.unwrap().unwrap();
            [working, blocking]
        });
        assert_eq!(there, [(before + NICENESS).min(MAX_NICE); 2]);
        assert_eq!(nice(), before);
    }
}
