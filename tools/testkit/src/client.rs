//! An HTTP client for tests: JSON in, JSON out, no retries, no redirects.

use std::fmt::Write as _;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

/// Speaks to one server, with or without an access token. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: HttpClient<HttpConnector, Full<Bytes>>,
    base: String,
    token: Option<String>,
}

/// An answer as it came.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body's bytes.
    pub body: Bytes,
}

impl Response {
    /// The body as JSON; null when it is empty.
    #[must_use]
    pub fn json(&self) -> Value {
        if self.body.is_empty() {
            return Value::Null;
        }
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("{}: not JSON ({error}): {:?}", self.status, self.body);
        })
    }
}

impl Client {
    /// A client without a token for the server at this base address, such as `http://127.0.0.1:8008`.
    #[must_use]
    pub fn new(base: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self {
            http: HttpClient::builder(TokioExecutor::new()).build(connector),
            base: base.trim_end_matches('/').to_owned(),
            token: None,
        }
    }

    /// The same client with this access token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// The same client without an access token.
    #[must_use]
    pub fn without_token(&self) -> Self {
        Self { token: None, ..self.clone() }
    }

    /// The access token that requests carry.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// The server's base address, without a slash at its end.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// `GET`: status and body.
    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.json(Method::GET, path, None).await
    }

    /// `POST` with a JSON body: status and body.
    pub async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.json(Method::POST, path, Some(body)).await
    }

    /// `PUT` with a JSON body: status and body.
    pub async fn put(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.json(Method::PUT, path, Some(body)).await
    }

    /// `DELETE`, with a JSON body if there is one: status and body.
    pub async fn delete(&self, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        self.json(Method::DELETE, path, body).await
    }

    /// `GET` that must answer 200; its body.
    pub async fn get_ok(&self, path: &str) -> Value {
        self.ok(Method::GET, path, None).await
    }

    /// `POST` that must answer 200; its body.
    pub async fn post_ok(&self, path: &str, body: Value) -> Value {
        self.ok(Method::POST, path, Some(body)).await
    }

    /// `PUT` that must answer 200; its body.
    pub async fn put_ok(&self, path: &str, body: Value) -> Value {
        self.ok(Method::PUT, path, Some(body)).await
    }

    /// Any method that must answer 200; its body.
    pub async fn ok(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.json(method.clone(), path, body).await;
        assert_eq!(status, StatusCode::OK, "{method} {path}: {answer}");
        answer
    }

    /// Any method with a JSON body: status and body.
    pub async fn json(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let body = body.map(|body| Bytes::from(body.to_string()));
        let response = self.send(method, path, HeaderMap::new(), body).await;
        (response.status, response.json())
    }

    /// A request with the caller's own headers and bytes. A body gets `Content-Type:
    /// application/json` and the request the access token, unless the headers say otherwise.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Option<Bytes>,
    ) -> Response {
        self.try_send(method, path, headers, body).await.expect("the server answers")
    }

    /// The same for a server that may be stopping: the error says why there is no answer.
    pub async fn try_send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Option<Bytes>,
    ) -> Result<Response, String> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if body.is_some() && !headers.contains_key(header::CONTENT_TYPE) {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(token) = &self.token
            && !headers.contains_key(header::AUTHORIZATION)
        {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let mut request =
            request.body(Full::new(body.unwrap_or_default())).expect("a well-formed request");
        request.headers_mut().extend(headers);
        let response = self.http.request(request).await.map_err(|error| error.to_string())?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        Ok(Response { status: parts.status, headers: parts.headers, body })
    }
}

/// Percent-encodes one segment of a path or value of a query.
#[must_use]
pub fn encode(segment: &str) -> String {
    let mut encoded = String::with_capacity(segment.len() + 8);
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to a string succeeds");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::encode;

    #[test]
    fn encodes_what_separates_segments() {
        assert_eq!(encode("!a_b:c/d é"), "%21a_b%3Ac%2Fd%20%C3%A9");
        assert_eq!(encode("az-._~09"), "az-._~09");
    }
}
