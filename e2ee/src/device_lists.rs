//! Whose devices or cross-signing keys changed when: one row for each user, however many rooms they are
//! in.

use std::ops::Bound;

use bytes::Bytes;
use hearth_rooms::schema::Membership;
use hearth_storage::{Commit, Direction, LogEntry, Snapshot, Topic};
use hearth_types::StreamPosition;
use ruma::{DeviceId, OwnedRoomId, OwnedUserId, UserId};

use crate::{
    DeviceListLog, E2ee, E2eeError, LogKind,
    log::Before,
    schema::{DEVICE_LIST_CHANGES, DEVICE_LISTS, DEVICE_VERSIONS, ListChangeRow},
};

/// Rooms that are woken when a list changed. Who shares only others learns of it with their next sync.
const MAX_ROOMS_WOKEN: usize = 10_000;
/// Changes that are read inline, which are all in most cases.
const INLINE_CHANGES: usize = 100;
/// Changes that are read at a time when there are more. (Tests go through several in less time.)
const CHANGES_AT_ONCE: usize = if cfg!(test) { 150 } else { 5_000 };

/// The topic that changes with a user's queues and counts of keys. It is not the user's own topic, whose
/// changes make sync look at much more.
#[must_use]
pub fn user_topic(user_id: &UserId) -> Topic {
    Topic::new(&format!("{user_id}/e2ee"))
}

/// The topic that changes with anybody's list.
pub(crate) fn lists_topic() -> Topic {
    Topic::new("device-lists")
}

impl E2ee {
    /// Adds to a commit of this user's, in their turn, that their list changed: `device_id`, or their
    /// cross-signing keys. For users of this server, other servers will be told. After the commit call
    /// [`Self::announce_list`]. Once for each commit: see [`Self::note_list_changes`].
    pub(crate) async fn note_list_change(
        &self,
        commit: &mut Commit,
        user_id: &UserId,
        device_id: Option<&DeviceId>,
    ) -> Result<(), E2eeError> {
        self.note_list_changes(commit, user_id, &[device_id]).await
    }

    /// The same for several changes in one commit, in their order.
    pub(crate) async fn note_list_changes(
        &self,
        commit: &mut Commit,
        user_id: &UserId,
        changes: &[Option<&DeviceId>],
    ) -> Result<(), E2eeError> {
        if changes.is_empty() {
            return Ok(());
        }
        let owner = user_id.to_owned();
        let previous = self.store().get(&DEVICE_LISTS, &owner, &()).await?;
        let version = self.store().get(&DEVICE_VERSIONS, &owner, &()).await?;
        let mut before = version.map_or(Before::Nothing, |position| Before::At(position.get()));
        let mut position = commit.next_position();
        for (number, device_id) in changes.iter().enumerate() {
            if number > 0 {
                position = commit.next_position();
            }
            if self.identity().is_local(user_id) {
                log_change(commit, position, user_id, *device_id, before)?;
                if device_id.is_some() {
                    commit.put(&DEVICE_VERSIONS, &owner, &(), &position);
                }
            }
            before = match (device_id, before) {
                (Some(_), _) => Before::Back(1),
                (None, Before::Back(distance)) => Before::Back(distance + 1),
                (None, before) => before,
            };
        }
        if let Some(previous) = previous {
            commit.effect_delete(&DEVICE_LIST_CHANGES, &(), &previous);
        }
        commit.effect_put(&DEVICE_LIST_CHANGES, &(), &position, &ListChangeRow(owner.clone()));
        commit.put(&DEVICE_LISTS, &owner, &(), &position);
        commit.touch(lists_topic());
        Ok(())
    }

    /// Wakes those who share a room with this user, and the user's own devices.
    pub(crate) async fn announce_list(&self, user_id: &UserId) {
        let notifier = self.store().notifier();
        notifier.poke(&user_topic(user_id));
        notifier.poke(&Topic::new(user_id.as_str()));
        match self.rooms_to_wake(user_id).await {
            Ok(room_ids) => {
                for room_id in room_ids {
                    notifier.poke(&Topic::new(room_id.as_str()));
                }
            }
            // They learn of it whenever they sync next.
            Err(error) => {
                tracing::warn!(%error, %user_id, "nobody is woken for a changed device list");
            }
        }
    }

    async fn rooms_to_wake(&self, user_id: &UserId) -> Result<Vec<OwnedRoomId>, E2eeError> {
        if !self.identity().is_local(user_id) {
            return Ok(self.rooms().rooms_of_remote_user(user_id, MAX_ROOMS_WOKEN).await?);
        }
        let rows = self.rooms().user_rooms(user_id).await?.into_iter();
        let joined = rows.filter(|(_, row)| row.details.membership == Membership::Join);
        Ok(joined.map(|(room_id, _)| room_id).take(MAX_ROOMS_WOKEN).collect())
    }

    /// The users whose lists changed after `since` and up to `until`, whoever they are: each once, at their
    /// last change. Costs nothing if none did.
    pub async fn changed_lists(
        &self,
        since: StreamPosition,
        until: StreamPosition,
    ) -> Result<Vec<OwnedUserId>, E2eeError> {
        if since >= until || !self.store().notifier().changed_since(&lists_topic(), since) {
            return Ok(Vec::new());
        }
        let (mut users, mut after, mut limit) = (Vec::new(), since, INLINE_CHANGES);
        loop {
            let range = (Bound::Excluded(after), Bound::Included(until));
            let page = move |view: &Snapshot| {
                view.page(&DEVICE_LIST_CHANGES, &(), range, Direction::Forward, limit)
            };
            let rows = match limit {
                INLINE_CHANGES => page(&self.store().snapshot())?,
                _ => self.store().bulk(page).await?,
            };
            let last = rows.last().map(|(position, _)| *position);
            let is_full = rows.len() >= limit;
            users.extend(rows.into_iter().map(|(_, row)| row.0));
            match last {
                Some(last) if is_full && last < until => after = last,
                _ => return Ok(users),
            }
            limit = CHANGES_AT_ONCE;
        }
    }
}

fn log_change(
    commit: &mut Commit,
    position: StreamPosition,
    user_id: &UserId,
    device_id: Option<&DeviceId>,
    before: Before,
) -> Result<(), E2eeError> {
    let log = DeviceListLog::new(device_id.map(ToOwned::to_owned), before);
    let payload =
        serde_json::to_vec(&log).map_err(|error| E2eeError::Internal(error.to_string()))?;
    let entry = LogEntry {
        kind: LogKind::DeviceList as u8,
        topic: Topic::new(user_id.as_str()),
        payload: Bytes::from(payload),
    };
    commit.log(position, entry);
    Ok(())
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::testing::Bench;

    /// Commits changes of a user's list; returns when.
    async fn change(
        bench: &Bench,
        user_id: &UserId,
        changes: &[Option<&DeviceId>],
    ) -> StreamPosition {
        let mut commit = Commit::new(&user_id.to_owned());
        bench.e2ee.note_list_changes(&mut commit, user_id, changes).await.unwrap();
        bench.store.commit(commit).await.unwrap().last
    }

    async fn changed(bench: &Bench, since: StreamPosition) -> Vec<OwnedUserId> {
        let until = bench.store.notifier().published();
        bench.e2ee.changed_lists(since, until).await.unwrap()
    }

    async fn logged(bench: &Bench, after: StreamPosition) -> Vec<(u64, DeviceListLog)> {
        let records = bench.store.log_after(after, 100).await.unwrap();
        let lists =
            records.into_iter().filter(|record| record.entry.kind == LogKind::DeviceList as u8);
        let read = |record: hearth_storage::LogRecord| {
            (record.position.get(), serde_json::from_slice(&record.entry.payload).unwrap())
        };
        lists.map(read).collect()
    }

    #[tokio::test]
    async fn each_user_has_one_row_at_their_last_change() {
        let bench = Bench::new().await;
        let (alice, bob) = (user_id!("@alice:hearth.test"), user_id!("@bob:elsewhere.test"));
        let start = bench.store.notifier().published();
        let first = change(&bench, alice, &[None]).await;
        assert_eq!(changed(&bench, start).await, [alice]);
        assert!(changed(&bench, first).await.is_empty());
        let second = change(&bench, bob, &[Some("DEVICE".into())]).await;
        let third = change(&bench, alice, &[None]).await;
        assert_eq!(changed(&bench, start).await, [bob, alice]);
        assert_eq!(changed(&bench, second).await, [alice]);
        assert!(changed(&bench, third).await.is_empty());
        assert_eq!(bench.e2ee.changed_lists(first, second).await.unwrap(), [bob]);
        assert!(bench.e2ee.changed_lists(third, first).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn many_changes_are_all_told() {
        let bench = Bench::new().await;
        let start = bench.store.notifier().published();
        let users: Vec<OwnedUserId> =
            (0..450).map(|n| format!("@u{n}:elsewhere.test").try_into().unwrap()).collect();
        for user_id in &users {
            change(&bench, user_id, &[None]).await;
        }
        assert_eq!(changed(&bench, start).await, users);
    }

    #[tokio::test]
    async fn other_servers_are_told_of_this_servers_users_with_the_change_before() {
        let bench = Bench::new().await;
        let (alice, bob) = (user_id!("@alice:hearth.test"), user_id!("@bob:elsewhere.test"));
        let start = bench.store.notifier().published();
        let (one, two): (&DeviceId, &DeviceId) = ("ONE".into(), "TWO".into());
        let first = change(&bench, alice, &[Some(one)]).await.get();
        change(&bench, bob, &[None]).await;
        let last = change(&bench, alice, &[Some(one), Some(two), None]).await.get();
        // Cross-signing keys have no version that a device could follow.
        change(&bench, alice, &[None]).await;
        let after = change(&bench, alice, &[Some(one), None, Some(two)]).await.get();
        let logged = logged(&bench, start).await;
        let seen: Vec<_> = logged
            .iter()
            .filter(|(_, log)| log.device_id.is_some())
            .map(|(position, log)| {
                (*position, log.device_id.as_deref(), log.previous(StreamPosition::new(*position)))
            })
            .collect();
        assert_eq!(
            seen,
            [
                (first, Some(one), None),
                (last - 2, Some(one), Some(first)),
                (last - 1, Some(two), Some(last - 2)),
                (after - 2, Some(one), Some(last - 1)),
                (after, Some(two), Some(after - 2)),
            ]
        );
    }
}
