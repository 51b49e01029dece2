//! Pushers: set, listed, deleted (CS "Push Notifications").

use std::sync::Arc;

use hearth_storage::{Commit, Keyspace, postcard_record};
use hearth_types::StreamPosition;
use ruma::{
    DeviceId, OwnedDeviceId, OwnedUserId, UserId,
    api::client::push::{Pusher, PusherIds, PusherInit, PusherKind},
    push::{HttpPusherData, PushFormat},
    serde::JsonObject,
};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{Push, PushError, registry::Entry, service::Inner};

/// The kind of pusher that this server has.
pub const KIND_HTTP: &str = "http";
/// The path that a gateway's URL must have.
pub const NOTIFY_PATH: &str = "/_matrix/push/v1/notify";

/// Pushers by (application, pushkey).
pub(crate) const PUSHERS: Keyspace<OwnedUserId, (String, String), PusherRow> =
    Keyspace::new("pushers");
/// How far they got; there is a row for each pusher.
pub(crate) const PROGRESS: Keyspace<OwnedUserId, (String, String), ProgressRow> =
    Keyspace::new("pusher_progress");

/// Pushers of one user: one for each of some dozen devices. All of them fit into the commit that ends devices.
pub(crate) const MAX_PUSHERS: usize = 50;
/// The longest application ID in bytes (`pusher.yaml`).
const MAX_APP_ID_BYTES: usize = 64;
/// The longest pushkey in bytes (`pusher.yaml`).
const MAX_PUSHKEY_BYTES: usize = 512;
/// The longest display name, language or profile tag in bytes: what is meant for people is shorter.
const MAX_TEXT_BYTES: usize = 512;
/// The longest URL in bytes, as web servers have it.
const MAX_URL_BYTES: usize = 2_048;
/// What a pusher may have besides, as JSON, in bytes: it goes into every notification.
const MAX_DATA_BYTES: usize = 4_096;

/// The row of [`PUSHERS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PusherRow {
    /// The device that set it: it goes with that.
    pub(crate) device_id: OwnedDeviceId,
    pub(crate) app_display_name: String,
    pub(crate) device_display_name: String,
    pub(crate) profile_tag: Option<String>,
    pub(crate) lang: String,
    pub(crate) url: String,
    pub(crate) format: Option<String>,
    /// The rest of `data`: a JSON object.
    pub(crate) data: String,
    /// When it was last set, in milliseconds.
    pub(crate) set_ms: u64,
}
postcard_record!(PusherRow, version = 1);

/// The row of [`PROGRESS`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProgressRow {
    /// Everything up to here was delivered, or was not to be.
    pub(crate) delivered: StreamPosition,
    /// The log is not held for this pusher: it catches up from its user's rooms.
    pub(crate) is_behind: bool,
    /// Failures in a row.
    pub(crate) failures: u32,
    /// When it is due again, in milliseconds.
    pub(crate) retry_ms: u64,
    /// The unread count that was sent last.
    pub(crate) badge: Option<u64>,
}
postcard_record!(ProgressRow, version = 1);

/// A pusher as a client wants it, checked.
#[derive(Clone, Debug)]
pub struct NewPusher {
    pub(crate) app_id: String,
    pub(crate) pushkey: String,
    row: PusherRow,
}

impl NewPusher {
    /// Checks what a client asks for. Without TLS gateways are refused unless `allow_http`.
    ///
    /// # Errors
    ///
    /// [`PushError::InvalidParam`] for another kind than `http`, or a value that is empty, too long, or not
    /// what it must be.
    pub fn check(
        pusher: Pusher,
        device_id: &DeviceId,
        now_ms: u64,
        allow_http: bool,
    ) -> Result<Self, PushError> {
        let Pusher { ids, kind, app_display_name, device_display_name, profile_tag, lang, .. } =
            pusher;
        let data = match kind {
            PusherKind::Http(data) => data,
            PusherKind::Email(_) => return Err(invalid("kind: this server sends no e-mail")),
            _ => return Err(invalid("kind: must be http or null")),
        };
        check_text("app_id", &ids.app_id, MAX_APP_ID_BYTES)?;
        check_text("pushkey", &ids.pushkey, MAX_PUSHKEY_BYTES)?;
        for (field, text) in [
            ("app_display_name", &app_display_name),
            ("device_display_name", &device_display_name),
            ("lang", &lang),
        ] {
            check_length(field, text, MAX_TEXT_BYTES)?;
        }
        check_length("profile_tag", profile_tag.as_deref().unwrap_or_default(), MAX_TEXT_BYTES)?;
        check_url(&data.url, allow_http)?;
        let format = data.format.as_ref().map(|format| format.as_str().to_owned());
        check_length("data.format", format.as_deref().unwrap_or_default(), MAX_TEXT_BYTES)?;
        let rest = serde_json::to_string(&data.data).map_err(|_| invalid("data: no JSON"))?;
        check_length("data", &rest, MAX_DATA_BYTES)?;
        let row = PusherRow {
            device_id: device_id.to_owned(),
            app_display_name,
            device_display_name,
            profile_tag,
            lang,
            url: data.url,
            format,
            data: rest,
            set_ms: now_ms,
        };
        Ok(Self { app_id: ids.app_id, pushkey: ids.pushkey, row })
    }
}

fn invalid(why: impl Into<String>) -> PushError {
    PushError::InvalidParam(why.into())
}

fn check_length(field: &str, text: &str, max: usize) -> Result<(), PushError> {
    if text.len() > max {
        return Err(invalid(format!("{field}: has more than {max} bytes")));
    }
    Ok(())
}

fn check_text(field: &str, text: &str, max: usize) -> Result<(), PushError> {
    if text.is_empty() || text.contains('\0') {
        return Err(invalid(format!("{field}: must not be empty")));
    }
    check_length(field, text, max)
}

fn check_url(text: &str, allow_http: bool) -> Result<(), PushError> {
    check_length("data.url", text, MAX_URL_BYTES)?;
    let url = Url::parse(text).map_err(|error| invalid(format!("data.url: {error}")))?;
    match url.scheme() {
        "https" => {}
        "http" if allow_http => {}
        _ => return Err(invalid("data.url: must be an HTTPS URL")),
    }
    if url.path() != NOTIFY_PATH {
        return Err(invalid(format!("data.url: its path must be {NOTIFY_PATH}")));
    }
    if !url.username().is_empty() || url.password().is_some() || url.host_str().is_none() {
        return Err(invalid("data.url: must have a host, and no name or password"));
    }
    Ok(())
}

impl PusherRow {
    /// Wants the gateway to be told which event it is, and no more?
    pub(crate) fn event_id_only(&self) -> bool {
        self.format.as_deref() == Some(PushFormat::EventIdOnly.as_str())
    }

    /// The rest of `data`.
    pub(crate) fn further_data(&self) -> JsonObject {
        serde_json::from_str(&self.data).unwrap_or_default()
    }
}

impl Entry {
    /// As clients see it.
    fn shown(&self) -> Pusher {
        let row = self.row();
        let mut data = HttpPusherData::new(row.url.clone());
        data.format = row.format.clone().map(PushFormat::from);
        data.data = row.further_data();
        PusherInit {
            ids: PusherIds::new(self.key.1.clone(), self.key.0.clone()),
            kind: PusherKind::Http(data),
            app_display_name: row.app_display_name.clone(),
            device_display_name: row.device_display_name.clone(),
            profile_tag: row.profile_tag.clone(),
            lang: row.lang.clone(),
        }
        .into()
    }
}

impl Push {
    /// The user's pushers, in the order in which they were made.
    #[must_use]
    pub fn pushers(&self, user_id: &UserId) -> Vec<Pusher> {
        self.inner.registry.of_user(user_id).iter().map(|entry| entry.shown()).collect()
    }

    /// Makes a pusher, or changes the one of this application and pushkey: it goes on from where it was, at
    /// once if its gateway failed. Unless `append`, other users' pushers of the same application and pushkey
    /// are deleted: somebody else uses the device now.
    pub async fn set_pusher(
        &self,
        user_id: &UserId,
        new: NewPusher,
        append: bool,
    ) -> Result<(), PushError> {
        let key = (new.app_id.clone(), new.pushkey.clone());
        let (inner, owner) = (Arc::clone(&self.inner), user_id.to_owned());
        self.inner.parts.users.in_turn(user_id, move || inner.write_pusher(owner, new)).await?;
        if !append {
            for other in self.inner.registry.users_with(&key) {
                if other != user_id {
                    self.delete_pusher(&other, &key.0, &key.1).await?;
                }
            }
        }
        Ok(())
    }

    /// Deletes a pusher; one that is not there is gone already.
    pub async fn delete_pusher(
        &self,
        user_id: &UserId,
        app_id: &str,
        pushkey: &str,
    ) -> Result<(), PushError> {
        let (inner, owner) = (Arc::clone(&self.inner), user_id.to_owned());
        let key = (app_id.to_owned(), pushkey.to_owned());
        self.inner
            .parts
            .users
            .in_turn(user_id, move || async move {
                let Some(entry) = inner.registry.find(&owner, &key) else { return Ok(()) };
                let mut commit = Commit::new(&owner);
                add_deletion(&mut commit, &entry);
                inner.parts.store.commit(commit).await?;
                inner.forget(&entry).await
            })
            .await
    }
}

/// Adds to a commit of the user that a pusher goes; then call [`Inner::forget`], still in the user's turn.
pub(crate) fn add_deletion(commit: &mut Commit, entry: &Entry) {
    commit.delete(&PUSHERS, &entry.user_id, &entry.key);
    commit.delete(&PROGRESS, &entry.user_id, &entry.key);
}

impl Inner {
    /// In the user's turn.
    async fn write_pusher(
        self: Arc<Self>,
        user_id: OwnedUserId,
        new: NewPusher,
    ) -> Result<(), PushError> {
        let NewPusher { app_id, pushkey, row } = new;
        let key = (app_id, pushkey);
        let known = self.registry.find(&user_id, &key);
        if known.is_none() && self.registry.of_user(&user_id).len() >= MAX_PUSHERS {
            return Err(PushError::TooMany);
        }
        // What happened before is not pushed.
        let delivered = self.parts.store.notifier().published();
        let progress = ProgressRow { delivered, ..ProgressRow::default() };
        let mut commit = Commit::new(&user_id);
        commit.put(&PUSHERS, &user_id, &key, &row);
        if known.is_none() {
            commit.put(&PROGRESS, &user_id, &key, &progress);
        }
        self.parts.store.commit(commit).await?;
        let Some(entry) = known else {
            self.registry.insert(user_id, key, row, progress);
            return Ok(());
        };
        entry.update(row);
        if entry.progress().failures > 0 {
            let again = self.advance(&entry, |progress| {
                progress.failures = 0;
                progress.retry_ms = 0;
            });
            again.await?;
            self.retry_now(&entry);
        }
        Ok(())
    }

    /// Writes how far a pusher got: applied when this returns, synced soon after. Was it still there? Not in its user's turn,
    /// which other changes of the user wait for: two changes of one pusher's progress are kept apart by the pusher's own.
    pub(crate) async fn advance(
        &self,
        entry: &Arc<Entry>,
        change: impl FnOnce(&mut ProgressRow),
    ) -> Result<bool, PushError> {
        let _turn = entry.turn.lock().await;
        if entry.is_gone() {
            return Ok(false);
        }
        let mut progress = entry.progress();
        change(&mut progress);
        self.book.write(entry, progress.clone()).await?;
        entry.set_progress(progress);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use ruma::api::client::push::EmailPusherData;

    use super::*;

    fn pusher(url: &str, kind: Option<PusherKind>) -> Pusher {
        PusherInit {
            ids: PusherIds::new("key".to_owned(), "app".to_owned()),
            kind: kind.unwrap_or(PusherKind::Http(HttpPusherData::new(url.to_owned()))),
            app_display_name: "App".to_owned(),
            device_display_name: "Phone".to_owned(),
            profile_tag: None,
            lang: "en".to_owned(),
        }
        .into()
    }

    fn check(pusher: Pusher, allow_http: bool) -> Result<NewPusher, PushError> {
        NewPusher::check(pusher, "DEVICE".into(), 1, allow_http)
    }

    #[test]
    fn gateways_are_https_at_the_path_of_the_specification() {
        let good = "https://push.example/_matrix/push/v1/notify";
        assert!(check(pusher(good, None), false).is_ok());
        for bad in [
            "",
            "push.example",
            "https://push.example/",
            "https://push.example/_matrix/push/v1/notify/",
            "https://push.example/_matrix/push/v1/../v1/notify/x",
            "https://me:secret@push.example/_matrix/push/v1/notify",
            "http://push.example/_matrix/push/v1/notify",
            "file:///_matrix/push/v1/notify",
            "gopher://push.example/_matrix/push/v1/notify",
        ] {
            let refused = check(pusher(bad, None), false);
            assert!(matches!(refused, Err(PushError::InvalidParam(_))), "{bad}");
        }
        assert!(check(pusher("http://push.example/_matrix/push/v1/notify", None), true).is_ok());
    }

    #[test]
    fn other_kinds_and_long_values_are_refused() {
        let good = "https://push.example/_matrix/push/v1/notify";
        let email = PusherKind::Email(EmailPusherData::new());
        assert!(matches!(check(pusher("", Some(email)), false), Err(PushError::InvalidParam(_))));
        let mut long_app = pusher(good, None);
        long_app.ids.app_id = "a".repeat(65);
        let mut long_key = pusher(good, None);
        long_key.ids.pushkey = "a".repeat(513);
        let mut no_key = pusher(good, None);
        no_key.ids.pushkey = String::new();
        let mut long_name = pusher(good, None);
        long_name.app_display_name = "a".repeat(513);
        let mut data = HttpPusherData::new(good.to_owned());
        data.data.insert("x".to_owned(), "a".repeat(5_000).into());
        let much_data = pusher(good, Some(PusherKind::Http(data)));
        for bad in [long_app, long_key, no_key, long_name, much_data] {
            assert!(matches!(check(bad, false), Err(PushError::InvalidParam(_))));
        }
    }
}
