//! URIs that are made before anything is uploaded to them (CS "POST /_matrix/media/v1/create").

use hearth_storage::{Commit, Direction};
use ruma::UserId;

use crate::{
    ContentUri, Media, MediaError,
    schema::{ITEMS, ItemRow, Origin, PENDING, PendingRow},
};

/// URIs of one user that wait for their upload. Also bounds what a user leaves behind who never uploads.
const MAX_PENDING: usize = 64;

/// A URI that waits for its upload.
#[derive(Clone, Debug)]
pub struct Created {
    /// The URI.
    pub uri: ContentUri,
    /// When it can no longer be used, in milliseconds since 1970.
    pub unused_expires_at_ms: u64,
}

impl Media {
    /// Makes a URI that this user can upload to once.
    pub async fn create(&self, user_id: &UserId) -> Result<Created, MediaError> {
        let (media, user_id) = (self.clone(), user_id.to_owned());
        self.detached(async move { media.create_now(&user_id).await }).await
    }

    async fn create_now(&self, user_id: &UserId) -> Result<Created, MediaError> {
        let _turn = self.inner().users.lock(user_id.as_str()).await;
        let (user_id, now_ms) = (user_id.to_owned(), self.now_ms());
        let store = self.store();
        let rows = store.page(&PENDING, &user_id, .., Direction::Forward, MAX_PENDING).await?;
        let mut commit = Commit::new(&user_id);
        let mut pending = 0;
        for (media_id, row) in rows {
            if now_ms < row.expires_ms {
                pending += 1;
                continue;
            }
            commit.delete(&PENDING, &user_id, &media_id);
            let expired = (self.identity().server_name().to_owned(), media_id);
            commit.effect_delete(&ITEMS, &expired, &());
        }
        if pending >= MAX_PENDING {
            return Err(MediaError::Busy("Too many of your URIs wait for their upload"));
        }
        let uri = ContentUri::random(self.identity().server_name())?;
        let lifetime_ms = self.config().unused_uri_lifetime_s.saturating_mul(1_000);
        let expires_ms = now_ms.saturating_add(lifetime_ms);
        let row = PendingRow { expires_ms };
        commit.put(&PENDING, &user_id, &uri.media_id().to_owned(), &row);
        let row = ItemRow { origin: Origin::Created(user_id, expires_ms), content: None };
        commit.effect_put(&ITEMS, &uri.key(), &(), &row);
        store.commit(commit).await?;
        Ok(Created { uri, unused_expires_at_ms: expires_ms })
    }

    /// May this user upload to this URI now?
    pub(crate) async fn may_fill(
        &self,
        user_id: &UserId,
        uri: &ContentUri,
    ) -> Result<(), MediaError> {
        let row = self.store().get(&ITEMS, &uri.key(), &()).await?.ok_or(MediaError::NotFound)?;
        match row.origin {
            Origin::Cached(_) => Err(MediaError::NotFound),
            Origin::Uploaded(creator) | Origin::Created(creator, _)
                if creator.as_str() != user_id.as_str() =>
            {
                Err(MediaError::NotYours)
            }
            _ if row.content.is_some() => Err(MediaError::CannotOverwrite),
            Origin::Created(_, expires_ms) if self.now_ms() < expires_ms => Ok(()),
            Origin::Created(..) | Origin::Uploaded(_) => Err(MediaError::NotFound),
        }
    }
}
