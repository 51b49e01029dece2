//! The device's way to its server.

use http::Method;
use serde_json::Value;

use crate::Error;

/// Asks the server of a device's user, with that device's access token.
pub trait Homeserver {
    /// Why there is no answer, or none that tells of success.
    type Error: std::error::Error + Send + Sync + 'static;

    /// One request; the body of the answer, whose status is a success.
    fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> impl Future<Output = Result<Value, Self::Error>> + Send;
}

/// Posts to an endpoint of the Client-Server API.
pub(crate) async fn post<S: Homeserver + Sync>(
    server: &S,
    endpoint: &str,
    body: Value,
) -> Result<Value, Error> {
    let path = format!("/_matrix/client/v3/{endpoint}");
    server.ask(Method::POST, &path, Some(body)).await.map_err(server_error)
}

pub(crate) fn server_error<E: std::error::Error + Send + Sync + 'static>(error: E) -> Error {
    Error::Server(Box::new(error))
}
