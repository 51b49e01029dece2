//! From a request's credentials to the identity that its endpoint promises.

use std::{borrow::Cow, future::ready, net::IpAddr};

use bytes::Bytes;
use http::{HeaderMap, header, request::Parts};
use ruma::{
    UserId,
    api::auth_scheme::{
        AccessToken, AccessTokenOptional, AppserviceTokenOptional, AuthScheme, NoAccessToken,
        NoAuthentication,
    },
};

use crate::{Http, MatrixError, Policy};

/// The state of an API crate, as far as this crate needs it. Cloned for every request: keep it an `Arc`.
pub trait ApiState: Clone + Send + Sync + 'static {
    /// Limits, counters and the shutdown signal, shared by all APIs of the server.
    fn http(&self) -> &Http;
}

/// An API crate's state that knows access tokens.
pub trait Authenticate: ApiState {
    /// Who sent a request with a valid access token.
    type Session: Session;

    /// Finds the session that a token belongs to. Called once per request, before the body is read.
    /// `address` is the client's, if the listener tells it.
    fn authenticate(
        &self,
        token: &str,
        address: Option<IpAddr>,
    ) -> impl Future<Output = Result<Self::Session, TokenError>> + Send;
}

/// Proof that a request came with a valid access token.
pub trait Session: Send + Sync + 'static {
    /// The user whose token it was.
    fn user_id(&self) -> &UserId;

    /// A locked account may only log out (CS "Account locking"); see [`Policy::allow_locked`].
    fn is_locked(&self) -> bool {
        false
    }

    /// A guest may use few endpoints (CS "Guest Access"); see [`Policy::allow_guests`].
    fn is_guest(&self) -> bool {
        false
    }

    /// Is this user free of rate limits?
    fn is_unlimited(&self) -> bool {
        false
    }
}

/// Why a token gives no session.
#[derive(Debug)]
pub enum TokenError {
    /// Nobody has this token: 401 `M_UNKNOWN_TOKEN`.
    Unknown,
    /// The token has expired and may be refreshed: the same, with `soft_logout`.
    Expired,
    /// Anything else, such as a store that cannot be read.
    Other(MatrixError),
}

impl From<TokenError> for MatrixError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Unknown => Self::unknown_token(false),
            TokenError::Expired => Self::unknown_token(true),
            TokenError::Other(error) => error,
        }
    }
}

/// An auth scheme of ruma's that this server can check, with the identity it yields.
///
/// Implemented here for access tokens. Other crates implement it for the schemes that they know, with
/// their own state as `S`.
pub trait Scheme<S>: AuthScheme {
    /// What a handler of an endpoint with this scheme is given.
    type Identity: Send + 'static;

    /// Checks the request's credentials, the account's lock and the user's rate limit: what can be
    /// known before the body is read.
    fn identify(
        state: &S,
        head: &Parts,
        policy: &Policy,
    ) -> impl Future<Output = Result<Self::Identity, MatrixError>> + Send;

    /// Checks what only the body proves, such as a signature over it; `body` is what was sent, byte by
    /// byte, and JSON of bounded depth unless it is empty or the policy says otherwise. Nothing of the
    /// request is believed before. Most schemes have nothing to check here.
    fn verify(
        _state: &S,
        _identity: &Self::Identity,
        _head: &Parts,
        _body: &Bytes,
    ) -> impl Future<Output = Result<(), MatrixError>> + Send {
        ready(Ok(()))
    }
}

impl<S: Authenticate> Scheme<S> for AccessToken {
    type Identity = S::Session;

    async fn identify(state: &S, head: &Parts, policy: &Policy) -> Result<S::Session, MatrixError> {
        let Some(token) = access_token(head)? else {
            return Err(MatrixError::missing_token("Missing access token"));
        };
        session(state, &token, head, policy).await
    }
}

impl<S: Authenticate> Scheme<S> for AccessTokenOptional {
    type Identity = Option<S::Session>;

    /// No token is fine; a wrong one is not.
    async fn identify(
        state: &S,
        head: &Parts,
        policy: &Policy,
    ) -> Result<Option<S::Session>, MatrixError> {
        match access_token(head)? {
            Some(token) => session(state, &token, head, policy).await.map(Some),
            None => Ok(None),
        }
    }
}

macro_rules! anonymous {
    ($($scheme:ty),+) => {
        $(
            impl<S: ApiState> Scheme<S> for $scheme {
                type Identity = ();

                async fn identify(_: &S, _: &Parts, _: &Policy) -> Result<(), MatrixError> {
                    Ok(())
                }
            }
        )+
    };
}

// Application services are not served yet: where their token is optional, nobody has one.
anonymous!(NoAuthentication, NoAccessToken, AppserviceTokenOptional);

/// The session of a token, if it may use an endpoint under this policy now.
async fn session<S: Authenticate>(
    state: &S,
    token: &str,
    head: &Parts,
    policy: &Policy,
) -> Result<S::Session, MatrixError> {
    let address = state.http().client_address(head);
    let session = state.authenticate(token, address).await?;
    if session.is_locked() && !policy.allows_locked() {
        return Err(MatrixError::user_locked());
    }
    if session.is_guest() && !policy.allows_guests() {
        return Err(MatrixError::guest_access_forbidden("Guests cannot do this"));
    }
    if let Some(class) = policy.limited_as()
        && !session.is_unlimited()
    {
        state.http().limiter().charge_user(class, session.user_id())?;
    }
    Ok(session)
}

/// The access token of a request: from the `Authorization` header, else from the deprecated
/// `access_token` query parameter (CS "Using access tokens"). `None` if there is neither; an error if
/// the header holds something else.
pub(crate) fn access_token(head: &Parts) -> Result<Option<Cow<'_, str>>, MatrixError> {
    if let Some(token) = bearer_token(&head.headers)? {
        return Ok(Some(Cow::Borrowed(token)));
    }
    let query = head.uri.query().unwrap_or_default();
    let token = url::form_urlencoded::parse(query.as_bytes())
        .find_map(|(name, value)| (name == "access_token").then_some(value));
    Ok(token.filter(|token| !token.is_empty()))
}

fn bearer_token(headers: &HeaderMap) -> Result<Option<&str>, MatrixError> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Ok(None);
    };
    let token = value.to_str().ok().and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    match token {
        Some(token) if !token.is_empty() => Ok(Some(token)),
        _ => Err(MatrixError::missing_token("The Authorization header holds no bearer token")),
    }
}
