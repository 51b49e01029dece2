//! CORS, request IDs, panics and what the log says.

use std::{
    io,
    sync::{Arc, Mutex},
};

use tracing_subscriber::{filter::LevelFilter, fmt::MakeWriter};

use crate::app::{Answer, fixture, request};

const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

fn assert_cors(answer: &Answer) {
    let header = |name: &str| answer.headers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!(header("access-control-allow-origin"), Some("*"));
    let methods = header("access-control-allow-methods");
    assert_eq!(methods, Some("GET, POST, PUT, DELETE, OPTIONS"));
    let headers = header("access-control-allow-headers");
    assert_eq!(headers, Some("X-Requested-With, Content-Type, Authorization"));
}

#[tokio::test]
async fn every_response_may_be_read_by_a_browser() {
    let app = fixture();
    let cases = [
        ("GET", WHOAMI, Some("token_of_alice"), 200),
        ("GET", WHOAMI, None, 401),
        ("GET", "/_matrix/client/v3/nothing", None, 404),
        ("PUT", WHOAMI, None, 405),
        ("GET", WHOAMI, Some("token_of_panic"), 500),
    ];
    for (method, path, token, status) in cases {
        let answer = app.send(request(method, path, token, "")).await;
        assert_eq!(answer.status, status, "{method} {path}");
        assert_cors(&answer);
        answer.json();
    }
}

#[tokio::test]
async fn options_are_answered_everywhere() {
    let app = fixture();
    for path in [WHOAMI, "/_matrix/client/v3/nothing", "/"] {
        let answer = app.send(request("OPTIONS", path, None, "")).await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (204, 0), "{path}");
        assert_cors(&answer);
    }
}

#[tokio::test]
async fn every_response_has_its_own_id() {
    let app = fixture();
    let first = app.get(WHOAMI).await.headers["x-request-id"].clone();
    let second = app.get("/nothing").await.headers["x-request-id"].clone();
    assert_eq!((first.len(), second.len()), (16, 16));
    assert_ne!(first, second);
}

#[tokio::test]
async fn a_panic_is_a_500_that_tells_nothing() {
    let app = fixture();
    let answer = app.send(request("GET", WHOAMI, Some("token_of_panic"), "")).await;
    assert_eq!(answer.error(), (500, "M_UNKNOWN".to_owned()));
    assert!(!String::from_utf8_lossy(&answer.body).contains("secret_of_the_panic"));
    assert_eq!(app.http.in_flight(hearth_http::Lane::Short), 0);
    assert_eq!(app.get(WHOAMI).await.status, 200);
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

fn capture(level: LevelFilter) -> (Log, tracing::subscriber::DefaultGuard) {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(level)
        .with_writer(log.clone())
        .finish();
    (log, tracing::subscriber::set_default(subscriber))
}

#[tokio::test]
async fn the_log_names_routes_and_never_secrets() {
    let (log, _guard) = capture(LevelFilter::TRACE);
    let app = fixture();
    let by_query = format!("{WHOAMI}?access_token=token_of_bob");
    let done = app.send(request("GET", &by_query, None, "")).await;
    assert_eq!(done.status, 200);
    app.get(WHOAMI).await;
    let password = r#"{"type":"m.login.password","password":"hunter2","identifier":{"type":"m.id.user","user":"x"}}"#;
    let login = app.ask("POST", "/_matrix/client/v3/login", password).await;
    assert_eq!(login.error(), (403, "M_FORBIDDEN".to_owned()));
    app.ask("POST", "/_matrix/client/v3/login", r#"{"password":"hunter2""#).await;
    app.get("/nothing/access_token=hunter2?access_token=hunter2").await;

    let text = log.text();
    assert!(text.contains("/_matrix/client/v3/account/whoami"), "{text}");
    assert!(text.contains("method=GET"), "{text}");
    assert!(text.contains("status=200"), "{text}");
    assert!(text.contains("latency_us="), "{text}");
    let request_id = done.headers["x-request-id"].to_str().unwrap();
    assert!(text.contains(request_id), "{text}");
    for secret in ["token_of", "hunter2"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

#[tokio::test]
async fn at_the_usual_level_only_the_servers_faults_are_logged() {
    let (log, _guard) = capture(LevelFilter::INFO);
    let app = fixture();
    app.get(WHOAMI).await;
    app.get("/nothing").await;
    app.send(request("GET", WHOAMI, None, "")).await;
    assert_eq!(log.text(), "");

    let failed = app.send(request("GET", WHOAMI, Some("broken"), "")).await;
    let text = log.text();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("ERROR"), "{text}");
    assert!(text.contains("the store is on fire"), "{text}");
    assert!(text.contains(failed.headers["x-request-id"].to_str().unwrap()), "{text}");

    app.send(request("GET", WHOAMI, Some("token_of_panic"), "")).await;
    assert!(log.text().contains("secret_of_the_panic"));
}
