//! How much of the log push holds back at most. When more happens than can be pushed, it is the log that must not
//! grow: whoever needs what is too old falls behind, and catches up from the timelines.

use std::sync::Arc;

use hearth_types::StreamPosition;
use tokio::task::JoinSet;

use crate::{PushError, registry::Entry, service::Inner};

/// Positions that may be held: some ten megabytes of log, and a minute or more of a very busy server.
const MAX_HELD: u64 = 500_000;
/// Pushers whose rows are changed at a time.
const AT_ONCE: usize = 64;

impl Inner {
    /// What lies before this is too old. Counted from this run's start: positions jump when the store opens.
    fn too_old(&self) -> Option<StreamPosition> {
        let (started, published) = (self.started()?, self.parts.store.notifier().published());
        oldest_held(started, published)
    }

    /// Those fall behind who have sent so little that they need too old a part of the log.
    pub(crate) async fn let_go(self: &Arc<Self>) -> Result<(), PushError> {
        let Some(oldest) = self.too_old() else { return Ok(()) };
        let slow = self.lanes.lock().let_go_before(oldest);
        self.give_up(slow).await
    }

    /// Passes over what is not routed yet, if that has become too long: all fall behind. Did it?
    pub(crate) async fn pass_over(self: &Arc<Self>) -> Result<bool, PushError> {
        let Some(oldest) = self.too_old() else { return Ok(false) };
        if self.lanes.lock().routed() >= oldest {
            return Ok(false);
        }
        tracing::warn!("more happens than can be pushed: all pushers fall behind");
        let published = self.parts.store.notifier().published();
        self.lanes.lock().let_go_before(published);
        let mut pushers = self.registry.all();
        pushers.retain(|entry| !entry.progress().is_behind);
        self.give_up(pushers).await?;
        // Who came and went was passed over, too.
        self.audiences.clear();
        self.lanes.lock().set_routed(published);
        Ok(true)
    }

    /// Their rows say that they are behind before the log may go on without them.
    async fn give_up(self: &Arc<Self>, pushers: Vec<Arc<Entry>>) -> Result<(), PushError> {
        for some in pushers.chunks(AT_ONCE) {
            let mut changes = JoinSet::new();
            for entry in some {
                let (inner, entry) = (Arc::clone(self), Arc::clone(entry));
                changes.spawn(async move {
                    inner.advance(&entry, |progress| progress.is_behind = true).await?;
                    inner.lanes.lock().set_behind(&entry, 0);
                    Ok::<_, PushError>(())
                });
            }
            while let Some(changed) = changes.join_next().await {
                if let Ok(changed) = changed {
                    changed?;
                }
            }
        }
        Ok(())
    }
}

fn oldest_held(started: StreamPosition, published: StreamPosition) -> Option<StreamPosition> {
    let since = published.get().checked_sub(started.get())?;
    since.checked_sub(MAX_HELD).map(|beyond| started.plus(beyond))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_too_old_before_much_has_happened_in_this_run() {
        let started = StreamPosition::new(1 << 20);
        assert_eq!(oldest_held(started, started), None);
        assert_eq!(oldest_held(started, started.plus(MAX_HELD - 1)), None);
        assert_eq!(oldest_held(started, started.plus(MAX_HELD)), Some(started));
        assert_eq!(oldest_held(started, started.plus(MAX_HELD + 7)), Some(started.plus(7)));
    }
}
