//! Administration of the parts: the commands of `hearth user`, `hearth media`, `hearth reports` and `hearth federation
//! destinations`, and the socket on which a running server takes them.
//!
//! The socket lies in the data folder and only the server's own user may open it; whoever can could
//! as well write the store. One request and one answer a connection, each a line of JSON.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{SocketAddr as UnixAddr, UnixStream as BlockingStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use hearth_federation::{Federation, outbound::DestinationReport};
use hearth_media::ContentUri;
use hearth_rooms::{RoomError, schema::Membership};
use hearth_users::{NewAccount, Report, Secret, UsersError};
use ruma::{MxcUri, OwnedMxcUri, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::parts::Parts;

/// The longest request, in bytes.
const MAX_REQUEST_BYTES: u64 = 64 * 1024;
/// How long the server waits for a request, or to get rid of its answer.
const SERVER_PATIENCE: Duration = Duration::from_secs(5);
/// How long the command line waits for the answer: a busy server hashes passwords one after another.
const CLIENT_PATIENCE: Duration = Duration::from_mins(1);

/// One command.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum AdminRequest {
    /// Make an account.
    CreateUser {
        /// The name before the colon, or the whole user ID.
        user: String,
        /// The first password.
        password: Secret,
        /// Make the user an administrator?
        admin: bool,
    },
    /// Set another password.
    SetPassword {
        /// The name before the colon, or the whole user ID.
        user: String,
        /// The new password.
        password: Secret,
        /// Leave the user's devices logged in?
        keep_sessions: bool,
    },
    /// Deactivate an account, for good.
    DeactivateUser {
        /// The name before the colon, or the whole user ID.
        user: String,
        /// Hide the user's messages from those who join later?
        erase: bool,
    },
    /// Hide or remove content.
    Media {
        /// Its URI.
        uri: OwnedMxcUri,
        /// What to do.
        action: MediaAction,
    },
    /// List the newest reports of users.
    Reports {
        /// Only those with a smaller number.
        before: Option<u64>,
    },
    /// Show a report.
    ShowReport {
        /// Its number.
        number: u64,
    },
    /// Remove a report.
    RemoveReport {
        /// Its number.
        number: u64,
    },
    /// List the servers that this one sends to.
    Destinations,
}

/// What the operator does with content.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MediaAction {
    /// Hide it, under every URI that has the same bytes.
    Quarantine,
    /// Show it again.
    EndQuarantine,
    /// Remove it, for good.
    Remove,
}

/// What came of a command, or what to tell the operator.
pub type AdminReply = Result<AdminAnswer, String>;

/// What came of a command.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminAnswer {
    /// The user that it was about.
    User(OwnedUserId),
    /// The content that it was about.
    Media(OwnedMxcUri),
    /// Reports by number, the newest first.
    Reports(Vec<(u64, Report)>),
    /// The report of this number.
    Report(u64, Box<Report>),
    /// The servers, by name.
    Destinations(Vec<DestinationReport>),
}

/// What commands work on.
#[derive(Clone, Debug)]
pub(crate) struct Administered {
    pub(crate) parts: Parts,
    /// If the server federates.
    pub(crate) federation: Option<Federation>,
}

/// Carries out a command.
pub(crate) async fn execute(server: &Administered, request: AdminRequest) -> AdminReply {
    match request {
        AdminRequest::Destinations => {
            let federation = server.federation.as_ref();
            let federation = federation.ok_or("federation is off: see federation.enabled")?;
            let reports = federation.outbound().report().await;
            reports.map(AdminAnswer::Destinations).map_err(|error| error.to_string())
        }
        AdminRequest::Media { uri, action } => {
            change_media(&server.parts, &uri, action).await?;
            Ok(AdminAnswer::Media(uri))
        }
        AdminRequest::Reports { before } => {
            let reports = server.parts.users.reports(before).await;
            reports.map(AdminAnswer::Reports).map_err(|error| error.to_string())
        }
        AdminRequest::ShowReport { number } => report(&server.parts, number, false).await,
        AdminRequest::RemoveReport { number } => report(&server.parts, number, true).await,
        request => change_user(&server.parts, request).await.map(AdminAnswer::User),
    }
}

/// A report, which may be removed with that.
async fn report(parts: &Parts, number: u64, remove: bool) -> AdminReply {
    let told = |error: UsersError| error.to_string();
    let report = parts.users.get_report(number).await.map_err(told)?;
    let report = report.ok_or_else(|| format!("there is no report {number}"))?;
    if remove {
        parts.users.remove_report(number).await.map_err(told)?;
    }
    Ok(AdminAnswer::Report(number, Box::new(report)))
}

/// Carries out a command about a user.
async fn change_user(parts: &Parts, request: AdminRequest) -> Result<OwnedUserId, String> {
    let told = |error: UsersError| error.to_string();
    match request {
        AdminRequest::CreateUser { user, password, admin } => {
            let account = NewAccount {
                username: user_id(parts, &user)?.localpart().to_owned(),
                password: Some(password.expose().to_owned()),
                is_admin: admin,
                ..NewAccount::default()
            };
            parts.users.create_account(account).await.map_err(told)
        }
        AdminRequest::SetPassword { user, password, keep_sessions } => {
            let user_id = user_id(parts, &user)?;
            let end_sessions = (!keep_sessions).then_some(None);
            parts
                .users
                .change_password(&user_id, password.expose(), end_sessions)
                .await
                .map_err(told)?;
            Ok(user_id)
        }
        AdminRequest::DeactivateUser { user, erase } => {
            let user_id = user_id(parts, &user)?;
            parts.users.deactivate(&user_id, erase).await.map_err(told)?;
            leave_rooms(parts, &user_id).await?;
            Ok(user_id)
        }
        AdminRequest::Destinations
        | AdminRequest::Media { .. }
        | AdminRequest::Reports { .. }
        | AdminRequest::ShowReport { .. }
        | AdminRequest::RemoveReport { .. } => Err("this command is about no user".to_owned()),
    }
}

/// Carries out a command about content.
async fn change_media(parts: &Parts, uri: &MxcUri, action: MediaAction) -> Result<(), String> {
    let (server_name, media_id) = uri.parts().map_err(|error| format!("{uri}: {error}"))?;
    let content = ContentUri::new(server_name.to_owned(), media_id.to_owned())
        .ok_or_else(|| format!("{uri} is no content URI"))?;
    let media = &parts.media;
    let changed = match action {
        MediaAction::Quarantine => media.quarantine(&content).await,
        MediaAction::EndQuarantine => media.end_quarantine(&content).await,
        MediaAction::Remove => media.remove(&content).await,
    };
    changed.map_err(|error| format!("{uri}: {error}"))
}

/// Takes a deactivated user out of every room. What fails is tried again with the next deactivation.
async fn leave_rooms(parts: &Parts, user_id: &UserId) -> Result<(), String> {
    let told = |error: RoomError| {
        format!("{user_id} is deactivated, but has not left all rooms ({error}): run this again")
    };
    for (room_id, row) in parts.rooms.user_rooms(user_id).await.map_err(told)? {
        if matches!(
            row.details.membership,
            Membership::Join | Membership::Invite | Membership::Knock
        ) {
            parts.rooms.leave(&room_id, user_id, None).await.map_err(told)?;
        }
    }
    Ok(())
}

/// The ID of a user of this server, from their name or their ID.
fn user_id(parts: &Parts, user: &str) -> Result<OwnedUserId, String> {
    let server_name = parts.identity.server_name();
    let user_id = UserId::parse_with_server_name(user, server_name)
        .map_err(|error| format!("{user:?} is not a user name: {error}"))?;
    if parts.identity.is_local(&user_id) {
        Ok(user_id)
    } else {
        Err(format!("{user_id} is not a user of {server_name}"))
    }
}

/// The socket of a running server. Commands are carried out one after another.
#[derive(Debug)]
pub(crate) struct AdminSocket {
    path: PathBuf,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// The socket cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {}: {error}", path.display())]
pub struct AdminSocketError {
    path: PathBuf,
    error: io::Error,
}

impl AdminSocket {
    /// Listens. A socket that is there already is what a killed server left: the store's lock, which
    /// the caller holds, admits one server at a time.
    pub(crate) fn open(path: &Path, server: Administered) -> Result<Self, AdminSocketError> {
        let listener =
            listen(path).map_err(|error| AdminSocketError { path: path.to_owned(), error })?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            while let Some(accepted) = stopped.run_until_cancelled(listener.accept()).await {
                let outcome = match accepted {
                    Ok((stream, _)) => serve(stream, &server).await,
                    Err(error) => {
                        sleep(SERVER_PATIENCE).await;
                        Err(error)
                    }
                };
                if let Err(error) = outcome {
                    tracing::warn!(%error, "administration socket");
                }
            }
        });
        Ok(Self { path: path.to_owned(), stop, task })
    }

    /// Finishes the command under way, and removes the socket.
    pub(crate) async fn close(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "administration socket");
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the socket");
        }
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // The folder is private already; this holds even if the operator opens it.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn serve(stream: UnixStream, server: &Administered) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new(reader).take(MAX_REQUEST_BYTES);
    timeout(SERVER_PATIENCE, reader.read_line(&mut line)).await??;
    let reply = match serde_json::from_str(&line) {
        Ok(request) => {
            tracing::info!(?request, "administration");
            execute(server, request).await
        }
        Err(error) => Err(format!("this server does not understand the command: {error}")),
    };
    let mut reply = serde_json::to_string(&reply)?;
    reply.push('\n');
    timeout(SERVER_PATIENCE, writer.write_all(reply.as_bytes())).await?
}

/// Has a running server carry out a command; `None` if none runs.
pub fn ask_running_server(socket: &Path, request: &AdminRequest) -> io::Result<Option<AdminReply>> {
    let stream =
        UnixAddr::from_pathname(socket).and_then(|address| BlockingStream::connect_addr(&address));
    let mut stream = match stream {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    stream.set_read_timeout(Some(CLIENT_PATIENCE))?;
    stream.set_write_timeout(Some(CLIENT_PATIENCE))?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply)?;
    Ok(Some(serde_json::from_str(&reply)?))
}
