//! What the server answers: its keys and its version.

use bytes::Bytes;
use http::Request;
use serde::Deserialize;

use super::{Examination, Failed, date};
use crate::{
    keys,
    transport::{Limits, Transport as _},
};

/// The largest answer that is read.
const MAX_BYTES: usize = 64 * 1024;

/// Bytes of the software's name, and of its version, that are told.
const MAX_NAME_BYTES: usize = 100;

/// The answer to `GET /_matrix/federation/v1/version`. Both fields may be missing.
#[derive(Deserialize)]
struct Version {
    #[serde(default)]
    server: Software,
}

#[derive(Default, Deserialize)]
struct Software {
    #[serde(default)]
    name: String,
    #[serde(default)]
    version: String,
}

impl Examination<'_> {
    /// Its keys: are they its own, signed with one of them, and do they still count?
    pub(super) async fn keys(&mut self) -> Result<(), Failed> {
        let body = self.get("/_matrix/key/v2/server").await?;
        let now_ms = self.clock.now_ms();
        let told = match keys::read_answer(self.server, &body, now_ms) {
            Ok(told) => told,
            Err(why) => return Err(self.bad(format!("the answer is not believed: {why}"))),
        };
        self.good(format!("keys of {}: {}", self.server, told.current.join(", ")));
        self.good(format!("signed with {}", told.signed_with.join(", ")));
        if !told.old.is_empty() {
            self.note(format!("keys that it had before: {}", told.old.join(", ")));
        }
        let until = date(told.valid_until_ms);
        if told.valid_until_ms < now_ms {
            return Err(self.bad(format!("they were valid until {until}, and are not any more")));
        }
        self.good(format!("valid until {until}"));
        Ok(())
    }

    /// Its software.
    pub(super) async fn version(&mut self) -> Result<(), Failed> {
        let body = self.get("/_matrix/federation/v1/version").await?;
        let software = match serde_json::from_slice::<Version>(&body) {
            Ok(Version { server }) => server,
            Err(error) => return Err(self.bad(format!("the answer is no version: {error}"))),
        };
        if software.name.is_empty() {
            self.note("does not tell its software");
        } else {
            self.good(format!("{} {}", shortened(&software.name), shortened(&software.version)));
        }
        Ok(())
    }

    /// A request as all others go, without a signature.
    async fn get(&mut self, path: &'static str) -> Result<Bytes, Failed> {
        self.step(format!("GET {path}"));
        let limits = Limits { timeout: self.config.request_timeout(), max_bytes: MAX_BYTES };
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = http::Uri::from_static(path);
        let response = match self.transport.send(self.server, request, limits).await {
            Ok(response) => response,
            Err(error) => return Err(self.bad(error.to_string())),
        };
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        let status = response.status();
        Err(self
            .bad(format!("answered {status}: is it a Matrix server that is behind this address?")))
    }
}

/// As much of a name as fits on a line.
fn shortened(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_NAME_BYTES)).unwrap_or_default()
}
