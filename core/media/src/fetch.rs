//! Content of other servers: fetched once, however many ask for it, and kept.

use std::{collections::HashMap, sync::Arc};

use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};

use crate::{
    Content, ContentUri, Media, MediaError, RemoteContent, RemoteMediaError,
    blobs::Staged,
    kinds::{self, HEAD_BYTES},
    schema::{ContentRow, ITEMS},
    upload::MAX_NAME_BYTES,
};

/// Items that are fetched at once. Further requests wait for a place.
const MAX_FETCHES: usize = 64;
/// Items that are fetched, or wait to be. Further requests are refused.
const MAX_WANTED: usize = 1_024;

/// How often an item is fetched for one request, if it has to make room again before it is read.
const MAX_ATTEMPTS: usize = 2;

/// What became of a fetch; `None` while it is under way.
type Outcome = Option<Result<(), RemoteMediaError>>;

/// What is being fetched.
#[derive(Debug)]
pub(crate) struct Fetches {
    wanted: Mutex<HashMap<ContentUri, watch::Receiver<Outcome>>>,
    places: Arc<Semaphore>,
}

impl Default for Fetches {
    fn default() -> Self {
        Self { wanted: Mutex::default(), places: Arc::new(Semaphore::new(MAX_FETCHES)) }
    }
}

impl Media {
    /// What is behind a URI of another server, fetched if it is not kept here.
    pub(crate) async fn remote_content(&self, uri: &ContentUri) -> Result<Content, MediaError> {
        for _ in 0..MAX_ATTEMPTS {
            if let Some(kept) = self.kept(uri).await? {
                return Ok(kept);
            }
            self.fetched(uri).await?;
        }
        let gone = || MediaError::Remote("other content takes its place at once".to_owned());
        self.kept(uri).await?.ok_or_else(gone)
    }

    /// What is kept here of an item of another server, or of a thumbnail.
    pub(crate) async fn kept(&self, uri: &ContentUri) -> Result<Option<Content>, MediaError> {
        let Some(row) = self.store().get(&ITEMS, &uri.key(), &()).await? else { return Ok(None) };
        let Some(content) = row.content else { return Ok(None) };
        match self.served(uri, content).await {
            Ok(content) => {
                self.note_use(uri, &row.origin).await?;
                Ok(Some(content))
            }
            // It was dropped between the two reads, or its bytes are lost: it can be fetched again.
            Err(MediaError::Internal(reason)) => {
                tracing::debug!(reason, "content is to be fetched again");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Waits until the item was fetched: by a task that this begins, or by one that is under way.
    async fn fetched(&self, uri: &ContentUri) -> Result<(), MediaError> {
        let mut outcome = self.fetch(uri)?;
        let Ok(outcome) = outcome.wait_for(Option::is_some).await else {
            return Err(MediaError::Remote("this server is stopping".to_owned()));
        };
        match &*outcome {
            Some(Err(error)) => Err(error.clone().into()),
            Some(Ok(())) | None => Ok(()),
        }
    }

    fn fetch(&self, uri: &ContentUri) -> Result<watch::Receiver<Outcome>, MediaError> {
        let fetches = &self.inner().fetches;
        let mut wanted = fetches.wanted.lock();
        if let Some(outcome) = wanted.get(uri) {
            return Ok(outcome.clone());
        }
        if wanted.len() >= MAX_WANTED {
            return Err(MediaError::Busy("Too much content is being fetched"));
        }
        let (sender, receiver) = watch::channel(None);
        wanted.insert(uri.clone(), receiver.clone());
        drop(wanted);
        let (media, uri, places) = (self.clone(), uri.clone(), Arc::clone(&fetches.places));
        self.spawn(async move {
            let _wish = Wish { media: media.clone(), uri: uri.clone() };
            let Ok(_place) = places.acquire().await else { return };
            let limit = media.config().remote_timeout();
            let late = || RemoteMediaError::Failed("it did not arrive in time".to_owned());
            let outcome = timeout(limit, media.fetch_now(&uri)).await;
            sender.send_replace(Some(outcome.unwrap_or_else(|_| Err(late()))));
        });
        Ok(receiver)
    }

    async fn fetch_now(&self, uri: &ContentUri) -> Result<(), RemoteMediaError> {
        let remote = self.remote().ok_or(RemoteMediaError::NotFound)?;
        let limit = self.config().remote_timeout();
        let fetched = remote.fetch(uri, self.max_remote_bytes(), limit).await?;
        let about = fetched.about.clone();
        let (staged, head) = self.receive(uri, fetched).await?;
        let (media, owned_uri) = (self.clone(), uri.clone());
        let kept = self.detached(async move {
            let whole = staged.finish().await?;
            let content_type = kinds::content_type(about.content_type.as_deref(), &head);
            let file_name = about.file_name.filter(|name| name.len() <= MAX_NAME_BYTES);
            let content = ContentRow {
                hash: whole.hash,
                bytes: whole.bytes,
                inline: kinds::is_inline(&content_type, &head),
                content_type,
                file_name,
                stored_ms: media.now_ms(),
            };
            media.cache(&owned_uri, whole, content).await
        });
        kept.await.map_err(|error| cannot_keep(uri, &error))
    }

    /// What is fetched must be kept, so it must have room.
    fn max_remote_bytes(&self) -> u64 {
        self.config().max_remote_bytes.min(self.config().cache_bytes)
    }

    /// Writes what comes to its end; and its first bytes.
    async fn receive(
        &self,
        uri: &ContentUri,
        fetched: RemoteContent,
    ) -> Result<(Staged, Vec<u8>), RemoteMediaError> {
        let max_bytes = self.max_remote_bytes();
        let RemoteContent { announced_bytes, mut body, .. } = fetched;
        if announced_bytes.is_some_and(|bytes| bytes > max_bytes) {
            return Err(RemoteMediaError::TooLarge);
        }
        let failed = |error: MediaError| cannot_keep(uri, &error);
        let mut staged = self.blobs().stage().await.map_err(failed)?;
        let mut head = Vec::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| RemoteMediaError::Failed(error.to_string()))?;
            let more = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            if staged.bytes().saturating_add(more) > max_bytes {
                return Err(RemoteMediaError::TooLarge);
            }
            let missing = HEAD_BYTES.saturating_sub(head.len()).min(chunk.len());
            head.extend_from_slice(chunk.get(..missing).unwrap_or_default());
            staged.write(chunk).await.map_err(failed)?;
        }
        if announced_bytes.is_some_and(|bytes| bytes != staged.bytes()) {
            return Err(RemoteMediaError::Failed("it was cut short".to_owned()));
        }
        Ok((staged, head))
    }
}

/// A fault of this server's, which is logged; the client is told that there is one.
fn cannot_keep(uri: &ContentUri, error: &MediaError) -> RemoteMediaError {
    tracing::warn!(%error, %uri, "cannot keep content of another server");
    RemoteMediaError::Failed("this server cannot keep it".to_owned())
}

/// A place among what is wanted; given back when dropped.
struct Wish {
    media: Media,
    uri: ContentUri,
}

impl Drop for Wish {
    fn drop(&mut self) {
        self.media.inner().fetches.wanted.lock().remove(&self.uri);
    }
}

#[cfg(test)]
mod tests;
