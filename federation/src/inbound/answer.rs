//! Answers that hold PDUs: put together from their bytes, which are JSON already.

use bytes::Bytes;
use hearth_http::{MatrixError, RawJson};
use hearth_storage::run_blocking;
use serde::Serialize;

use super::error::ApiError;

/// Answers with more bytes of PDUs are put together off the async threads.
const INLINE_BYTES: usize = 256 * 1024;

/// A JSON object with members that are lists of PDUs.
#[derive(Debug, Default)]
pub(super) struct PduAnswer {
    plain: Vec<(&'static str, Vec<u8>)>,
    lists: Vec<(&'static str, Vec<Bytes>)>,
    single: Option<(&'static str, Bytes)>,
}

impl PduAnswer {
    /// Adds an ordinary member.
    pub(super) fn member(
        mut self,
        name: &'static str,
        value: &impl Serialize,
    ) -> Result<Self, ApiError> {
        let json = serde_json::to_vec(value).map_err(|error| MatrixError::internal(&error))?;
        self.plain.push((name, json));
        Ok(self)
    }

    /// Adds a list of PDUs.
    pub(super) fn pdus(mut self, name: &'static str, pdus: Vec<Bytes>) -> Self {
        self.lists.push((name, pdus));
        self
    }

    /// Adds one PDU that stands by itself.
    pub(super) fn pdu(mut self, name: &'static str, pdu: Bytes) -> Self {
        self.single = Some((name, pdu));
        self
    }

    /// The answer.
    pub(super) async fn finish(self) -> Result<RawJson, ApiError> {
        if self.bytes() <= INLINE_BYTES {
            return Ok(RawJson::from(self.write()));
        }
        let json = run_blocking(move || self.write())
            .await
            .map_err(|error| MatrixError::internal(&error))?;
        Ok(RawJson::from(json))
    }

    fn bytes(&self) -> usize {
        self.lists.iter().flat_map(|(_, pdus)| pdus).map(|pdu| pdu.len() + 1).sum()
    }

    fn write(self) -> Vec<u8> {
        let mut json = Vec::with_capacity(self.bytes() + 1024);
        let name = |json: &mut Vec<u8>, name: &str| {
            json.push(if json.is_empty() { b'{' } else { b',' });
            // Names are this program's, and need no escapes.
            json.extend_from_slice(format!("\"{name}\":").as_bytes());
        };
        for (key, value) in self.plain {
            name(&mut json, key);
            json.extend_from_slice(&value);
        }
        if let Some((key, pdu)) = self.single {
            name(&mut json, key);
            json.extend_from_slice(&pdu);
        }
        for (key, pdus) in self.lists {
            name(&mut json, key);
            json.push(b'[');
            for (place, pdu) in pdus.iter().enumerate() {
                if place > 0 {
                    json.push(b',');
                }
                json.extend_from_slice(pdu);
            }
            json.push(b']');
        }
        if json.is_empty() {
            json.push(b'{');
        }
        json.push(b'}');
        json
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    async fn written(answer: PduAnswer) -> Value {
        serde_json::from_slice(&answer.finish().await.unwrap().0).unwrap()
    }

    #[tokio::test]
    async fn puts_members_together() {
        let pdu = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let answer = PduAnswer::default()
            .member("origin", &"hs.test\"")
            .unwrap()
            .pdus("none", Vec::new())
            .pdus("pdus", vec![pdu(r#"{"a":1}"#), pdu(r#"{"b":2}"#)])
            .pdu("event", pdu("{}"));
        let wanted = json!({
            "origin": "hs.test\"", "none": [], "pdus": [{ "a": 1 }, { "b": 2 }], "event": {},
        });
        assert_eq!(written(answer).await, wanted);
        assert_eq!(written(PduAnswer::default()).await, json!({}));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn large_answers_are_whole() {
        let pdu = Bytes::from(format!("\"{}\"", "x".repeat(60_000)));
        let answer = PduAnswer::default().pdus("state", vec![pdu; 50]);
        assert_eq!(written(answer).await["state"].as_array().unwrap().len(), 50);
    }
}
