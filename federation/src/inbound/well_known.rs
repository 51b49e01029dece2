//! Where this server is, told at its own name (SS "Resolving server names").

use hearth_http::{Endpoints, MatrixError, Ruma};
use ruma::api::federation::discovery::discover_homeserver;

use super::Api;

/// The endpoints of this module.
pub(super) fn endpoints() -> Endpoints<Api> {
    Endpoints::new().ruma(server)
}

/// `GET /.well-known/matrix/server`
async fn server(
    app: Api,
    _request: Ruma<discover_homeserver::Request>,
) -> Result<discover_homeserver::Response, MatrixError> {
    let delegated = app.federation.config().well_known.clone();
    let delegated =
        delegated.ok_or_else(|| MatrixError::not_found("This name delegates to no other"))?;
    Ok(discover_homeserver::Response::new(delegated))
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use http::Request;
    use ruma::owned_server_name;
    use serde_json::{Value, json};
    use tower::ServiceExt as _;

    use crate::testing::{Network, Server};

    async fn ask(server: &Server) -> (u16, Value) {
        let router = hearth_http::finish(server.federation.router(server.http.clone()));
        let request = Request::get("/.well-known/matrix/server").body(Body::empty()).unwrap();
        let Ok(answer) = router.oneshot(request).await;
        let status = answer.status().as_u16();
        let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn tells_what_is_configured_and_else_nothing() {
        let network = Network::default();
        let silent = Server::open("a.example", &network).await;
        let (status, answer) = ask(&silent).await;
        assert_eq!((status, &answer["errcode"]), (404, &json!("M_NOT_FOUND")));
        let delegating = Server::open_with("b.example", &network, |config| {
            config.well_known = Some(owned_server_name!("matrix.b.example:443"));
        });
        let answer = ask(&delegating.await).await;
        assert_eq!(answer, (200, json!({ "m.server": "matrix.b.example:443" })));
    }
}
