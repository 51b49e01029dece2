//! Content that this server holds (SS "Content Repository"): none, until its users can upload any.

use hearth_http::{Endpoints, MatrixError, Ruma};
use ruma::api::federation::authenticated_media::{get_content, get_content_thumbnail};

use super::{Api, Origin, error::ApiError};

/// The endpoints of this module.
pub(super) fn endpoints() -> Endpoints<Api> {
    Endpoints::new().ruma(download).ruma(thumbnail)
}

/// `GET /_matrix/federation/v1/media/download/{mediaId}`
async fn download(
    _: Api,
    _: Ruma<get_content::v1::Request, Origin>,
) -> Result<get_content::v1::Response, ApiError> {
    Err(nothing())
}

/// `GET /_matrix/federation/v1/media/thumbnail/{mediaId}`
async fn thumbnail(
    _: Api,
    _: Ruma<get_content_thumbnail::v1::Request, Origin>,
) -> Result<get_content_thumbnail::v1::Response, ApiError> {
    Err(nothing())
}

fn nothing() -> ApiError {
    MatrixError::not_found("There is no such content on this server").into()
}
