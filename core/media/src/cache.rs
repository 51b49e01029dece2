//! Which content of other servers, and which thumbnails, are kept, and for how long.
//!
//! What was not asked for longest goes first, counted in whole days: so an item is written once a day at most, however
//! often it is read.

use std::{
    sync::{
        Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hearth_storage::{Commit, Direction};
use ruma::OwnedServerName;
use tokio::{
    sync::{Mutex, MutexGuard},
    time::sleep,
};

use crate::{
    ContentUri, Media, MediaError,
    blobs::Whole,
    media::Inner,
    schema::{CACHED, CachedRow, ContentRow, ITEMS, ItemRow, MADE, Origin, REFERENCES},
    uri::{THUMBNAIL_MARK, thumbnail_id},
};

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// How often what is too old is looked for.
const INTERVAL: Duration = Duration::from_hours(1);
/// Items that are dropped before others get a turn.
const BATCH: usize = 50;
/// Thumbnails that are kept of one item. When there are more they all go: whoever asks for so many different ones asks
/// for nothing that others will ask for.
const MAX_THUMBNAILS: usize = 32;

/// The turn of whoever changes what is kept, and how much it is.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    turn: Mutex<()>,
    /// Bytes of all kept items; counted when the server starts. Known to be at least this much before.
    bytes: AtomicU64,
}

/// Counts what is kept, then drops what is too old, again and again.
pub(crate) async fn run(weak: Weak<Inner>) {
    let Some(media) = weak.upgrade().map(Media::over) else { return };
    if let Err(error) = media.count_cache().await {
        tracing::warn!(%error, "cannot count the content of other servers that is kept");
    }
    drop(media);
    loop {
        let Some(media) = weak.upgrade().map(Media::over) else { return };
        if let Err(error) = media.make_room(None).await {
            tracing::warn!(%error, "cannot drop content of other servers");
        }
        drop(media);
        sleep(INTERVAL).await;
    }
}

impl Media {
    /// Keeps a fetched item or a thumbnail, and drops others if there is too much then. A thumbnail is kept as long as
    /// its original at most: whoever hides that must find it.
    pub(crate) async fn cache(
        &self,
        uri: &ContentUri,
        whole: Whole,
        content: ContentRow,
    ) -> Result<(), MediaError> {
        let turn = self.cache_turn().await;
        let (key, day, bytes) = (uri.key(), self.today(), content.bytes);
        match self.make_way(&key).await {
            Ok(true) => {}
            Ok(false) => {
                self.discard(&whole).await;
                return Ok(());
            }
            Err(error) => {
                self.discard(&whole).await;
                return Err(error);
            }
        }
        let mut commit = Commit::new(&());
        commit.put(&CACHED, &(), &(day, key.clone()), &CachedRow { bytes });
        commit.put(&REFERENCES, &content.hash, &key, &());
        let row = ItemRow { origin: Origin::Cached(day), content: Some(content) };
        commit.put(&ITEMS, &key, &(), &row);
        if let Some((item, variant)) = thumbnail_of(&key) {
            commit.put(&MADE, &item, &variant, &());
        }
        self.keep(whole, commit).await?;
        self.inner().cache.bytes.fetch_add(bytes, Ordering::Relaxed);
        drop(turn);
        self.make_room(Some(&key)).await
    }

    /// Notes that an item was asked for today; for a thumbnail, that its original is still needed, too.
    pub(crate) async fn note_use(
        &self,
        uri: &ContentUri,
        origin: &Origin,
    ) -> Result<(), MediaError> {
        if !matches!(origin, Origin::Cached(day) if *day < self.today()) {
            return Ok(());
        }
        let _turn = self.cache_turn().await;
        let key = uri.key();
        if let Some((item, _)) = thumbnail_of(&key) {
            self.set_used(item).await?;
        }
        self.set_used(key).await
    }

    /// Dates a kept item to today, during the turn.
    async fn set_used(&self, key: (OwnedServerName, String)) -> Result<(), MediaError> {
        let today = self.today();
        let Some(row) = self.store().get(&ITEMS, &key, &()).await? else { return Ok(()) };
        let (Origin::Cached(day), Some(content)) = (&row.origin, &row.content) else {
            return Ok(());
        };
        let mut commit = Commit::new(&()).lazy();
        commit.delete(&CACHED, &(), &(*day, key.clone()));
        let cached = CachedRow { bytes: content.bytes };
        commit.put(&CACHED, &(), &(today, key.clone()), &cached);
        let row = ItemRow { origin: Origin::Cached(today), ..row };
        commit.put(&ITEMS, &key, &(), &row);
        self.store().commit(commit).await?;
        Ok(())
    }

    /// Drops what is too old, and the oldest of what is too much; but not this one, which somebody waits for.
    pub(crate) async fn make_room(
        &self,
        spared: Option<&(OwnedServerName, String)>,
    ) -> Result<(), MediaError> {
        let oldest_kept = self.today().saturating_sub(self.config().cache_days);
        loop {
            let _turn = self.cache_turn().await;
            let oldest = self.store().page(&CACHED, &(), .., Direction::Forward, BATCH).await?;
            let mut dropped = 0;
            for ((day, key), row) in &oldest {
                let too_much = self.cached_bytes() > self.config().cache_bytes;
                if !too_much && *day >= oldest_kept {
                    return Ok(());
                }
                if spared == Some(key) {
                    continue;
                }
                self.drop_item(*day, key, row.bytes).await?;
                dropped += 1;
            }
            if dropped == 0 || oldest.len() < BATCH {
                return Ok(());
            }
        }
    }

    fn cached_bytes(&self) -> u64 {
        self.inner().cache.bytes.load(Ordering::Relaxed)
    }

    /// Makes way for an item, and says whether it may be kept: it may be kept already, if it was fetched again because
    /// its bytes were lost; and there may be too many thumbnails of the same, or none may be kept any more.
    async fn make_way(&self, key: &(OwnedServerName, String)) -> Result<bool, MediaError> {
        self.drop_kept(key).await?;
        let Some((item, _)) = thumbnail_of(key) else { return Ok(true) };
        if !self.has_original(&item).await? {
            return Ok(false);
        }
        if self.thumbnails_of(&item).await?.len() >= MAX_THUMBNAILS {
            self.drop_thumbnails(&item).await?;
        }
        Ok(true)
    }

    /// Is the original of a thumbnail still here? One of another server may have made room meanwhile; what was hidden,
    /// or removed here, is not shown any more.
    async fn has_original(&self, item: &(OwnedServerName, String)) -> Result<bool, MediaError> {
        let row = self.store().get(&ITEMS, item, &()).await?;
        match row.and_then(|row| row.content) {
            Some(content) if self.is_quarantined(content.hash).await? => Err(MediaError::NotFound),
            Some(_) => Ok(true),
            None if item.0 == self.identity().server_name() => Err(MediaError::NotFound),
            None => Ok(false),
        }
    }

    /// The turn of whoever changes what is kept.
    pub(crate) async fn cache_turn(&self) -> MutexGuard<'_, ()> {
        self.inner().cache.turn.lock().await
    }

    /// Forgets all thumbnails of an item, during the turn.
    pub(crate) async fn drop_thumbnails(
        &self,
        item: &(OwnedServerName, String),
    ) -> Result<(), MediaError> {
        for thumbnail in self.thumbnails_of(item).await? {
            if let Some((day, bytes)) = self.when_kept(&thumbnail).await? {
                self.forget(day, &thumbnail, bytes).await?;
            }
        }
        Ok(())
    }

    /// The thumbnails that are kept of an item.
    async fn thumbnails_of(
        &self,
        item: &(OwnedServerName, String),
    ) -> Result<Vec<(OwnedServerName, String)>, MediaError> {
        let made = self.store().page(&MADE, item, .., Direction::Forward, MAX_THUMBNAILS).await?;
        let key = |variant| (item.0.clone(), thumbnail_id(&item.1, variant));
        Ok(made.iter().map(|(variant, ())| key(variant)).collect())
    }

    /// Forgets an item if it is kept, and its thumbnails, during the turn.
    pub(crate) async fn drop_kept(
        &self,
        key: &(OwnedServerName, String),
    ) -> Result<(), MediaError> {
        match self.when_kept(key).await? {
            Some((day, bytes)) => self.drop_item(day, key, bytes).await,
            None => Ok(()),
        }
    }

    /// The day of a kept item, and its bytes; `None` for what is not kept, or is no copy.
    async fn when_kept(
        &self,
        key: &(OwnedServerName, String),
    ) -> Result<Option<(u64, u64)>, MediaError> {
        Ok(match self.store().get(&ITEMS, key, &()).await? {
            Some(ItemRow { origin: Origin::Cached(day), content: Some(content) }) => {
                Some((day, content.bytes))
            }
            _ => None,
        })
    }

    /// Forgets an item, and its thumbnails before it: without it nobody could hide them.
    async fn drop_item(
        &self,
        day: u64,
        key: &(OwnedServerName, String),
        bytes: u64,
    ) -> Result<(), MediaError> {
        if thumbnail_of(key).is_none() {
            self.drop_thumbnails(key).await?;
        }
        self.forget(day, key, bytes).await
    }

    /// Forgets one item or thumbnail; its bytes go with it unless others have the same.
    async fn forget(
        &self,
        day: u64,
        key: &(OwnedServerName, String),
        bytes: u64,
    ) -> Result<(), MediaError> {
        let row = self.store().get(&ITEMS, key, &()).await?;
        let is_kept = row.is_some();
        let hash = row.and_then(|row| row.content).map(|content| content.hash);
        let mut commit = Commit::new(&());
        commit.delete(&CACHED, &(), &(day, key.clone()));
        commit.delete(&ITEMS, key, &());
        if let Some(hash) = &hash {
            commit.delete(&REFERENCES, hash, key);
        }
        if let Some((item, variant)) = thumbnail_of(key) {
            commit.delete(&MADE, &item, &variant);
        }
        self.store().commit(commit).await?;
        // A thumbnail may have gone with its original already. Nobody else writes it during this turn.
        if is_kept {
            let left = self.cached_bytes().saturating_sub(bytes);
            self.inner().cache.bytes.store(left, Ordering::Relaxed);
        }
        if let Some(hash) = hash {
            self.release(hash).await?;
        }
        Ok(())
    }

    /// Counts what earlier runs kept.
    async fn count_cache(&self) -> Result<(), MediaError> {
        let _turn = self.cache_turn().await;
        let bytes = self.store().bulk(|rows| {
            let mut bytes = 0_u64;
            rows.for_each(&CACHED, |(), _, row| {
                bytes = bytes.saturating_add(row.bytes);
                std::ops::ControlFlow::Continue(())
            })?;
            Ok(bytes)
        });
        self.inner().cache.bytes.store(bytes.await?, Ordering::Relaxed);
        Ok(())
    }

    /// The day that it is, counted from 1970.
    fn today(&self) -> u64 {
        self.now_ms() / DAY_MS
    }
}

/// The item that a thumbnail is of, and which thumbnail it is; `None` for what is no thumbnail.
fn thumbnail_of(
    (server, id): &(OwnedServerName, String),
) -> Option<((OwnedServerName, String), String)> {
    let (item, variant) = id.split_once(THUMBNAIL_MARK)?;
    Some(((server.clone(), item.to_owned()), variant.to_owned()))
}

#[cfg(test)]
mod tests;
