//! User-interactive authentication: sessions in memory, bounded, expiring, each tied to one request
//! (CS "User-Interactive Authentication API").

use std::{fmt, time::Duration};

use ruma::{
    UserId,
    api::client::uiaa::{AuthData, AuthType, UserIdentifier},
};
use sha2::{Digest, Sha256};

use crate::{Guesser, Users, UsersError, expiring::Expiring, tokens::new_token};

/// How long a session is good for.
const LIFETIME: Duration = Duration::from_mins(15);
/// Sessions at a time; older ones make room.
const MAX_SESSIONS: usize = 20_000;
/// Failed attempts after which a session ends.
const MAX_FAILURES: u32 = 20;

#[derive(Debug)]
struct UiaSession {
    request: UiaRequest,
    flows: Vec<UiaFlow>,
    proof: UiaProof,
    failures: u32,
}

/// The sessions under way, by ID.
#[derive(Debug)]
pub(crate) struct UiaSessions(Expiring<String, UiaSession>);

impl UiaSessions {
    pub(crate) fn new() -> Self {
        Self(Expiring::new(LIFETIME, MAX_SESSIONS))
    }

    pub(crate) fn expire(&mut self, now_ms: u64) {
        self.0.expire(now_ms);
    }
}

impl UiaSession {
    /// Is this stage the next one of a flow that the completed stages began?
    fn expects(&self, stage: &AuthType) -> bool {
        let done = &self.proof.completed;
        self.flows.iter().any(|flow| {
            flow.strip_prefix(done.as_slice()).is_some_and(|rest| rest.first() == Some(stage))
        })
    }

    fn is_done(&self) -> bool {
        self.flows.contains(&self.proof.completed)
    }

    fn challenge(&self, session: &str, error: Option<UiaError>) -> UiaChallenge {
        UiaChallenge {
            session: session.to_owned(),
            flows: self.flows.clone(),
            completed: self.proof.completed.clone(),
            error,
        }
    }
}

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
    /// Wrong password (`M_FORBIDDEN`).
    #[error("wrong user name or password")]
    WrongCredentials,
    /// The stage names somebody else than whose token the request has (`M_FORBIDDEN`).
    #[error("this is to be confirmed by the account's own user")]
    OtherUser,
    /// The registration token is not valid (`M_UNAUTHORIZED`).
    #[error("the registration token is not valid")]
    InvalidRegistrationToken,
    /// The stage is not the next one of any flow (`M_INVALID_PARAM`).
    #[error("this stage is not to be passed now")]
    UnexpectedStage,
    /// The session is unknown or has expired; a new one was started (`M_UNKNOWN`).
    #[error("unknown session")]
    UnknownSession,
    /// The session belongs to another request (`M_FORBIDDEN`).
    #[error("this session is for another request")]
    OtherRequest,
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub enum UiaOutcome {
    /// All stages of a flow are passed; the session is spent.
    Done(UiaProof),
    /// There is more to do: answer 401.
    Challenge(UiaChallenge),
    /// No further attempt would help: answer 403. Nothing is counted.
    Refused(UiaError),
}

/// What was proven.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct UiaProof {
    /// The stages passed.
    pub completed: Vec<AuthType>,
    /// The registration token that was shown; give it to [`NewAccount`](crate::NewAccount).
    pub registration_token: Option<String>,
}

/// Without the token.
impl fmt::Debug for UiaProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UiaProof").field("completed", &self.completed).finish_non_exhaustive()
    }
}

impl UiaRequest {
    /// The request with this method, path and user (`None` before there is one). `body` is what of the
    /// body may not change between attempts: everything but `auth`, or nothing for endpoints whose
    /// clients complete the body while they pass the stages (`register`).
    #[must_use]
    pub fn new(method: &str, path: &str, user_id: Option<&UserId>, body: &[u8]) -> Self {
        let mut digest = Sha256::new();
        for part in [method, path, user_id.map_or("", UserId::as_str)] {
            digest.update(part.as_bytes());
            digest.update([0]);
        }
        digest.update(body);
        Self(digest.finalize().into())
    }
}

impl Users {
    /// Handles one attempt: without `auth` a new session; otherwise the stage is checked and counted.
    /// `user_id` is whose password the stage `m.login.password` wants, from this `guesser`, who is
    /// [refused](UsersError::TooManyGuesses) after too many wrong ones, in whatever session they came. An
    /// empty flow passes at once.
    pub async fn uia(
        &self,
        request: &UiaRequest,
        flows: &[UiaFlow],
        user_id: Option<&UserId>,
        guesser: Guesser,
        auth: Option<&AuthData>,
    ) -> Result<UiaOutcome, UsersError> {
        if flows.iter().any(Vec::is_empty) {
            return Ok(UiaOutcome::Done(UiaProof::default()));
        }
        let Some(auth) = auth else {
            return self.uia_start(request, flows, None);
        };
        let session = match auth.session() {
            Some(session) => match self.uia_matches(session, request) {
                Some(true) => session.to_owned(),
                Some(false) => return Ok(UiaOutcome::Refused(UiaError::OtherRequest)),
                None => return self.uia_start(request, flows, Some(UiaError::UnknownSession)),
            },
            // Clients that know the flows beforehand begin with a stage.
            None => self.uia_insert(request, flows)?,
        };
        if let (Some(user_id), AuthData::Password(password)) = (user_id, auth)
            && let UserIdentifier::Matrix(named) = &password.identifier
            && self.local_user_id(&named.user).as_deref() != Some(user_id)
        {
            return Ok(UiaOutcome::Refused(UiaError::OtherUser));
        }
        let Some(stage) = auth.auth_type() else {
            // A fallback page has passed stages meanwhile, or not.
            return self.uia_settle(request, flows, &session, None);
        };
        let checked = if self.uia_expects(&session, &stage) {
            self.uia_check(user_id, guesser, auth).await?
        } else {
            Err(UiaError::UnexpectedStage)
        };
        self.uia_settle(request, flows, &session, Some((stage, checked)))
    }

    /// Does a session of this ID exist? For the fallback pages.
    #[must_use]
    pub fn uia_session_exists(&self, session: &str) -> bool {
        self.inner.uia.lock().0.get_mut(self.now_ms(), &session.to_owned()).is_some()
    }

    /// Passes a stage out of band (the dummy stage of a fallback page); `false`: no such session, or
    /// not its next stage.
    #[must_use]
    pub fn uia_complete_stage(&self, session: &str, stage: &AuthType) -> bool {
        let mut sessions = self.inner.uia.lock();
        let found = sessions.0.get_mut(self.now_ms(), &session.to_owned());
        let Some(entry) = found.filter(|entry| entry.expects(stage)) else { return false };
        entry.proof.completed.push(stage.clone());
        true
    }

    fn uia_insert(&self, request: &UiaRequest, flows: &[UiaFlow]) -> Result<String, UsersError> {
        let session = new_token("")?;
        let entry = UiaSession {
            request: request.clone(),
            flows: flows.to_vec(),
            proof: UiaProof::default(),
            failures: 0,
        };
        self.inner.uia.lock().0.insert(self.now_ms(), session.clone(), entry);
        Ok(session)
    }

    fn uia_start(
        &self,
        request: &UiaRequest,
        flows: &[UiaFlow],
        error: Option<UiaError>,
    ) -> Result<UiaOutcome, UsersError> {
        Ok(UiaOutcome::Challenge(UiaChallenge {
            session: self.uia_insert(request, flows)?,
            flows: flows.to_vec(),
            completed: Vec::new(),
            error,
        }))
    }

    /// Is a session for this request? `None`: there is no such session.
    fn uia_matches(&self, session: &str, request: &UiaRequest) -> Option<bool> {
        let mut sessions = self.inner.uia.lock();
        let entry = sessions.0.get_mut(self.now_ms(), &session.to_owned())?;
        Some(entry.request == *request)
    }

    fn uia_expects(&self, session: &str, stage: &AuthType) -> bool {
        let mut sessions = self.inner.uia.lock();
        let entry = sessions.0.get_mut(self.now_ms(), &session.to_owned());
        entry.is_some_and(|entry| entry.expects(stage))
    }

    /// Checks what was brought for a stage; says which registration token it was, if one.
    async fn uia_check(
        &self,
        user_id: Option<&UserId>,
        guesser: Guesser,
        auth: &AuthData,
    ) -> Result<Result<Option<String>, UiaError>, UsersError> {
        match auth {
            AuthData::Dummy(_) => Ok(Ok(None)),
            AuthData::Password(password) => {
                let by_name = matches!(password.identifier, UserIdentifier::Matrix(_));
                let Some(user_id) = user_id.filter(|_| by_name) else {
                    return Ok(Err(UiaError::WrongCredentials));
                };
                if self.guess_password(user_id, &password.password, guesser).await? {
                    return Ok(Ok(None));
                }
                Ok(Err(UiaError::WrongCredentials))
            }
            AuthData::RegistrationToken(shown) => {
                if self.is_registration_token_valid(&shown.token).await? {
                    return Ok(Ok(Some(shown.token.clone())));
                }
                Ok(Err(UiaError::InvalidRegistrationToken))
            }
            _ => Ok(Err(UiaError::UnexpectedStage)),
        }
    }

    /// Counts a checked stage and says how the session stands now.
    fn uia_settle(
        &self,
        request: &UiaRequest,
        flows: &[UiaFlow],
        session: &str,
        attempt: Option<(AuthType, Result<Option<String>, UiaError>)>,
    ) -> Result<UiaOutcome, UsersError> {
        let (now_ms, key) = (self.now_ms(), session.to_owned());
        let mut sessions = self.inner.uia.lock();
        let Some(entry) = sessions.0.get_mut(now_ms, &key) else {
            drop(sessions);
            return self.uia_start(request, flows, Some(UiaError::UnknownSession));
        };
        let error = match attempt {
            None => None,
            // Somebody else may have passed the stage while this one was checked.
            Some((stage, Ok(token))) if entry.expects(&stage) => {
                entry.proof.completed.push(stage);
                entry.proof.registration_token =
                    token.or_else(|| entry.proof.registration_token.take());
                None
            }
            Some((_, Ok(_))) => Some(UiaError::UnexpectedStage),
            Some((_, Err(error))) => {
                entry.failures += 1;
                Some(error)
            }
        };
        if entry.is_done() {
            let proof = std::mem::take(&mut entry.proof);
            sessions.0.take(now_ms, &key);
            return Ok(UiaOutcome::Done(proof));
        }
        let challenge = entry.challenge(session, error);
        if entry.failures >= MAX_FAILURES {
            sessions.0.take(now_ms, &key);
        }
        Ok(UiaOutcome::Challenge(challenge))
    }
}

#[cfg(test)]
mod tests;
