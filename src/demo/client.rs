//! Requests to a server.

use std::time::Duration;

use bytes::Bytes;
use hearth_olm_client::Homeserver;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tokio::time::timeout;

/// The largest answer that is read.
const MAX_BYTES: usize = 4 << 20;
/// How long one answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// Why something did not come about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// No whole answer came.
    #[error("{what}: {reason}")]
    NoAnswer {
        /// What was asked for.
        what: String,
        /// Why.
        reason: String,
    },
    /// The answer is an error, or lacks something.
    #[error("{what} was answered with {answer}")]
    BadAnswer {
        /// What was asked for.
        what: String,
        /// The status and the body.
        answer: String,
    },
    /// It did not happen in time.
    #[error("{who} waited in vain {what}")]
    InVain {
        /// Who waited.
        who: String,
        /// What for.
        what: String,
    },
}

/// The way to a server, with the access token of one of its users.
pub(super) struct Client {
    http: HttpClient<HttpConnector, Full<Bytes>>,
    base_url: String,
    token: String,
}

impl Client {
    /// Makes an account and goes on with its token; also the answer to the registration.
    pub(super) async fn register(
        base_url: String,
        name: &str,
    ) -> Result<(Self, Value), ClientError> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let http = HttpClient::builder(TokioExecutor::new()).build(connector);
        let mut client = Self { http, base_url, token: String::new() };
        let path = "/_matrix/client/v3/register";
        let account = json!({
            "username": name,
            "password": format!("the password of {name}"),
            "auth": { "type": "m.login.dummy" },
        });
        let answer = client.ask(Method::POST, path, Some(account)).await?;
        client.token = text(&answer, "access_token", path)?;
        Ok((client, answer))
    }
}

impl Homeserver for Client {
    type Error = ClientError;

    /// One request. IDs need no encoding: what they are made of may stand in paths.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, ClientError> {
        let what = format!("{method} {path}");
        let no_answer = |reason: String| ClientError::NoAnswer { what: what.clone(), reason };
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let request = Request::builder()
            .method(method.clone())
            .uri(format!("{}{path}", self.base_url))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .body(Full::new(body))
            .map_err(|error| no_answer(error.to_string()))?;
        let exchange = async {
            let response = self.http.request(request).await.map_err(|error| error.to_string())?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_BYTES).collect().await;
            Ok((head.status, body.map_err(|error| error.to_string())?.to_bytes()))
        };
        let answered = timeout(ANSWER_TIMEOUT, exchange).await;
        let answered = answered.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let (status, body) = answered.map_err(&no_answer)?;
        match serde_json::from_slice(&body) {
            Ok(answer) if status.is_success() => Ok(answer),
            _ => {
                let answer = format!("{status} {}", String::from_utf8_lossy(&body));
                Err(ClientError::BadAnswer { what, answer })
            }
        }
    }
}

/// A text that an answer must have.
pub(super) fn text(answer: &Value, field: &str, what: &str) -> Result<String, ClientError> {
    let found = answer.get(field).and_then(Value::as_str).map(ToOwned::to_owned);
    found.ok_or_else(|| ClientError::BadAnswer {
        what: what.to_owned(),
        answer: format!("no {field}: {answer}"),
    })
}
