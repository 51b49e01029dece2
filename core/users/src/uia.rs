//! User-interactive authentication: sessions in memory, bounded, expiring, each tied to one request
//! (CS "User-Interactive Authentication API").

use ruma::{
    UserId,
    api::client::uiaa::{AuthData, AuthType},
};

use crate::{Users, UsersError};

/// What request a session is tied to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UiaRequest([u8; 32]);

/// A flow: stages to be passed in this order.
pub type UiaFlow = Vec<AuthType>;

/// What the client must do next: the body of a 401.
#[derive(Clone, Debug)]
pub struct UiaChallenge {
    /// The session to name in the next attempt.
    pub session: String,
    /// The flows to choose from.
    pub flows: Vec<UiaFlow>,
    /// The stages passed so far.
    pub completed: Vec<AuthType>,
    /// Why the last attempt did not pass; `None` on the first challenge and after a passed stage.
    pub error: Option<UiaError>,
}

/// Why a stage was not passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UiaError {
    /// Wrong password, or somebody else's (`M_FORBIDDEN`).
    #[error("wrong user name or password")]
    WrongCredentials,
    /// The registration token is not valid (`M_UNAUTHORIZED`).
    #[error("the registration token is not valid")]
    InvalidRegistrationToken,
    /// The stage is not the next one of any flow (`M_INVALID_PARAM`).
    #[error("this stage is not to be passed now")]
    UnexpectedStage,
    /// The session is unknown, has expired, or belongs to another request; a new one was started
    /// (`M_UNKNOWN`).
    #[error("unknown session")]
    UnknownSession,
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub enum UiaOutcome {
    /// All stages of a flow are passed; the session is spent.
    Done(UiaProof),
    /// There is more to do: answer 401.
    Challenge(UiaChallenge),
}

/// What was proven.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UiaProof {
    /// The stages passed.
    pub completed: Vec<AuthType>,
    /// The registration token that was shown; give it to [`NewAccount`](crate::NewAccount).
    pub registration_token: Option<String>,
}

impl UiaRequest {
    /// The request with this method, path and user (`None` before there is one). `body` is what of the
    /// body may not change between attempts: everything but `auth`, or nothing for endpoints whose
    /// clients complete the body while they pass the stages (`register`).
    #[must_use]
    pub fn new(method: &str, path: &str, user_id: Option<&UserId>, body: &[u8]) -> Self {
        todo!()
    }
}

impl Users {
    /// Handles one attempt: without `auth` a new session; otherwise the stage is checked and counted.
    /// `user_id` is whose password the stage `m.login.password` wants. An empty flow passes at once.
    pub async fn uia(
        &self,
        request: &UiaRequest,
        flows: &[UiaFlow],
        user_id: Option<&UserId>,
        auth: Option<&AuthData>,
    ) -> Result<UiaOutcome, UsersError> {
        todo!()
    }

    /// Does a session of this ID exist? For the fallback pages.
    #[must_use]
    pub fn uia_session_exists(&self, session: &str) -> bool {
        todo!()
    }

    /// Passes a stage out of band (the dummy stage of a fallback page); `false`: no such session, or
    /// not its next stage.
    pub fn uia_complete_stage(&self, session: &str, stage: &AuthType) -> bool {
        todo!()
    }
}
