//! Error bodies.

use std::time::Duration;

use axum::response::IntoResponse as _;
use hearth_http::MatrixError;
use http::StatusCode;
use ruma::api::{
    client::uiaa::{AuthFlow, AuthType, UiaaInfo},
    error::{ErrorKind, StandardErrorBody},
};
use serde_json::{Value, json};

use crate::app::fixture;

async fn body_of(error: MatrixError) -> Value {
    let body = error.into_response().into_body();
    serde_json::from_slice(&axum::body::to_bytes(body, usize::MAX).await.unwrap()).unwrap()
}

#[tokio::test]
async fn errors_have_the_standard_body() {
    let error =
        MatrixError::incompatible_room_version("No such version").with("room_version", "99");
    assert_eq!(error.status(), StatusCode::BAD_REQUEST);
    let expected = json!({
        "errcode": "M_INCOMPATIBLE_ROOM_VERSION",
        "error": "No such version",
        "room_version": "99",
    });
    assert_eq!(body_of(error).await, expected);
}

#[tokio::test]
async fn waiting_times_are_rounded_up() {
    let error = MatrixError::limit_exceeded(Duration::from_micros(1_000_001));
    let response = error.clone().into_response();
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "2");
    let body = body_of(error).await;
    assert_eq!(
        (&body["errcode"], &body["retry_after_ms"]),
        (&json!("M_LIMIT_EXCEEDED"), &json!(1001))
    );
}

#[tokio::test]
async fn interactive_authentication_is_asked_for_with_its_flows() {
    let app = fixture();
    let path = "/_matrix/client/v3/account/password";
    let asked = app.ask("POST", path, r#"{"new_password":"x"}"#).await;
    assert_eq!(asked.status, 401);
    let expected = json!({ "flows": [{ "stages": ["m.login.password"] }], "session": "abc" });
    assert_eq!(asked.json(), expected);
    let body = r#"{"new_password":"x","auth":{"type":"m.login.dummy","session":"abc"}}"#;
    assert_eq!(app.ask("POST", path, body).await.status, 200);
}

#[tokio::test]
async fn a_failed_stage_keeps_its_error_beside_the_flows() {
    let mut info = UiaaInfo::new(vec![AuthFlow::new(vec![AuthType::Dummy])]);
    let error = StandardErrorBody::new(ErrorKind::Forbidden, "Wrong password".to_owned());
    info.auth_error = Some(Box::new(error));
    let body = body_of(info.into()).await;
    assert_eq!(body["errcode"], "M_FORBIDDEN");
    assert_eq!(body["error"], "Wrong password");
    assert_eq!(body["flows"][0]["stages"][0], "m.login.dummy");
}
