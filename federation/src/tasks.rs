//! Work behind the requests that caused it.

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Starts tasks, and ends them when the server stops. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks {
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Tasks {
    /// Starts a task. It is cut off at its next pause when the server stops.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            stop.run_until_cancelled(work).await;
        });
    }

    /// Cuts all of them off; waits until they have ended. Later ones end at once.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}
