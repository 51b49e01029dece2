//! What the operator hides or removes.
//!
//! A quarantine is of bytes, not of a name for them: whoever uploads the same again, or fetches it from another
//! server, gets a URI that shows nothing. The bytes stay where they are, and can be shown again.

use std::ops::Bound;

use hearth_storage::{Commit, Direction};

use crate::{
    ContentUri, Media, MediaError,
    hash::ContentHash,
    schema::{
        ITEMS, ItemRow, Origin, PENDING, QUARANTINED, QuarantineRow, REFERENCES, USAGE, UsageRow,
    },
};

/// References that are looked at in one read.
const BATCH: usize = 100;

impl Media {
    /// Hides what is behind a URI, under every URI, from everybody.
    pub async fn quarantine(&self, uri: &ContentUri) -> Result<(), MediaError> {
        let (media, uri) = (self.clone(), uri.clone());
        self.detached(async move { media.quarantine_now(&uri).await }).await
    }

    /// Ends a quarantine.
    pub async fn end_quarantine(&self, uri: &ContentUri) -> Result<(), MediaError> {
        let (media, uri) = (self.clone(), uri.clone());
        self.detached(async move {
            let hash = media.hash_of(&uri).await?;
            let _turn = media.cache_turn().await;
            let mut commit = Commit::new(&());
            commit.delete(&QUARANTINED, &hash, &());
            media.store().commit(commit).await?;
            Ok(())
        })
        .await
    }

    /// Removes the item of a URI and its thumbnails, for good; and its bytes, unless other items have the same. Content
    /// of another server can be fetched again.
    pub async fn remove(&self, uri: &ContentUri) -> Result<(), MediaError> {
        let (media, uri) = (self.clone(), uri.clone());
        self.detached(async move { media.remove_now(&uri).await }).await
    }

    async fn quarantine_now(&self, uri: &ContentUri) -> Result<(), MediaError> {
        let hash = self.hash_of(uri).await?;
        let _turn = self.cache_turn().await;
        let mut commit = Commit::new(&());
        commit.put(&QUARANTINED, &hash, &(), &QuarantineRow { since_ms: self.now_ms() });
        self.store().commit(commit).await?;
        // From here on no thumbnails of it are kept any more.
        let mut from = Bound::Unbounded;
        loop {
            let range = (from, Bound::Unbounded);
            let store = self.store();
            let items = store.page(&REFERENCES, &hash, range, Direction::Forward, BATCH).await?;
            for (item, ()) in &items {
                self.drop_thumbnails(item).await?;
            }
            match items.into_iter().last() {
                Some((item, ())) => from = Bound::Excluded(item),
                None => return Ok(()),
            }
        }
    }

    async fn remove_now(&self, uri: &ContentUri) -> Result<(), MediaError> {
        let row = self.store().get(&ITEMS, &uri.key(), &()).await?.ok_or(MediaError::NotFound)?;
        let removed = match row.origin {
            Origin::Uploaded(user_id) | Origin::Created(user_id, _) => {
                let _turn = self.inner().users.lock(user_id.as_str()).await;
                self.remove_uploaded(uri).await?
            }
            Origin::Cached(_) => None,
        };
        let turn = self.cache_turn().await;
        // Those of an item of this server; those of a copy go with it.
        self.drop_thumbnails(&uri.key()).await?;
        self.drop_kept(&uri.key()).await?;
        drop(turn);
        if let Some(hash) = removed {
            self.release(hash).await?;
        }
        Ok(())
    }

    /// Removes the rows of an item of this server, during its user's turn; the hash of the bytes that it had.
    async fn remove_uploaded(&self, uri: &ContentUri) -> Result<Option<ContentHash>, MediaError> {
        let key = uri.key();
        let Some(ItemRow { origin, content }) = self.store().get(&ITEMS, &key, &()).await? else {
            return Ok(None);
        };
        let (Origin::Uploaded(user_id) | Origin::Created(user_id, _)) = origin else {
            return Ok(None);
        };
        let mut commit = Commit::new(&user_id);
        commit.delete(&PENDING, &user_id, &uri.media_id().to_owned());
        commit.effect_delete(&ITEMS, &key, &());
        if let Some(content) = &content {
            commit.effect_delete(&REFERENCES, &content.hash, &key);
            let usage = self.usage(&user_id).await?;
            let usage = UsageRow {
                items: usage.items.saturating_sub(1),
                bytes: usage.bytes.saturating_sub(content.bytes),
            };
            commit.put(&USAGE, &user_id, &(), &usage);
        }
        self.store().commit(commit).await?;
        Ok(content.map(|content| content.hash))
    }

    /// The hash of the bytes behind a URI.
    async fn hash_of(&self, uri: &ContentUri) -> Result<ContentHash, MediaError> {
        let row = self.store().get(&ITEMS, &uri.key(), &()).await?;
        let content = row.and_then(|row| row.content).ok_or(MediaError::NotFound)?;
        Ok(content.hash)
    }

    /// Are these bytes hidden?
    pub(crate) async fn is_quarantined(&self, hash: ContentHash) -> Result<bool, MediaError> {
        Ok(self.store().get(&QUARANTINED, &hash, &()).await?.is_some())
    }
}

#[cfg(test)]
mod tests;
