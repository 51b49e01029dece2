//! Whole backups on their way to clients, a page at a time: a user's may be as large as the memory of a
//! small server.

use std::future::ready;

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use hearth_e2ee::{BackupPage, E2ee};
use hearth_http::{MatrixError, RawResponse};
use ruma::{OwnedRoomId, OwnedUserId};
use serde::Serialize;

use super::shown;
use crate::{ApiError, ClientApi};

/// The keys of a version, or of a room in it.
pub(super) async fn answer(
    app: &ClientApi,
    user_id: OwnedUserId,
    version: String,
    room_id: Option<OwnedRoomId>,
) -> Result<RawResponse, ApiError> {
    let e2ee = app.e2ee().clone();
    let mut reader = Reader { e2ee, user_id, version, room_id, after: None, is_done: false };
    // What is wrong is told before the answer begins.
    let first = reader.next().await?;
    let body =
        if reader.is_done { Body::from(first) } else { Body::from_stream(parts(first, reader)) };
    let mut response = Response::new(body);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(RawResponse(response))
}

/// The parts of an answer. When one cannot be read, it is cut off, so that nobody takes it for whole.
fn parts(
    first: Bytes,
    reader: Reader,
) -> impl futures_util::Stream<Item = Result<Bytes, CutOff>> + Send + 'static {
    let rest = stream::try_unfold(reader, |mut reader| async move {
        if reader.is_done {
            return Ok(None);
        }
        match reader.next().await {
            Ok(part) => Ok(Some((part, reader))),
            Err(error) => {
                tracing::warn!(?error, "the answer with a backup is cut off");
                Err(CutOff)
            }
        }
    });
    stream::once(ready(Ok(first))).chain(rest)
}

/// Why there is no more of an answer.
#[derive(Debug, thiserror::Error)]
#[error("the rest of the backup could not be read")]
struct CutOff;

/// How far a backup was read and written.
struct Reader {
    e2ee: E2ee,
    user_id: OwnedUserId,
    version: String,
    /// Only this room's, without the level of rooms.
    room_id: Option<OwnedRoomId>,
    /// The last key that was written.
    after: Option<(OwnedRoomId, String)>,
    is_done: bool,
}

impl Reader {
    /// The next part of the JSON.
    async fn next(&mut self) -> Result<Bytes, ApiError> {
        let (room_id, after) = (self.room_id.as_deref(), self.after.clone());
        let page = self.e2ee.backup_page(&self.user_id, &self.version, room_id, after).await?;
        let BackupPage { keys, is_last } = page;
        let mut json = Vec::new();
        if self.after.is_none() {
            let start: &[u8] =
                if self.room_id.is_some() { br#"{"sessions":{"# } else { br#"{"rooms":{"# };
            json.extend_from_slice(start);
        }
        for (room_id, session_id, key) in keys {
            self.separate(&mut json, &room_id)?;
            write(&mut json, &session_id)?;
            json.push(b':');
            write(&mut json, &shown(&key))?;
            self.after = Some((room_id, session_id));
        }
        if is_last {
            if self.room_id.is_none() && self.after.is_some() {
                json.extend_from_slice(b"}}");
            }
            json.extend_from_slice(b"}}");
            self.is_done = true;
        }
        Ok(json.into())
    }

    /// Writes what stands before a session of this room.
    fn separate(&self, json: &mut Vec<u8>, room_id: &OwnedRoomId) -> Result<(), ApiError> {
        let before = self.after.as_ref().map(|(before, _)| before);
        if self.room_id.is_some() || before == Some(room_id) {
            json.extend(before.map(|_| b','));
            return Ok(());
        }
        if before.is_some() {
            json.extend_from_slice(b"}},");
        }
        write(json, room_id)?;
        json.extend_from_slice(br#":{"sessions":{"#);
        Ok(())
    }
}

fn write(json: &mut Vec<u8>, value: &impl Serialize) -> Result<(), ApiError> {
    Ok(serde_json::to_writer(json, value).map_err(|error| MatrixError::internal(&error))?)
}
