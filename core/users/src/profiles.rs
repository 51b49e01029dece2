//! Profiles: display name, avatar and any other field (CS "Profiles").

use hearth_storage::{Commit, Keyspace, postcard_record};
use ruma::{CanonicalJsonValue, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{LogKind, Users, UsersError, log::user_entry};

pub(crate) const PROFILES: Keyspace<OwnedUserId, (), ProfileRow> = Keyspace::new("profiles");

/// A whole profile in canonical JSON.
const MAX_PROFILE_BYTES: usize = 64 * 1024;
/// The key of a field.
const MAX_KEY_BYTES: usize = 255;
/// Display name and avatar go into every member event, which must stay far below the limit of events.
const MAX_MEMBER_FIELD_BYTES: usize = 4 * 1024;

/// The whole profile as canonical JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProfileRow {
    pub(crate) json: String,
}
postcard_record!(ProfileRow, version = 1);

/// A user's profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// All fields by key.
    pub fields: Map<String, Value>,
}

impl Profile {
    /// The display name, if there is one.
    #[must_use]
    pub fn display_name(&self) -> Option<&str> {
        self.fields.get("displayname").and_then(Value::as_str)
    }

    /// The avatar's URL, if there is one.
    #[must_use]
    pub fn avatar_url(&self) -> Option<&str> {
        self.fields.get("avatar_url").and_then(Value::as_str)
    }
}

/// What a change did to a profile, for whoever tells the rooms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileChange {
    /// Is anything different from before? If not, nothing was written.
    pub changed: bool,
    /// Must member events of the user's rooms follow (display name or avatar)?
    pub concerns_members: bool,
    /// The profile as it is now.
    pub profile: Profile,
}

impl Profile {
    fn from_row(row: &ProfileRow) -> Result<Self, UsersError> {
        serde_json::from_str(&row.json)
            .map(|fields| Self { fields })
            .map_err(|error| UsersError::Internal(format!("a stored profile: {error}")))
    }

    fn to_row(&self) -> Result<ProfileRow, UsersError> {
        let fields = self.fields.clone();
        let canonical = CanonicalJsonValue::try_from(Value::Object(fields)).map_err(|_| {
            UsersError::InvalidProfileValue("numbers must be integers of at most 53 bits")
        })?;
        let json = canonical.to_string();
        if json.len() > MAX_PROFILE_BYTES {
            return Err(UsersError::ProfileTooLarge);
        }
        Ok(ProfileRow { json })
    }
}

/// The profile of a new account.
pub(crate) fn initial_profile(display_name: &str) -> Result<ProfileRow, UsersError> {
    let mut profile = Profile::default();
    let name = Value::from(display_name);
    check_value("displayname", &name)?;
    profile.fields.insert("displayname".to_owned(), name);
    profile.to_row()
}

/// The grammar of keys: Appendices "Common Namespaced Identifier Grammar", at most 255 bytes.
fn check_key(key: &str) -> Result<(), UsersError> {
    if key.len() > MAX_KEY_BYTES {
        return Err(UsersError::ProfileKeyTooLarge);
    }
    if !key.starts_with(|first: char| first.is_ascii_lowercase()) {
        return Err(UsersError::InvalidProfileKey("keys start with a small letter"));
    }
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    if !key.bytes().all(allowed) {
        return Err(UsersError::InvalidProfileKey("keys hold a-z, 0-9 and ._- only"));
    }
    Ok(())
}

fn check_value(key: &str, value: &Value) -> Result<(), UsersError> {
    if !matches!(key, "displayname" | "avatar_url" | "m.tz") {
        return Ok(());
    }
    let Some(text) = value.as_str() else {
        return Err(UsersError::InvalidProfileValue("it must be a string"));
    };
    if key != "m.tz" && text.len() > MAX_MEMBER_FIELD_BYTES {
        return Err(UsersError::InvalidProfileValue("it is too long to stand in member events"));
    }
    Ok(())
}

impl Users {
    /// A local user's profile; `None` if there is no such account or it is deactivated.
    pub async fn profile(&self, user_id: &UserId) -> Result<Option<Profile>, UsersError> {
        let row = self.store().get(&PROFILES, &user_id.to_owned(), &()).await?;
        row.as_ref().map(Profile::from_row).transpose()
    }

    /// Sets a field. `displayname`, `avatar_url` and `m.tz` must be strings.
    pub async fn set_profile_field(
        &self,
        user_id: &UserId,
        key: &str,
        value: Value,
    ) -> Result<ProfileChange, UsersError> {
        check_key(key)?;
        check_value(key, &value)?;
        self.change_profile(user_id, key, Some(value)).await
    }

    /// Removes a field; removing what is not there is no error.
    pub async fn delete_profile_field(
        &self,
        user_id: &UserId,
        key: &str,
    ) -> Result<ProfileChange, UsersError> {
        check_key(key)?;
        self.change_profile(user_id, key, None).await
    }

    async fn change_profile(
        &self,
        user_id: &UserId,
        key: &str,
        value: Option<Value>,
    ) -> Result<ProfileChange, UsersError> {
        let key = key.to_owned();
        self.exclusive(user_id, move |users, user_id| async move {
            // Every active account has a profile row: creation and deactivation see to it.
            let profile = users.profile(&user_id).await?;
            let mut profile = profile.ok_or(UsersError::UserNotFound)?;
            if profile.fields.get(&key) == value.as_ref() {
                return Ok(ProfileChange { changed: false, concerns_members: false, profile });
            }
            match value {
                Some(value) => profile.fields.insert(key.clone(), value),
                None => profile.fields.remove(&key),
            };
            let mut commit = Commit::new(&user_id);
            commit.put(&PROFILES, &user_id, &(), &profile.to_row()?);
            let position = commit.next_position();
            commit.log(position, user_entry(LogKind::Profile, &user_id, key.as_bytes()));
            users.store().commit(commit).await?;
            let concerns_members = matches!(&*key, "displayname" | "avatar_url");
            if concerns_members {
                let (name, avatar) = (profile.display_name(), profile.avatar_url());
                users.inner.directory.write().put(&user_id, name, avatar);
            }
            Ok(ProfileChange { changed: true, concerns_members, profile })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::users::testing::Bench;

    #[tokio::test]
    async fn a_profile_begins_with_the_user_name() {
        let bench = Bench::new().await;
        let alice = bench.user("alice").await;
        let profile = bench.users.profile(&alice).await.unwrap().unwrap();
        assert_eq!(Value::Object(profile.fields), json!({"displayname": "alice"}));
        let nobody = bench.users.check_username("nobody").unwrap();
        assert_eq!(bench.users.profile(&nobody).await.unwrap(), None);
        let result = bench.users.set_profile_field(&nobody, "m.tz", json!("UTC")).await;
        assert!(matches!(result, Err(UsersError::UserNotFound)));
    }

    #[tokio::test]
    async fn changes_say_whom_they_concern() {
        let bench = Bench::new().await;
        let alice = bench.user("alice").await;
        let set = async |key: &str, value: Value| {
            let change = bench.users.set_profile_field(&alice, key, value).await.unwrap();
            (change.changed, change.concerns_members)
        };
        assert_eq!(set("displayname", json!("alice")).await, (false, false));
        assert_eq!(set("displayname", json!("Alice")).await, (true, true));
        assert_eq!(set("avatar_url", json!("mxc://hearth.test/a")).await, (true, true));
        assert_eq!(set("m.tz", json!("Europe/Berlin")).await, (true, false));
        assert_eq!(set("org.example.pets", json!({"cats": 2})).await, (true, false));
        let gone = bench.users.delete_profile_field(&alice, "displayname").await.unwrap();
        assert!(gone.changed && gone.concerns_members);
        let gone = bench.users.delete_profile_field(&alice, "displayname").await.unwrap();
        assert!(!gone.changed);
        let bench = bench.reopen().await;
        let profile = bench.users.profile(&alice).await.unwrap().unwrap();
        assert_eq!(
            Value::Object(profile.fields),
            json!({
                "avatar_url": "mxc://hearth.test/a",
                "m.tz": "Europe/Berlin",
                "org.example.pets": {"cats": 2},
            })
        );
    }

    #[tokio::test]
    async fn keys_values_and_size_are_checked() {
        let bench = Bench::new().await;
        let alice = bench.user("alice").await;
        let set = async |key: &str, value: Value| {
            bench.users.set_profile_field(&alice, key, value).await.unwrap_err()
        };
        for key in ["", "Upper", "1st", "a b", "ä"] {
            let error = set(key, json!(1)).await;
            assert!(matches!(error, UsersError::InvalidProfileKey(_)), "{key}");
        }
        let long = "k".repeat(256);
        assert!(matches!(set(&long, json!(1)).await, UsersError::ProfileKeyTooLarge));
        for (key, value) in
            [("displayname", json!(7)), ("avatar_url", json!(null)), ("x", json!(1.5))]
        {
            let error = set(key, value).await;
            assert!(matches!(error, UsersError::InvalidProfileValue(_)), "{key}");
        }
        let half = "x".repeat(MAX_PROFILE_BYTES / 2);
        bench.users.set_profile_field(&alice, "one", json!(half)).await.unwrap();
        assert!(matches!(set("two", json!(half)).await, UsersError::ProfileTooLarge));
        let profile = bench.users.profile(&alice).await.unwrap().unwrap();
        assert!(!profile.fields.contains_key("two"));
    }
}
