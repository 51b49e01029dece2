//! `/room_keys`: a user's key backup (CS "Server-side key backups").

mod stream;

use std::collections::BTreeMap;

use hearth_e2ee::{BackedUpKey, BackupKeys, BackupState, BackupVersion};
use hearth_http::{MatrixError, RawResponse, Ruma};
use ruma::{
    UInt,
    api::client::backup::{
        BackupAlgorithm, KeyBackupData, add_backup_keys, add_backup_keys_for_room,
        add_backup_keys_for_session, create_backup_version, delete_backup_keys,
        delete_backup_keys_for_room, delete_backup_keys_for_session, delete_backup_version,
        get_backup_info, get_backup_keys, get_backup_keys_for_room, get_backup_keys_for_session,
        get_latest_backup_info, update_backup_version,
    },
    serde::Raw,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{ApiError, ClientApi, LocalUser};

/// `POST /_matrix/client/*/room_keys/version`
pub(crate) async fn create(
    app: ClientApi,
    request: Ruma<create_backup_version::v3::Request, LocalUser>,
) -> Result<create_backup_version::v3::Response, ApiError> {
    let Description { algorithm, auth_data, .. } = algorithm_of(&request.algorithm)?;
    let user_id = request.identity.may_write()?.user_id();
    let version = app.e2ee().create_backup(user_id, algorithm, auth_data).await?;
    Ok(create_backup_version::v3::Response::new(version))
}

/// `GET /_matrix/client/*/room_keys/version`
pub(crate) async fn latest(
    app: ClientApi,
    request: Ruma<get_latest_backup_info::v3::Request, LocalUser>,
) -> Result<get_latest_backup_info::v3::Response, ApiError> {
    let backup = app.e2ee().backup(request.identity.user_id(), None).await?;
    let (algorithm, count) = (algorithm_shown(&backup)?, uint(backup.state.count));
    let BackupVersion { version, state, .. } = backup;
    Ok(get_latest_backup_info::v3::Response::new(algorithm, count, state.etag, version))
}

/// `GET /_matrix/client/*/room_keys/version/{version}`
pub(crate) async fn get(
    app: ClientApi,
    request: Ruma<get_backup_info::v3::Request, LocalUser>,
) -> Result<get_backup_info::v3::Response, ApiError> {
    let backup = app.e2ee().backup(request.identity.user_id(), Some(&request.version)).await?;
    let (algorithm, count) = (algorithm_shown(&backup)?, uint(backup.state.count));
    let BackupVersion { version, state, .. } = backup;
    Ok(get_backup_info::v3::Response::new(algorithm, count, state.etag, version))
}

/// `PUT /_matrix/client/*/room_keys/version/{version}`
pub(crate) async fn update(
    app: ClientApi,
    request: Ruma<update_backup_version::v3::Request, LocalUser>,
) -> Result<update_backup_version::v3::Response, ApiError> {
    let Description { algorithm, auth_data, version } = algorithm_of(&request.algorithm)?;
    if version.is_some_and(|version| version != request.version) {
        return Err(MatrixError::invalid_param("version: not the one of the path").into());
    }
    let user_id = request.identity.may_write()?.user_id();
    app.e2ee().update_backup(user_id, &request.version, &algorithm, auth_data).await?;
    Ok(update_backup_version::v3::Response::new())
}

/// `DELETE /_matrix/client/*/room_keys/version/{version}`
pub(crate) async fn delete(
    app: ClientApi,
    request: Ruma<delete_backup_version::v3::Request, LocalUser>,
) -> Result<delete_backup_version::v3::Response, ApiError> {
    app.e2ee().delete_backup(request.identity.user_id(), &request.version).await?;
    Ok(delete_backup_version::v3::Response::new())
}

/// `PUT /_matrix/client/*/room_keys/keys`
pub(crate) async fn add(
    app: ClientApi,
    request: Ruma<add_backup_keys::v3::Request, LocalUser>,
) -> Result<add_backup_keys::v3::Response, ApiError> {
    let mut keys = BackupKeys::new();
    for (room_id, room) in &request.rooms {
        keys.insert(room_id.clone(), sessions_of(&room.sessions)?);
    }
    let BackupState { count, etag } =
        store(&app, &request.identity, &request.version, keys).await?;
    Ok(add_backup_keys::v3::Response::new(etag, uint(count)))
}

/// `PUT /_matrix/client/*/room_keys/keys/{roomId}`
pub(crate) async fn add_room(
    app: ClientApi,
    request: Ruma<add_backup_keys_for_room::v3::Request, LocalUser>,
) -> Result<add_backup_keys_for_room::v3::Response, ApiError> {
    let keys = BTreeMap::from([(request.room_id.clone(), sessions_of(&request.sessions)?)]);
    let BackupState { count, etag } =
        store(&app, &request.identity, &request.version, keys).await?;
    Ok(add_backup_keys_for_room::v3::Response::new(etag, uint(count)))
}

/// `PUT /_matrix/client/*/room_keys/keys/{roomId}/{sessionId}`
pub(crate) async fn add_session(
    app: ClientApi,
    request: Ruma<add_backup_keys_for_session::v3::Request, LocalUser>,
) -> Result<add_backup_keys_for_session::v3::Response, ApiError> {
    let key = key_of(&request.session_data)?;
    let sessions = BTreeMap::from([(request.session_id.clone(), key)]);
    let keys = BTreeMap::from([(request.room_id.clone(), sessions)]);
    let BackupState { count, etag } =
        store(&app, &request.identity, &request.version, keys).await?;
    Ok(add_backup_keys_for_session::v3::Response::new(etag, uint(count)))
}

/// `GET /_matrix/client/*/room_keys/keys`
pub(crate) async fn keys(
    app: ClientApi,
    request: Ruma<get_backup_keys::v3::Request, LocalUser>,
) -> Result<RawResponse, ApiError> {
    let user_id = request.identity.user_id().to_owned();
    stream::answer(&app, user_id, request.body.version, None).await
}

/// `GET /_matrix/client/*/room_keys/keys/{roomId}`
pub(crate) async fn room_keys(
    app: ClientApi,
    request: Ruma<get_backup_keys_for_room::v3::Request, LocalUser>,
) -> Result<RawResponse, ApiError> {
    let user_id = request.identity.user_id().to_owned();
    let get_backup_keys_for_room::v3::Request { version, room_id, .. } = request.body;
    stream::answer(&app, user_id, version, Some(room_id)).await
}

/// `GET /_matrix/client/*/room_keys/keys/{roomId}/{sessionId}`
pub(crate) async fn session_key(
    app: ClientApi,
    request: Ruma<get_backup_keys_for_session::v3::Request, LocalUser>,
) -> Result<get_backup_keys_for_session::v3::Response, ApiError> {
    let (user_id, room_id) = (request.identity.user_id(), &request.room_id);
    let (version, session_id) = (&request.version, &request.session_id);
    let key = app.e2ee().backup_key(user_id, version, room_id, session_id).await?;
    Ok(get_backup_keys_for_session::v3::Response::new(written(&shown(&key))?))
}

/// `DELETE /_matrix/client/*/room_keys/keys`
pub(crate) async fn delete_keys(
    app: ClientApi,
    request: Ruma<delete_backup_keys::v3::Request, LocalUser>,
) -> Result<delete_backup_keys::v3::Response, ApiError> {
    let user_id = request.identity.user_id();
    let state = app.e2ee().delete_backup_keys(user_id, &request.version, None, None).await?;
    Ok(delete_backup_keys::v3::Response::new(state.etag, uint(state.count)))
}

/// `DELETE /_matrix/client/*/room_keys/keys/{roomId}`
pub(crate) async fn delete_room_keys(
    app: ClientApi,
    request: Ruma<delete_backup_keys_for_room::v3::Request, LocalUser>,
) -> Result<delete_backup_keys_for_room::v3::Response, ApiError> {
    let (user_id, room_id) = (request.identity.user_id(), Some(&*request.room_id));
    let state = app.e2ee().delete_backup_keys(user_id, &request.version, room_id, None).await?;
    Ok(delete_backup_keys_for_room::v3::Response::new(state.etag, uint(state.count)))
}

/// `DELETE /_matrix/client/*/room_keys/keys/{roomId}/{sessionId}`
pub(crate) async fn delete_session_key(
    app: ClientApi,
    request: Ruma<delete_backup_keys_for_session::v3::Request, LocalUser>,
) -> Result<delete_backup_keys_for_session::v3::Response, ApiError> {
    let (user_id, room_id) = (request.identity.user_id(), Some(&*request.room_id));
    let session_id = Some(&*request.session_id);
    let (e2ee, version) = (app.e2ee(), &request.version);
    let state = e2ee.delete_backup_keys(user_id, version, room_id, session_id).await?;
    Ok(delete_backup_keys_for_session::v3::Response::new(state.etag, uint(state.count)))
}

async fn store(
    app: &ClientApi,
    caller: &LocalUser,
    version: &str,
    keys: BackupKeys,
) -> Result<BackupState, ApiError> {
    Ok(app.e2ee().add_backup_keys(caller.may_write()?.user_id(), version, keys).await?)
}

/// A version's description, with its data as it came.
#[derive(Deserialize)]
struct Description {
    algorithm: String,
    auth_data: Box<RawValue>,
    version: Option<String>,
}

fn algorithm_of(raw: &Raw<BackupAlgorithm>) -> Result<Description, ApiError> {
    parsed(raw.json())
}

fn algorithm_shown(backup: &BackupVersion) -> Result<Raw<BackupAlgorithm>, ApiError> {
    #[derive(Serialize)]
    struct Shown<'a> {
        algorithm: &'a str,
        auth_data: &'a RawValue,
    }
    let BackupVersion { algorithm, auth_data, .. } = backup;
    written(&Shown { algorithm, auth_data })
}

/// A key, with the algorithm's data as it came.
#[derive(Deserialize)]
struct Key {
    first_message_index: UInt,
    forwarded_count: UInt,
    is_verified: bool,
    session_data: Box<RawValue>,
}

/// The same as clients get it.
#[derive(Serialize)]
struct ShownKey<'a> {
    first_message_index: UInt,
    forwarded_count: UInt,
    is_verified: bool,
    session_data: &'a RawValue,
}

fn sessions_of(
    sessions: &BTreeMap<String, Raw<KeyBackupData>>,
) -> Result<BTreeMap<String, BackedUpKey>, ApiError> {
    sessions.iter().map(|(session_id, key)| Ok((session_id.clone(), key_of(key)?))).collect()
}

fn key_of(raw: &Raw<KeyBackupData>) -> Result<BackedUpKey, ApiError> {
    let key: Key = parsed(raw.json())?;
    if !key.session_data.get().starts_with('{') {
        return Err(MatrixError::bad_json("session_data: not an object").into());
    }
    Ok(BackedUpKey {
        first_message_index: key.first_message_index.into(),
        forwarded_count: key.forwarded_count.into(),
        is_verified: key.is_verified,
        session_data: key.session_data,
    })
}

fn shown(key: &BackedUpKey) -> ShownKey<'_> {
    ShownKey {
        first_message_index: uint(key.first_message_index),
        forwarded_count: uint(key.forwarded_count),
        is_verified: key.is_verified,
        session_data: &key.session_data,
    }
}

fn parsed<'de, T: Deserialize<'de>>(json: &'de RawValue) -> Result<T, ApiError> {
    serde_json::from_str(json.get())
        .map_err(|error| MatrixError::bad_json(error.to_string()).into())
}

fn written<T>(value: &impl Serialize) -> Result<Raw<T>, ApiError> {
    let json = serde_json::value::to_raw_value(value);
    Ok(Raw::from_json(json.map_err(|error| MatrixError::internal(&error))?))
}

fn uint(number: u64) -> UInt {
    UInt::new_saturating(number)
}
