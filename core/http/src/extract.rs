//! A request as its endpoint's type.

use std::{net::IpAddr, ops::Deref};

use bytes::Bytes;
use http::Uri;

/// A request to the endpoint `T`, parsed, from the identity that the endpoint's auth scheme promises:
/// the state's [`Session`](crate::Authenticate::Session), an `Option` of it, or nothing.
///
/// Dereferences to the body, so that `request.room_id` reads well.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Ruma<T, I = ()> {
    /// The endpoint's request: path, query, headers and body.
    pub body: T,
    /// Who sent it.
    pub identity: I,
    /// The address of the client; `None` if the listener does not tell.
    pub address: Option<IpAddr>,
    /// The body's bytes as they came (`{}` if a body was due and none came; empty for `GET`).
    pub json: Bytes,
    /// The URI, for parameters that the endpoint's type does not know. Holds tokens: never log it.
    pub uri: Uri,
}

impl<T, I> Deref for Ruma<T, I> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.body
    }
}
