//! What a crash left over: bytes that were moved into place, but whose row was never committed; and bytes whose
//! last row went, but which were not removed any more.

use std::{sync::Weak, time::Duration};

use futures_util::StreamExt as _;
use tokio::time::sleep;

use crate::{Media, MediaError, media::Inner};

/// Objects that are looked at before a pause: the sweep has no hurry, and requests do.
const BATCH: usize = 500;
/// The pause. A million objects take a few minutes.
const PAUSE: Duration = Duration::from_millis(100);

/// Looks at everything that is kept, once.
pub(crate) async fn run(media: Weak<Inner>) {
    match sweep(&media).await {
        Ok(0) => {}
        Ok(removed) => tracing::info!(removed, "removed content that nothing refers to"),
        Err(error) => tracing::warn!(%error, "cannot look for content that nothing refers to"),
    }
}

async fn sweep(weak: &Weak<Inner>) -> Result<usize, MediaError> {
    let Some(media) = weak.upgrade().map(Media::over) else { return Ok(0) };
    let mut listed = media.blobs().list().ready_chunks(BATCH);
    drop(media);
    let mut removed = 0;
    while let Some(batch) = listed.next().await {
        let Some(media) = weak.upgrade().map(Media::over) else { return Ok(removed) };
        for hash in batch {
            let hash = hash?;
            // Asked before the lock is taken, since nearly all are.
            if !media.is_referenced(hash).await? && media.release(hash).await? {
                removed += 1;
            }
        }
        drop(media);
        sleep(PAUSE).await;
    }
    Ok(removed)
}
