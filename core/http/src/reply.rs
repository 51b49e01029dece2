//! What handlers answer with.

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use ruma::api::{IncomingRequest, OutgoingResponse};

/// Something that may answer the endpoint `T`: its own response type, [`RawJson`] or [`RawResponse`].
pub trait Reply<T> {
    /// The HTTP response.
    fn into_response(self) -> Response;
}

impl<T, R> Reply<T> for R
where
    R: OutgoingResponse,
    T: IncomingRequest<OutgoingResponse = R>,
{
    fn into_response(self) -> Response {
        todo!()
    }
}

/// A JSON body that is already serialized; sent as it is with status 200.
#[derive(Clone, Debug)]
pub struct RawJson(pub Bytes);

impl<T> Reply<T> for RawJson {
    fn into_response(self) -> Response {
        IntoResponse::into_response(self)
    }
}

impl IntoResponse for RawJson {
    fn into_response(self) -> Response {
        todo!()
    }
}

/// Any other response, for the few endpoints that ruma's types cannot express.
#[derive(Debug)]
pub struct RawResponse(pub Response);

impl<T> Reply<T> for RawResponse {
    fn into_response(self) -> Response {
        self.0
    }
}
