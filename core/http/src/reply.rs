//! What handlers answer with.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, header};
use ruma::api::{IncomingRequest, OutgoingResponse, OutgoingResponseExt as _};

use crate::MatrixError;

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

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
        match self.try_into_http_response::<BytesMut>() {
            Ok(response) => response.map(|body| Body::from(body.freeze())),
            Err(error) => IntoResponse::into_response(MatrixError::internal(&error)),
        }
    }
}

/// A JSON body that is already serialized; sent as it is with status 200.
#[derive(Clone, Debug)]
pub struct RawJson(pub Bytes);

impl From<Vec<u8>> for RawJson {
    fn from(json: Vec<u8>) -> Self {
        Self(json.into())
    }
}

impl<T> Reply<T> for RawJson {
    fn into_response(self) -> Response {
        IntoResponse::into_response(self)
    }
}

impl IntoResponse for RawJson {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.0));
        response.headers_mut().insert(header::CONTENT_TYPE, JSON);
        response
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
