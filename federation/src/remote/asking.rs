//! Putting a question to several servers in turn, and making one answer of their refusals.

use std::time::Duration;

use hearth_rooms::{CheckedPdu, RoomError};
use ruma::{OwnedServerName, ServerName};
use serde_json::value::RawValue;

use crate::{Federation, RemoteError, transport::Limits};

/// Servers that one wish is put to at most: a room that eight of its servers do not open is not
/// opened by the ninth.
pub(super) const MAX_CANDIDATES: usize = 8;
/// How long a server may take to say whether and how a membership can be had.
const TEMPLATE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the state of a large room may take.
const STATE_TIMEOUT: Duration = Duration::from_mins(5);
/// Bytes that the state of a large room may have.
const STATE_BYTES: usize = 256 * 1024 * 1024;

/// Limits of a request whose small answer somebody waits for.
pub(super) fn brief(federation: &Federation) -> Limits {
    let limits = federation.client().limits();
    Limits { timeout: limits.timeout.min(TEMPLATE_TIMEOUT), ..limits }
}

/// Limits of an answer that holds the state of a room.
pub(super) fn large() -> Limits {
    Limits { timeout: STATE_TIMEOUT, max_bytes: STATE_BYTES }
}

/// Bytes that the IDs of the state of a large room may have.
const STATE_IDS_BYTES: usize = 32 * 1024 * 1024;
/// IDs that the state of a room and its auth chain may have: no room of the public federation has as many.
pub(super) const MAX_STATE_IDS: usize = 300_000;

/// Limits of an answer that holds the IDs of a room's state.
pub(super) fn many_ids() -> Limits {
    Limits { timeout: STATE_TIMEOUT, max_bytes: STATE_IDS_BYTES }
}

/// In which order servers of a room are asked: first one that should know, then the others, those that
/// were unreachable a moment ago last. The others begin behind so many of them, over the end as often as
/// it takes: who is asked again skips those that were asked before.
pub(super) fn in_turn(
    federation: &Federation,
    first: Option<OwnedServerName>,
    others: impl IntoIterator<Item = OwnedServerName>,
    skipped: usize,
) -> Vec<OwnedServerName> {
    let destinations = federation.destinations();
    let (mut awake, asleep): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|server| destinations.due_in(server).is_none());
    let start = skipped.checked_rem(awake.len()).unwrap_or(0);
    awake.rotate_left(start);
    let own = federation.identity().server_name();
    candidates(own, first.into_iter().chain(awake).chain(asleep))
}

/// The servers to ask: in this order, each once, never this one.
pub(super) fn candidates(
    own: &ServerName,
    servers: impl IntoIterator<Item = OwnedServerName>,
) -> Vec<OwnedServerName> {
    let mut chosen: Vec<OwnedServerName> = Vec::new();
    for server in servers {
        if chosen.len() >= MAX_CANDIDATES {
            break;
        }
        if server != own && !chosen.contains(&server) {
            chosen.push(server);
        }
    }
    chosen
}

/// What servers said that were asked in turn and did not do what was wanted.
#[derive(Debug, Default)]
pub(super) struct Refusals(Option<RoomError>);

impl Refusals {
    /// Notes one; fails with it if the next server would only say the same.
    pub(super) fn note(&mut self, server: &ServerName, error: RoomError) -> Result<(), RoomError> {
        if matches!(error, RoomError::IncompatibleVersion(_) | RoomError::Internal(_)) {
            return Err(error);
        }
        tracing::debug!(%server, %error, "a server did not do what a user asked for");
        if self.0.as_ref().is_none_or(|told| telling(&error) > telling(told)) {
            self.0 = Some(error);
        }
        Ok(())
    }

    /// The most telling of them. Nobody to ask is an unknown room.
    pub(super) fn most_telling(self) -> RoomError {
        self.0.unwrap_or(RoomError::UnknownRoom)
    }
}

/// How much a refusal tells the user.
fn telling(error: &RoomError) -> u8 {
    match error {
        RoomError::Forbidden(_) => 4,
        RoomError::UnableToGrantJoin(_) => 3,
        RoomError::UnableToAuthoriseJoin(_) => 2,
        RoomError::UnknownRoom => 1,
        _ => 0,
    }
}

/// A refusal in the terms of rooms.
#[expect(clippy::needless_pass_by_value, reason = "so that `map_err` takes it")]
pub(super) fn refusal(error: RemoteError) -> RoomError {
    let RemoteError::Matrix { status, errcode, message, body, .. } = &error else {
        return RoomError::Remote(error.to_string());
    };
    let message = if message.is_empty() { error.to_string() } else { message.clone() };
    match errcode.as_str() {
        "M_FORBIDDEN" | "M_INVITE_BLOCKED" => RoomError::Forbidden(message),
        "M_UNABLE_TO_GRANT_JOIN" => RoomError::UnableToGrantJoin(message),
        "M_UNABLE_TO_AUTHORISE_JOIN" => RoomError::UnableToAuthoriseJoin(message),
        "M_NOT_FOUND" => RoomError::UnknownRoom,
        "M_INCOMPATIBLE_ROOM_VERSION" => {
            let version = body.as_ref().and_then(|body| body.get("room_version")?.as_str());
            RoomError::IncompatibleVersion(version.unwrap_or("unknown").to_owned())
        }
        // In its own words, but for what would tell the client something about its session here.
        _ if matches!(status.as_u16(), 400 | 403 | 404) && !errcode.contains("TOKEN") => {
            RoomError::Refused { status: status.as_u16(), errcode: errcode.clone(), message }
        }
        _ => RoomError::Remote(error.to_string()),
    }
}

/// An answer that does not fit the question.
pub(super) fn unfit(server: &ServerName, reason: impl std::fmt::Display) -> RoomError {
    RoomError::Remote(format!("{server} answered with what was not asked for: {reason}"))
}

/// An error once more, for everybody who waited for the same thing.
pub(super) fn again(error: &RoomError) -> RoomError {
    match error {
        RoomError::UnknownRoom => RoomError::UnknownRoom,
        RoomError::Forbidden(text) => RoomError::Forbidden(text.clone()),
        RoomError::UnableToGrantJoin(text) => RoomError::UnableToGrantJoin(text.clone()),
        RoomError::UnableToAuthoriseJoin(text) => RoomError::UnableToAuthoriseJoin(text.clone()),
        RoomError::IncompatibleVersion(version) => RoomError::IncompatibleVersion(version.clone()),
        RoomError::UnsupportedVersion(version) => RoomError::UnsupportedVersion(version.clone()),
        RoomError::InvalidParam(text) => RoomError::InvalidParam(text.clone()),
        RoomError::Refused { status, errcode, message } => RoomError::Refused {
            status: *status,
            errcode: errcode.clone(),
            message: message.clone(),
        },
        RoomError::Busy => RoomError::Busy,
        RoomError::TooLarge => RoomError::TooLarge,
        error => RoomError::Remote(error.to_string()),
    }
}

/// An event as it goes into a request.
pub(super) fn raw(event: &CheckedPdu) -> Result<Box<RawValue>, RoomError> {
    let text = String::from_utf8(event.pdu().json().to_vec()).ok();
    text.and_then(|text| RawValue::from_string(text).ok())
        .ok_or_else(|| RoomError::Internal("an event is not JSON".into()))
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use ruma::{owned_server_name, server_name};
    use serde_json::json;

    use super::*;
    use crate::testing::{Network, Server};

    #[test]
    fn each_server_is_asked_once_and_never_this_one() {
        let own = server_name!("here.test");
        let named =
            ["a.test", "here.test", "b.test", "a.test"].map(|s| ServerName::parse(s).unwrap());
        assert_eq!(candidates(own, named), ["a.test", "b.test"]);
        let many = (0..20).map(|n| ServerName::parse(format!("s{n}.test")).unwrap());
        assert_eq!(candidates(own, many).len(), MAX_CANDIDATES);
    }

    #[tokio::test]
    async fn who_should_know_is_asked_first_who_is_away_last_and_others_each_time() {
        let network = Network::default();
        let us = Server::open("here.test", &network).await.federation;
        us.destinations().failed(server_name!("s03.test"), "away");
        let name = |n: usize| ServerName::parse(format!("s{n:02}.test")).unwrap();
        let others = || (0..20).map(name);
        let first = Some(name(9));
        let asked = in_turn(&us, first.clone(), others(), 0);
        assert_eq!(asked, [9, 0, 1, 2, 4, 5, 6, 7].map(name));
        let asked = in_turn(&us, first, others(), MAX_CANDIDATES - 1);
        assert_eq!(asked, [9, 8, 10, 11, 12, 13, 14, 15].map(name));
        assert_eq!(in_turn(&us, None, [3, 5].map(name), 7), [5, 3].map(name));
        assert!(in_turn(&us, None, [], 3).is_empty());
    }

    #[test]
    fn the_most_telling_refusal_is_the_answer() {
        let server = server_name!("a.test");
        let mut refusals = Refusals::default();
        refusals.note(server, RoomError::Remote("away".to_owned())).unwrap();
        refusals.note(server, RoomError::Forbidden("banned".to_owned())).unwrap();
        refusals.note(server, RoomError::UnknownRoom).unwrap();
        assert!(matches!(refusals.most_telling(), RoomError::Forbidden(text) if text == "banned"));
        assert!(matches!(Refusals::default().most_telling(), RoomError::UnknownRoom));
    }

    #[test]
    fn nobody_else_is_asked_about_a_version_that_is_not_served() {
        let refused = RoomError::IncompatibleVersion("99".to_owned());
        assert!(Refusals::default().note(server_name!("a.test"), refused).is_err());
    }

    #[test]
    fn refusals_keep_their_meaning() {
        let matrix = |errcode: &str| RemoteError::Matrix {
            server: owned_server_name!("a.test"),
            status: StatusCode::BAD_REQUEST,
            errcode: errcode.to_owned(),
            message: "why".to_owned(),
            body: Some(Box::new(json!({ "room_version": "99" }))),
            retry_after: None,
        };
        assert!(matches!(refusal(matrix("M_FORBIDDEN")), RoomError::Forbidden(_)));
        assert!(matches!(refusal(matrix("M_NOT_FOUND")), RoomError::UnknownRoom));
        assert!(matches!(
            refusal(matrix("M_INCOMPATIBLE_ROOM_VERSION")),
            RoomError::IncompatibleVersion(version) if version == "99"
        ));
        assert!(matches!(
            refusal(matrix("M_UNKNOWN")),
            RoomError::Refused { status: 400, errcode, message }
                if errcode == "M_UNKNOWN" && message == "why"
        ));
        assert!(matches!(refusal(matrix("M_UNKNOWN_TOKEN")), RoomError::Remote(_)));
    }
}
