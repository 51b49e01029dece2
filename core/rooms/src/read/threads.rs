//! The threads of a room (`GET /rooms/{roomId}/threads`), the most recently active first.

use std::{ops::Bound, sync::Arc};

use hearth_storage::Direction;
use hearth_types::Pdu;
use ruma::{CanonicalJsonObject, RoomId, UserId, canonical_json::redact_in_place};

use super::{
    aggregations::THREAD,
    timeline::{Ignored, is_ignored},
    tokens::TimelineToken,
};
use crate::{
    ReadError, RoomError, Rooms,
    schema::{RELATIONS, StoredEvent, THREADS_BY_ACTIVITY, TimelineIndex},
};

/// Greatest page; larger limits are cut to it.
pub const MAX_THREADS: usize = 100;
/// Threads that one request looks at: a reader who took part in none of them gets a token to go on.
const MAX_SCANNED: usize = 500;
/// Replies of one thread that are searched for the reader's, the newest first.
const MAX_REPLIES: usize = 2_000;
/// Rows in one read.
const PAGE: usize = 100;

/// Which threads, and how many.
#[derive(Clone, Copy, Debug)]
pub struct ThreadsRequest {
    /// Only those that the reader sent the root of or a reply to.
    pub participated: bool,
    /// Where to go on.
    pub from: Option<TimelineToken>,
    /// How many at most; cut to [`MAX_THREADS`].
    pub limit: usize,
}

/// What [`Rooms::threads`] found.
#[derive(Clone, Debug)]
pub struct ThreadsPage {
    /// The roots. Those of ignored users are in their redacted form.
    pub roots: Vec<Arc<StoredEvent>>,
    /// Where to go on; `None` when nothing is left.
    pub next: Option<TimelineToken>,
}

impl Rooms {
    /// Threads of a room whose roots the reader may see.
    pub async fn threads(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        ignored: &Ignored,
        request: &ThreadsRequest,
    ) -> Result<ThreadsPage, ReadError> {
        let access = self.access(room_id, user_id).await?;
        let mut visibility = self.visibility_with(room_id, user_id, access.row().cloned()).await?;
        let limit = request.limit.clamp(1, MAX_THREADS);
        let mut until = request.from.unwrap_or(TimelineToken::END).0;
        let mut roots = Vec::new();
        let mut scanned = 0;
        let partition = room_id.to_owned();
        while scanned < MAX_SCANNED {
            let range = (Bound::Included(TimelineIndex::START), Bound::Included(until));
            let rows = self
                .store()
                .page(&THREADS_BY_ACTIVITY, &partition, range, Direction::Backward, PAGE)
                .await?;
            let exhausted = rows.len() < PAGE;
            for (index, row) in rows {
                if roots.len() >= limit {
                    return Ok(ThreadsPage { roots, next: Some(TimelineToken::after(until)) });
                }
                scanned += 1;
                until = TimelineToken::before(index).0;
                let root = self.event(room_id, row.0).await?;
                if visibility.can_see(&root).await?
                    && (!request.participated || self.took_part(room_id, user_id, &root).await?)
                {
                    roots.push(if is_ignored(ignored, &root) {
                        self.redacted_form(room_id, &root).await?
                    } else {
                        root
                    });
                }
            }
            if exhausted {
                return Ok(ThreadsPage { roots, next: None });
            }
        }
        Ok(ThreadsPage { roots, next: Some(TimelineToken::after(until)) })
    }

    /// Did the user send the root or a reply?
    async fn took_part(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        root: &StoredEvent,
    ) -> Result<bool, ReadError> {
        if root.pdu.sender() == user_id {
            return Ok(true);
        }
        let key = |index| (root.header.event_id.clone(), THREAD.to_owned(), index);
        let range = key(TimelineIndex::START)..=key(TimelineIndex::END);
        let (room_id, user_id) = (room_id.to_owned(), user_id.to_owned());
        let rows = self
            .store()
            .page(&RELATIONS, &room_id, range.clone(), Direction::Backward, PAGE)
            .await?;
        if rows.len() < PAGE || rows.iter().any(|(_, reply)| reply.sender == user_id) {
            return Ok(rows.iter().any(|(_, reply)| reply.sender == user_id));
        }
        let read = move |snapshot: &hearth_storage::Snapshot| {
            let rows =
                snapshot.page(&RELATIONS, &room_id, range, Direction::Backward, MAX_REPLIES)?;
            Ok(rows.iter().any(|(_, reply)| reply.sender == user_id))
        };
        Ok(self.store().bulk(read).await?)
    }

    /// An event as if it had been redacted: how the root of an ignored user's thread is shown.
    async fn redacted_form(
        &self,
        room_id: &RoomId,
        event: &StoredEvent,
    ) -> Result<Arc<StoredEvent>, ReadError> {
        let unreadable =
            |error: Box<dyn std::error::Error + Send + Sync>| RoomError::Internal(error);
        let head = self.head(room_id).await?.ok_or(RoomError::UnknownRoom)?;
        let rules = head
            .version
            .rules()
            .ok_or_else(|| RoomError::UnsupportedVersion(head.version.to_string()))?;
        let mut object: CanonicalJsonObject =
            serde_json::from_slice(event.pdu.json()).map_err(|error| unreadable(error.into()))?;
        redact_in_place(&mut object, &rules.redaction, None)
            .map_err(|error| unreadable(error.to_string().into()))?;
        let json = serde_json::to_vec(&object).map_err(|error| unreadable(error.into()))?;
        let pdu = Pdu::parse(event.header.event_id.clone(), json.into())
            .map_err(|error| unreadable(error.into()))?;
        Ok(Arc::new(StoredEvent {
            ordinal: event.ordinal,
            index: event.index,
            header: event.header.clone(),
            pdu,
        }))
    }
}
