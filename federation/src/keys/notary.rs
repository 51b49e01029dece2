//! Vouching for other servers' keys, and telling our own (SS "Publishing Keys", "Querying Keys Through
//! Another Server").

use ruma::{CanonicalJsonObject, OwnedServerName, ServerName, signatures::sign_json};

use super::{
    ANSWERS, KeyRing,
    fetch::{Purpose, parse},
};

impl KeyRing {
    /// This server's keys as it publishes them, signed.
    pub(crate) fn own_answer(&self) -> Result<CanonicalJsonObject, String> {
        self.0.own.answer(&self.0.identity, self.0.clock.now_ms())
    }

    /// The keys of a server as it published them, with this server's signature added: fetched afresh if
    /// those that are kept do not count until `minimum_valid_until_ms`. `None` if they cannot be had.
    pub(crate) async fn vouch(
        &self,
        server: &ServerName,
        minimum_valid_until_ms: u64,
    ) -> Option<CanonicalJsonObject> {
        if server == self.0.identity.server_name() {
            return self.own_answer().ok();
        }
        let kept = self.entry(server).await;
        let suffices = kept.is_some_and(|keys| keys.valid_until_ms >= minimum_valid_until_ms);
        if !suffices || self.kept_answer(server).await.is_none() {
            self.fetch_all(&[server.to_owned()].into(), Purpose::Notary).await;
        }
        let mut answer = parse(&self.kept_answer(server).await?).ok()?;
        let identity = &self.0.identity;
        sign_json(identity.server_name().as_str(), identity.key_pair(), &mut answer).ok()?;
        Some(answer)
    }

    /// The last answer that the server itself gave.
    async fn kept_answer(&self, server: &ServerName) -> Option<bytes::Bytes> {
        let owner: OwnedServerName = server.to_owned();
        let kept = self.0.store.get(&ANSWERS, &owner, &()).await;
        kept.unwrap_or_else(|error| {
            tracing::error!(%server, %error, "a server's keys cannot be read");
            None
        })
    }
}
