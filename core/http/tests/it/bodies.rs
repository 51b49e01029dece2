//! What may be in a body, and what each fault is called.

use axum::body::Body;
use hearth_http::HttpConfig;
use serde_json::json;

use crate::app::{Answer, fixture, fixture_with};

const SEND: &str = "/_matrix/client/v3/rooms/!a:example.org/send/m.room.message/1";
const CREATE: &str = "/_matrix/client/v3/createRoom";

async fn put(body: impl Into<Body>) -> Answer {
    fixture().ask("PUT", SEND, body).await
}

async fn post(body: impl Into<Body>) -> Answer {
    fixture().ask("POST", CREATE, body).await
}

fn nested(levels: usize) -> String {
    format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels))
}

#[tokio::test]
async fn a_good_body_arrives_as_it_was_sent() {
    let answer = put(r#"{"body": "hi",  "n": 1}"#).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["content"], json!({ "body": "hi", "n": 1 }));
    assert_eq!(answer.json()["sender"], "@alice:example.org");
}

#[tokio::test]
async fn what_is_not_json_is_called_so() {
    let not_json = (400, "M_NOT_JSON".to_owned());
    for body in ["{", "nonsense", r#"{"a":}"#, r#"{"a":1}}"#, r#"{"a":01}"#, "[1,", r#"{"a":"\x"}"#]
    {
        assert_eq!(put(body).await.error(), not_json, "PUT {body}");
        assert_eq!(post(body).await.error(), not_json, "POST {body}");
    }
    // A wrong type comes first, but the whole is no JSON.
    assert_eq!(post(r#"{"name": 5, "#).await.error(), not_json);
    let not_utf8 = [b'{', b'"', 0xff, b'"', b':', b'1', b'}'];
    assert_eq!(put(not_utf8.to_vec()).await.error(), not_json);
    assert_eq!(post(not_utf8.to_vec()).await.error(), not_json);
}

#[tokio::test]
async fn json_of_the_wrong_shape_is_called_so() {
    let bad_json = (400, "M_BAD_JSON".to_owned());
    for body in ["[]", "5", r#""text""#, "null", "true", "[{}]"] {
        assert_eq!(put(body).await.error(), bad_json, "PUT {body}");
        assert_eq!(post(body).await.error(), bad_json, "POST {body}");
    }
    let wrong = [
        r#"{"name": 5}"#,
        r#"{"invite": "@a:b"}"#,
        r#"{"invite": ["no user"]}"#,
        r#"{"name": "a", "name": "b"}"#,
        r#"{"is_direct": 18446744073709551616}"#,
        r#"{"initial_state": {}}"#,
    ];
    for body in wrong {
        assert_eq!(post(body).await.error(), bad_json, "{body}");
    }
    let login = fixture().ask("POST", "/_matrix/client/v3/login", "{}").await;
    assert_eq!(login.error(), bad_json);
}

#[tokio::test]
async fn numbers_of_any_size_are_no_fault_of_the_servers() {
    let huge = format!(r#"{{"n": {}}}"#, "9".repeat(5_000));
    for body in [huge.as_str(), r#"{"n": 1e999}"#, r#"{"n": -1.5e-7}"#, r#"{"n": -0}"#] {
        assert!(put(body.to_owned()).await.status.as_u16() < 500, "{body}");
        assert!(post(body.to_owned()).await.status.as_u16() < 500, "{body}");
    }
    let huge_level = r#"{"power_level_content_override": {"ban": 99999999999999999999}}"#;
    assert!(post(huge_level).await.status.as_u16() < 500);
}

#[tokio::test]
async fn nesting_is_bounded() {
    assert_eq!(put(nested(100)).await.status, 200);
    for levels in [101, 128, 150_000] {
        assert_eq!(put(nested(levels)).await.error(), (400, "M_BAD_JSON".to_owned()));
        assert_eq!(post(nested(levels)).await.error(), (400, "M_BAD_JSON".to_owned()));
    }
    let open = "[".repeat(500_000);
    assert_eq!(put(open.clone()).await.error(), (400, "M_NOT_JSON".to_owned()));
    assert_eq!(put(format!(r#"{{"a":{open}"#)).await.error(), (400, "M_BAD_JSON".to_owned()));
}

#[tokio::test]
async fn an_empty_body_means_an_empty_object_where_nothing_is_stored() {
    let app = fixture();
    for path in ["/_matrix/client/v3/join/%23a:b", "/_matrix/client/v3/logout", CREATE] {
        for body in ["", "  \n", "{}"] {
            assert_eq!(app.ask("POST", path, body).await.status, 200, "{path} {body:?}");
        }
    }
    assert_eq!(app.ask("PUT", SEND, "").await.error(), (400, "M_NOT_JSON".to_owned()));
    // An endpoint without a body still wants JSON if it is sent something.
    let logout = app.ask("POST", "/_matrix/client/v3/logout", "{nonsense").await;
    assert_eq!(logout.error(), (400, "M_NOT_JSON".to_owned()));
}

#[tokio::test]
async fn bodies_have_a_greatest_size() {
    let app = fixture_with(HttpConfig { max_json_bytes: 65_536, ..HttpConfig::default() });
    let body_of = |bytes: usize| format!(r#"{{"body":"{}"}}"#, "x".repeat(bytes - 11));
    assert_eq!(app.ask("PUT", SEND, body_of(65_536)).await.status, 200);
    let too_large = (413, "M_TOO_LARGE".to_owned());
    assert_eq!(app.ask("PUT", SEND, body_of(65_537)).await.error(), too_large);
    // In pieces, with no length announced.
    let pieces = (0..100).map(|_| Ok::<_, std::io::Error>("x".repeat(10_000)));
    let stream = Body::from_stream(futures_util::stream::iter(pieces));
    assert_eq!(app.ask("PUT", SEND, stream).await.error(), too_large);
}

#[tokio::test]
async fn a_body_cut_short_is_the_clients_fault() {
    let pieces = [Ok("{".to_owned()), Err(std::io::Error::other("gone"))];
    let stream = Body::from_stream(futures_util::stream::iter(pieces));
    assert_eq!(put(stream).await.error(), (400, "M_UNKNOWN".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_given_up() {
    let stream = futures_util::stream::pending::<Result<String, std::io::Error>>();
    assert_eq!(put(Body::from_stream(stream)).await.error(), (408, "M_UNKNOWN".to_owned()));
}

#[tokio::test]
async fn raw_bodies_are_not_json_and_have_their_own_size() {
    let app = fixture();
    let path = "/_matrix/media/v3/upload";
    let answer = app.ask("POST", path, vec![0xff; 10_000]).await;
    assert_eq!(answer.json(), json!({ "content_uri": "mxc://example.org/10000" }));
    let answer = app.ask("POST", path, vec![0xff; 10_001]).await;
    assert_eq!(answer.error(), (413, "M_TOO_LARGE".to_owned()));
    let answer = app.ask("POST", path, "").await;
    assert_eq!(answer.json(), json!({ "content_uri": "mxc://example.org/0" }));
}

#[tokio::test]
async fn a_parser_that_panics_is_no_fault_of_the_servers() {
    // A `type` of any kind gets past the check and into the parser.
    for body in [r#"{"type":5}"#, r#"{"type":null}"#, r#"{"type":"x"}"#, r#"{"type":[]}"#] {
        let answer = fixture().ask("POST", "/_matrix/client/v3/login", body).await;
        assert!(!answer.status.is_server_error(), "{body}: {answer:?}");
    }
    let unchecked = crate::app::unchecked_login();
    let answer = unchecked.ask("POST", "/_matrix/client/v3/login", "{}").await;
    assert_eq!(answer.error(), (400, "M_BAD_JSON".to_owned()));
}
