//! Policy servers (SS "Policy Servers"): servers whose signature a room wants on its events.
//!
//! The writer decides whether an event needs the signature and has it, by the current state; asking for
//! one happens here, outside of the writer's turn.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use hearth_types::{Pdu, limits::MAX_PDU_BYTES};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, RoomId, ServerName,
    events::room::policy::{POLICY_SERVER_ED25519_SIGNING_KEY_ID, RoomPolicyEventContent},
    room_version_rules::RoomVersionRules,
    serde::Base64,
    signatures::verify_policy_server_signature,
};
use serde::Deserialize;

use crate::{CheckedPdu, Rooms, error::RoomError, schema::StoredEvent};

/// The state that names a room's policy server, with an empty state key.
pub(crate) const POLICY: &str = "m.room.policy";
/// Received events of one room that its policy server is asked about at a time.
const ASKED_AT_A_TIME: usize = 8;

/// The policy server that a room names.
#[derive(Clone, Debug)]
pub(crate) struct PolicyServer {
    server: OwnedServerName,
    /// With which key it signs; `None` if that is no key, which nothing is signed with.
    key: Option<RoomPolicyEventContent>,
}

/// The part of the state event that must be there; the rest may be anything.
#[derive(Deserialize)]
struct Content {
    via: String,
    public_keys: PublicKeys,
}

#[derive(Deserialize)]
struct PublicKeys {
    ed25519: String,
}

impl PolicyServer {
    /// Reads the state event. `None` if it names none.
    pub(crate) fn named_by(event: &StoredEvent) -> Option<Self> {
        let content: Content = event.pdu.content_as().ok()?;
        // What is no server's name has nobody in the room.
        let server = ServerName::parse(content.via).ok()?;
        let key = Base64::parse(content.public_keys.ed25519).ok();
        let key = key.map(|key| RoomPolicyEventContent::new(server.clone(), key));
        Some(Self { server, key })
    }

    /// Its name.
    pub(crate) fn server(&self) -> &ServerName {
        &self.server
    }

    /// Has it signed the event? It is not asked about the state event that names it.
    pub(crate) fn recommends(&self, rules: &RoomVersionRules, pdu: &Pdu) -> bool {
        if names_policy(&pdu.kind().to_string(), pdu.state_key()) {
            return true;
        }
        let Some(key) = &self.key else { return false };
        let object: Result<CanonicalJsonObject, _> = serde_json::from_slice(pdu.json());
        object.is_ok_and(|object| verify_policy_server_signature(key, &object, rules).is_ok())
    }
}

/// Is it the state event that names the room's policy server?
pub(crate) fn names_policy(event_type: &str, state_key: Option<&str>) -> bool {
    event_type == POLICY && state_key == Some("")
}

/// The event with the server's signature beside those that it has.
fn with_signature(
    event: &CheckedPdu,
    server: &ServerName,
    signature: String,
) -> Result<CheckedPdu, RoomError> {
    let unreadable = |error: &dyn std::fmt::Display| RoomError::BadJson(error.to_string());
    let pdu = event.pdu();
    let mut object: CanonicalJsonObject =
        serde_json::from_slice(pdu.json()).map_err(|error| unreadable(&error))?;
    let nothing = || CanonicalJsonValue::Object(CanonicalJsonObject::new());
    let signatures = object.entry("signatures".to_owned()).or_insert_with(nothing);
    if let CanonicalJsonValue::Object(signatures) = signatures
        && let CanonicalJsonValue::Object(own) =
            signatures.entry(server.to_string()).or_insert_with(nothing)
    {
        own.insert(POLICY_SERVER_ED25519_SIGNING_KEY_ID.to_owned(), signature.into());
    }
    let json = serde_json::to_vec(&object).map_err(|error| unreadable(&error))?;
    if json.len() > MAX_PDU_BYTES {
        return Err(RoomError::TooLarge);
    }
    // Signatures are no part of the ID.
    let signed = Pdu::parse(pdu.id().to_owned(), Bytes::from(json));
    signed.map(CheckedPdu::new).map_err(|error| unreadable(&error))
}

impl Rooms {
    /// The policy server that the room uses now (SS "Determining if a Policy Server is enabled in a
    /// room"): the one that its current state names, if that has a joined user in the room.
    async fn policy_server(&self, room_id: &RoomId) -> Result<Option<PolicyServer>, RoomError> {
        let head = self.head(room_id).await?.ok_or(RoomError::UnknownRoom)?;
        let event = self.state_event(room_id, head.state, POLICY, "").await?;
        let Some(policy) = event.as_deref().and_then(PolicyServer::named_by) else {
            return Ok(None);
        };
        let joined = if policy.server == self.identity().server_name() {
            head.joined_local_members > 0
        } else {
            self.has_joined_server(room_id, &policy.server).await?
        };
        Ok(joined.then_some(policy))
    }

    /// Has the room's policy server sign an event of this server's own making, if the room uses one
    /// and it has not signed yet.
    ///
    /// # Errors
    ///
    /// [`RoomError::Refused`] with what it says against the event; [`RoomError::Remote`] if it does not
    /// answer, or signs with another key than the room names; [`RoomError::TooLarge`] if the event has
    /// no room for the signature.
    pub(crate) async fn recommended(
        &self,
        room_id: &RoomId,
        event: CheckedPdu,
    ) -> Result<CheckedPdu, RoomError> {
        let Some(policy) = self.policy_server(room_id).await? else {
            return Ok(event);
        };
        let rules = self.rules_of(room_id).await?;
        if policy.recommends(&rules, event.pdu()) {
            return Ok(event);
        }
        self.ask(&policy, &rules, &event).await
    }

    /// Asks the room's policy server about those received events that it has not signed. Those that it
    /// does not sign stay as they are.
    pub(crate) async fn ask_about(
        &self,
        room_id: &RoomId,
        events: Vec<CheckedPdu>,
    ) -> Result<Vec<CheckedPdu>, RoomError> {
        let Some(policy) = self.policy_server(room_id).await? else {
            return Ok(events);
        };
        let rules = self.rules_of(room_id).await?;
        let (policy, rules) = (&policy, &rules);
        let asked = events.into_iter().map(|event| async move {
            if policy.recommends(rules, event.pdu()) {
                return event;
            }
            self.ask(policy, rules, &event).await.unwrap_or_else(|error| {
                let event_id = event.pdu().id();
                tracing::debug!(%room_id, %event_id, %error, "not signed by the policy server");
                event
            })
        });
        Ok(stream::iter(asked).buffered(ASKED_AT_A_TIME).collect().await)
    }

    /// Asks for a signature, and checks it.
    async fn ask(
        &self,
        policy: &PolicyServer,
        rules: &RoomVersionRules,
        event: &CheckedPdu,
    ) -> Result<CheckedPdu, RoomError> {
        let server = policy.server();
        let unreachable =
            || RoomError::Remote(format!("the room's policy server {server} cannot be reached"));
        let remote = self.remote().ok_or_else(unreachable)?;
        let signature = remote.policy_signature(server.to_owned(), event.clone()).await?;
        let signed = with_signature(event, server, signature)?;
        if policy.recommends(rules, signed.pdu()) {
            return Ok(signed);
        }
        let text =
            format!("the room's policy server {server} signs with another key than it should");
        Err(RoomError::Remote(text))
    }

    async fn rules_of(&self, room_id: &RoomId) -> Result<RoomVersionRules, RoomError> {
        let head = self.head(room_id).await?.ok_or(RoomError::UnknownRoom)?;
        let unsupported = || RoomError::UnsupportedVersion(head.version.to_string());
        head.version.rules().ok_or_else(unsupported)
    }
}
