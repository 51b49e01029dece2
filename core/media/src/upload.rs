//! Uploads: streamed, bounded, and counted against their user's quota.

use bytes::Bytes;
use hearth_storage::Commit;
use ruma::{OwnedUserId, UserId};

use crate::{
    ContentUri, Media, MediaError,
    blobs::{Staged, Whole},
    kinds::{self, HEAD_BYTES},
    places::{Bounds, Place},
    schema::{ContentRow, ITEMS, ItemRow, Origin, PENDING, REFERENCES, USAGE, UsageRow},
};

/// The longest file name that is kept, in bytes: 255 characters of any script.
pub(crate) const MAX_NAME_BYTES: usize = 1_020;

/// Uploads under way at once. Each holds up to two parts in memory; clients send a handful of pictures together.
pub(crate) const UPLOADS: Bounds = Bounds {
    all: 512,
    all_taken: "Too many uploads are under way",
    own: 16,
    own_taken: "Too many of your uploads are under way",
};

/// What an uploader says of content.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Its type; what cannot be one is not believed.
    pub content_type: Option<String>,
    /// Its name.
    pub file_name: Option<String>,
}

/// An upload under way. Dropped before [`Self::finish`], it leaves nothing.
#[derive(Debug)]
pub struct Upload {
    media: Media,
    user_id: OwnedUserId,
    /// The URI that was made for it, if one was.
    uri: Option<ContentUri>,
    about: About,
    staged: Staged,
    head: Vec<u8>,
    _place: Place,
}

impl Media {
    /// Begins an upload of a user of this server, to a URI that they have made, or to one of its own.
    /// `announced_bytes` is what the client says that it will send; what
    /// cannot be kept is refused before it is sent.
    pub async fn upload(
        &self,
        user_id: &UserId,
        uri: Option<ContentUri>,
        about: About,
        announced_bytes: Option<u64>,
    ) -> Result<Upload, MediaError> {
        if let Some(uri) = &uri {
            self.may_fill(user_id, uri).await?;
        }
        if about.file_name.as_ref().is_some_and(|name| name.len() > MAX_NAME_BYTES) {
            return Err(MediaError::InvalidParam("The file name is too long"));
        }
        let place = self.inner().places.take(user_id)?;
        let announced_bytes = announced_bytes.unwrap_or_default();
        self.fits(announced_bytes)?;
        self.has_room(self.usage(user_id).await?, announced_bytes)?;
        let staged = self.blobs().stage().await?;
        Ok(Upload {
            media: self.clone(),
            user_id: user_id.to_owned(),
            uri,
            about,
            staged,
            head: Vec::new(),
            _place: place,
        })
    }

    pub(crate) async fn usage(&self, user_id: &UserId) -> Result<UsageRow, MediaError> {
        Ok(self.store().get(&USAGE, &user_id.to_owned(), &()).await?.unwrap_or_default())
    }

    /// Is one upload allowed to be so large?
    fn fits(&self, bytes: u64) -> Result<(), MediaError> {
        let max_bytes = self.config().max_upload_bytes;
        if bytes > max_bytes { Err(MediaError::TooLarge { max_bytes }) } else { Ok(()) }
    }

    /// May the user keep so much more?
    fn has_room(&self, usage: UsageRow, bytes: u64) -> Result<(), MediaError> {
        if self.config().has_room(usage.bytes, bytes) {
            return Ok(());
        }
        Err(MediaError::QuotaExceeded { max_bytes: self.config().user_quota_bytes })
    }

    /// Makes whole bytes an item of the user's.
    async fn add(
        &self,
        user_id: OwnedUserId,
        made: Option<ContentUri>,
        whole: Whole,
        content: ContentRow,
    ) -> Result<ContentUri, MediaError> {
        let _turn = self.inner().users.lock(user_id.as_str()).await;
        let (uri, commit) = match self.addition(&user_id, made, content).await {
            Ok(addition) => addition,
            Err(error) => {
                self.discard(&whole).await;
                return Err(error);
            }
        };
        self.keep(whole, commit).await?;
        self.inner().arrivals.send_replace(());
        Ok(uri)
    }

    /// The rows of a new item, if its user may have it still.
    async fn addition(
        &self,
        user_id: &OwnedUserId,
        made: Option<ContentUri>,
        content: ContentRow,
    ) -> Result<(ContentUri, Commit), MediaError> {
        let usage = self.usage(user_id).await?;
        self.has_room(usage, content.bytes)?;
        let mut commit = Commit::new(user_id);
        let usage = UsageRow {
            items: usage.items.saturating_add(1),
            bytes: usage.bytes.saturating_add(content.bytes),
        };
        commit.put(&USAGE, user_id, &(), &usage);
        let uri = match made {
            Some(uri) => {
                self.may_fill(user_id, &uri).await?;
                commit.delete(&PENDING, user_id, &uri.media_id().to_owned());
                uri
            }
            None => ContentUri::random(self.identity().server_name())?,
        };
        commit.effect_put(&REFERENCES, &content.hash, &uri.key(), &());
        let row = ItemRow { origin: Origin::Uploaded(user_id.clone()), content: Some(content) };
        commit.effect_put(&ITEMS, &uri.key(), &(), &row);
        Ok((uri, commit))
    }
}

impl Upload {
    /// Appends bytes; refuses those that make it larger than uploads may be.
    pub async fn write(&mut self, chunk: Bytes) -> Result<(), MediaError> {
        let more = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        self.media.fits(self.staged.bytes().saturating_add(more))?;
        let missing = HEAD_BYTES.saturating_sub(self.head.len()).min(chunk.len());
        self.head.extend_from_slice(chunk.get(..missing).unwrap_or_default());
        self.staged.write(chunk).await
    }

    /// Ends the upload: what is behind the URI is durable when this answers. A caller that goes away does not stop
    /// it.
    pub async fn finish(self) -> Result<ContentUri, MediaError> {
        let media = self.media.clone();
        media.detached(self.finish_now()).await
    }

    async fn finish_now(self) -> Result<ContentUri, MediaError> {
        let whole = self.staged.finish().await?;
        let content_type = kinds::content_type(self.about.content_type.as_deref(), &self.head);
        let content = ContentRow {
            hash: whole.hash,
            bytes: whole.bytes,
            inline: kinds::is_inline(&content_type, &self.head),
            content_type,
            file_name: self.about.file_name,
            stored_ms: self.media.now_ms(),
        };
        self.media.add(self.user_id, self.uri, whole, content).await
    }
}

#[cfg(test)]
mod tests;
