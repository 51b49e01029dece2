//! Knocking by way of another server (SS "Knocking upon a room").

use hearth_rooms::{
    CheckedPdu, OutOfBand, RemoteMembership, RoomError, SUPPORTED_VERSIONS, schema::Membership,
};
use ruma::{
    OwnedEventId, RoomId, RoomVersionId, ServerName,
    api::federation::membership::{
        RawStrippedState, create_knock_event::v1 as send_knock,
        prepare_knock_event::v1 as make_knock,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::{
    Remote,
    asking::{Refusals, brief, candidates, raw, refusal},
    template::draft,
};

/// State events that are taken over from the answer to a knock.
const MAX_SHOWN: usize = 50;

impl Remote {
    /// Knocks by way of the first server that takes it.
    pub(super) async fn knock_in_turn(
        &self,
        wish: RemoteMembership,
    ) -> Result<OwnedEventId, RoomError> {
        let _turn = self.room_locks().lock(&wish.room_id).await;
        let own = self.federation().identity().server_name();
        let servers = candidates(own, wish.via.iter().cloned());
        let mut refusals = Refusals::default();
        for server in servers {
            match self.knock_by(&server, &wish).await {
                Ok(knock) => {
                    let event_id = knock.event.pdu().id().to_owned();
                    self.federation().rooms().admit_out_of_band(knock).await?;
                    return Ok(event_id);
                }
                Err(error) => refusals.note(&server, error)?,
            }
        }
        Err(refusals.most_telling())
    }

    async fn knock_by(
        &self,
        server: &ServerName,
        wish: &RemoteMembership,
    ) -> Result<OutOfBand, RoomError> {
        let federation = self.federation();
        let limits = brief(federation);
        let mut request = make_knock::Request::new(wish.room_id.clone(), wish.user_id.clone());
        request.ver = SUPPORTED_VERSIONS.to_vec();
        let answer = federation.client().send(server, request, limits).await.map_err(refusal)?;
        let draft = draft(&answer.event, Some(answer.room_version), wish, Membership::Knock)
            .map_err(|error| error.into_room_error(server))?;
        let room_version = draft.room_version.clone();
        let event = self.finish(&draft, server)?;
        let event_id = event.pdu().id().to_owned();
        let request = send_knock::Request::new(wish.room_id.clone(), event_id, raw(&event)?);
        let answer = federation.client().send(server, request, limits).await.map_err(refusal)?;
        // The knock is taken, so it stands, however much is shown.
        let mut shown = answer.knock_room_state;
        shown.truncate(MAX_SHOWN);
        let stripped_state = self.stripped(&room_version, &wish.room_id, shown).await;
        Ok(OutOfBand {
            room_id: wish.room_id.clone(),
            room_version,
            user_id: wish.user_id.clone(),
            event,
            stripped_state,
        })
    }

    /// State as a client may see it: full events are checked first, and left out if they do not pass.
    async fn stripped(
        &self,
        version: &RoomVersionId,
        room_id: &RoomId,
        shown: Vec<RawStrippedState>,
    ) -> Vec<Box<RawValue>> {
        let (mut stripped, mut full) = (Vec::new(), Vec::new());
        for event in shown {
            match event {
                RawStrippedState::Pdu(event) => full.push(event),
                #[expect(deprecated, reason = "servers before Matrix 1.16 send it")]
                RawStrippedState::Stripped(event) => stripped.extend(bare(event.json())),
                _ => {}
            }
        }
        let checked = self.checked(version, room_id, full).await;
        stripped.extend(checked.iter().filter_map(strip));
        stripped
    }
}

/// The four fields of stripped state (CS "Stripped state").
#[derive(Serialize, Deserialize)]
struct Stripped {
    content: Box<RawValue>,
    sender: ruma::OwnedUserId,
    state_key: String,
    #[serde(rename = "type")]
    kind: String,
}

fn bare(event: &RawValue) -> Option<Box<RawValue>> {
    let event: Stripped = serde_json::from_str(event.get()).ok()?;
    to_raw_value(&event).ok()
}

fn strip(event: &CheckedPdu) -> Option<Box<RawValue>> {
    let pdu = event.pdu();
    let stripped = Stripped {
        content: pdu.content().to_owned(),
        sender: pdu.sender().to_owned(),
        state_key: pdu.state_key()?.to_owned(),
        kind: pdu.kind().to_string(),
    };
    to_raw_value(&stripped).ok()
}
