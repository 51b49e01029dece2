//! The receipts extension: of a room that is new to the client the receipts of what it is shown, and its
//! own user's (MSC3960); then what moves.

use std::collections::HashSet;

use hearth_users::ReceiptEntry;
use ruma::{EventId, OwnedRoomId, events::receipt::ReceiptThread};

use super::{
    connection::{Draft, Stage},
    extensions::event,
    pass::Look,
    request::Scope,
    view::{InView, View},
};
use crate::{
    SyncError,
    ephemeral::{contents, shown_receipts},
};

impl Look<'_> {
    pub(crate) async fn receipts(
        &self,
        scope: &Scope,
        view: &View<'_>,
        draft: &mut Draft,
    ) -> Result<Vec<(OwnedRoomId, Vec<u8>)>, SyncError> {
        let mut told = Vec::new();
        for room in self.covered(scope, view).filter(|room| room.stage == Stage::Joined) {
            let Some(known) = draft.known(self.base, &room.topic).map(|sent| sent.receipts) else {
                continue;
            };
            let entries = match known {
                Some(since) if !self.changed_since(room.room_id, &room.topic, since) => continue,
                Some(since) => {
                    let (users, until) = (&self.inner.users, self.until);
                    let changes = users.receipt_changes(room.room_id, self.user_id, since, until);
                    changes.await?
                }
                None => self.first_receipts(room, draft).await?,
            };
            if let Some(sent) = draft.room(self.base, &room.topic) {
                sent.receipts = Some(self.until);
            }
            let large = self.is_large(room.room_id).await?;
            let mut entries = shown_receipts(self.user_id, &self.ignored, entries, large);
            self.inner.keep_own_deliveries(self.user_id, room.room_id, &mut entries).await?;
            // One event is all that a room has here: where a user has several receipts for one event,
            // the one that is not of a thread speaks for all of them.
            entries.sort_by_key(|entry| entry.thread != ReceiptThread::Unthreaded);
            if let Some(content) = contents(entries).first() {
                told.push((room.room_id.to_owned(), event("m.receipt", content)));
            }
        }
        Ok(told)
    }

    async fn first_receipts(
        &self,
        room: &InView<'_>,
        draft: &Draft,
    ) -> Result<Vec<ReceiptEntry>, SyncError> {
        let users = &self.inner.users;
        let mut entries = users.own_receipts(room.room_id, self.user_id).await?;
        entries.retain(|entry| entry.position <= self.until);
        if self.is_large(room.room_id).await? {
            return Ok(entries);
        }
        // A room that was sent before, without receipts: what it showed then is not known any more. With
        // them: what is lacking are those of older events that are shown now, and what has moved.
        let sent = self.base.rooms.get(&room.topic).filter(|sent| sent.stage == Stage::Joined);
        let since = sent.and_then(|sent| sent.receipts);
        let shown = draft.shown.get(&room.topic).filter(|_| sent.is_none() || since.is_some());
        let shown: Option<HashSet<&EventId>> =
            shown.map(|events| events.iter().map(|id| &**id).collect());
        let others = users.receipts(room.room_id, self.user_id, self.until).await?.into_iter();
        let is_shown = |entry: &ReceiptEntry| {
            since.is_some_and(|since| entry.position > since)
                || shown.as_ref().is_none_or(|shown| shown.contains(&*entry.event_id))
        };
        entries.extend(others.filter(|e| e.user_id != self.user_id && is_shown(e)));
        Ok(entries)
    }
}
