//! Extractors for the few routes that ruma has no type for: WebSockets, administration, proposals.

use std::net::IpAddr;

use axum::extract::{FromRequest, FromRequestParts, Request};
use http::request::Parts;
use ruma::api::auth_scheme::AccessToken;
use serde::de::DeserializeOwned;

use crate::{ApiState, Authenticate, Class, MatrixError, Policy, Scheme, body};

/// Who sent a request with a valid access token. Spends from [`Class::General`].
#[derive(Clone, Debug)]
pub struct Caller<I> {
    /// The state's [`Session`](crate::Authenticate::Session).
    pub session: I,
    /// The address of the client; `None` if the listener does not tell.
    pub address: Option<IpAddr>,
}

impl<I> Caller<I> {
    /// Who sent a request with this head, admitted under a [`Policy`] (or just a [`Class`]).
    pub async fn of<S>(
        state: &S,
        head: &Parts,
        policy: impl Into<Policy>,
    ) -> Result<Self, MatrixError>
    where
        S: Authenticate<Session = I>,
    {
        let address = state.http().client_address(head);
        let policy = policy.into();
        if let (Some(class), Some(address)) = (policy.limited_as(), address) {
            state.http().limiter().charge_address(class, address)?;
        }
        let session = <AccessToken as Scheme<S>>::identify(state, head, &policy).await?;
        Ok(Self { session, address })
    }
}

impl<S: Authenticate> FromRequestParts<S> for Caller<S::Session> {
    type Rejection = MatrixError;

    async fn from_request_parts(head: &mut Parts, state: &S) -> Result<Self, MatrixError> {
        Self::of(state, head, Class::General).await
    }
}

/// A body that is one JSON object, bounded and refused like those of ruma's endpoints.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json<T>(pub T);

impl<S: ApiState, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = MatrixError;

    async fn from_request(request: Request, state: &S) -> Result<Self, MatrixError> {
        let (head, body) = request.into_parts();
        let config = state.http().config();
        let json = body::read_object(config, &head.headers, body, &head.method).await?;
        serde_json::from_slice(&json).map(Self).map_err(|error| body::refusal(&error, &json))
    }
}
