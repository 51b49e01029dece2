//! `/_matrix/client/v1/media/preview_url`: what a page says of itself (CS "Content repository").

use axum::{
    Json,
    extract::{Request, State},
};
use hearth_http::{ApiState as _, Caller, Class, Lane, MatrixError};
use hearth_media::PreviewRequest;
use http::header;
use serde_json::{Map, Value};
use url::form_urlencoded;

use crate::{ApiError, ClientApi, LocalUser};

/// `GET /_matrix/client/v1/media/preview_url` and the older path of the same. A plain handler, since ruma's type does
/// not know which languages the user reads.
pub(crate) async fn preview(
    State(app): State<ClientApi>,
    request: Request,
) -> Result<Json<Map<String, Value>>, ApiError> {
    let (head, _) = request.into_parts();
    let _place = app.http().admit(Lane::Short)?;
    let caller: Caller<LocalUser> = Caller::of(&app, &head, Class::Preview).await?;
    let query = head.uri.query().unwrap_or_default();
    let of_name = |wanted: &str| {
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        pairs.find_map(|(name, value)| (name == wanted).then_some(value))
    };
    let url = of_name("url").ok_or_else(|| MatrixError::missing_param("url is missing"))?;
    let at_ms = match of_name("ts") {
        None => None,
        Some(text) => Some(
            text.parse()
                .map_err(|_| MatrixError::invalid_param("ts is no time in milliseconds"))?,
        ),
    };
    let language = head.headers.get(header::ACCEPT_LANGUAGE);
    let request = PreviewRequest {
        user_id: caller.session.user_id(),
        url: &url,
        at_ms,
        language: language.and_then(|value| value.to_str().ok()),
    };
    let preview = app.media().preview(request).await?;
    Ok(Json(Map::clone(&preview)))
}
