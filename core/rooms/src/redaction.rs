//! Applying redactions: the target's row is rewritten in its redacted form, and what its content had
//! meant to other rows is taken back (CS "Redactions").

use std::sync::Arc;

use bytes::Bytes;
use hearth_storage::Direction;
use hearth_types::Pdu;
use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedUserId, UserId, canonical_json::redact_in_place,
    events::TimelineEventType, room_version_rules::RoomVersionRules,
    state_res::events::RoomPowerLevelsIntField,
};
use serde::Deserialize;

use crate::{
    error::RoomError,
    schema::{
        self, EventOrdinal, EventOrdinalRow, MAIN_TIMELINE, StoredEvent, ThreadRow, TimelineIndex,
    },
    state::StateRoot,
    unread::LedgerUndo,
    writer::{Batch, Context, Facts, Power, Room, StepError, Subject, parse_object},
};

/// The rel_type of a thread's replies.
const THREAD: &str = "m.thread";

/// What a redaction does to its target.
pub(crate) struct RedactionEffect {
    target: StoredEvent,
    /// The target as it was.
    original: Bytes,
    relation: Option<(OwnedEventId, String)>,
    annotation: Option<(OwnedEventId, OwnedUserId, String)>,
    thread: Option<ThreadUndo>,
    ledger: Option<LedgerUndo>,
}

/// A thread that loses a reply.
struct ThreadUndo {
    root_id: OwnedEventId,
    old_index: TimelineIndex,
    row: ThreadRow,
}

impl RedactionEffect {
    /// Finds the target and checks that the sender may redact it. `None` if it is redacted already, or
    /// if a received redaction has no effect.
    pub(crate) fn plan(
        room: &mut Room,
        view: &Context<'_>,
        batch: &Batch,
        subject: &Subject<'_>,
    ) -> Result<Option<Self>, StepError> {
        let Some(target) = Self::target(room, view, subject)? else {
            return Ok(None);
        };
        if target.header.redacted_by.is_some() {
            return Ok(None);
        }
        let index = room.index_of(batch.number, &target)?;
        let event_type = target.pdu.kind().to_string();
        // What cannot be read never had an effect.
        let content = parse_object(target.pdu.content()).unwrap_or_default();
        let facts = Facts::of(&event_type, target.pdu.state_key(), &content);
        let thread = match (&facts.relation, index) {
            (Some(relation), Some(_)) if relation.is_thread() => {
                ThreadUndo::plan(room, view, &relation.parent, &target)?
            }
            _ => None,
        };
        let annotation = facts.relation.as_ref().and_then(|relation| {
            let key = relation.annotation(&event_type)?;
            Some((relation.parent.clone(), target.pdu.sender().to_owned(), key))
        });
        Ok(Some(Self {
            ledger: ledger_undo(room, view, &target, index, &facts)?,
            relation: facts.relation.map(|relation| (relation.parent, relation.rel_type)),
            target: redacted(room, &target, index)?,
            original: target.pdu.json().clone(),
            annotation,
            thread,
        }))
    }

    /// The target, if the redaction is to be applied.
    fn target(
        room: &mut Room,
        view: &Context<'_>,
        subject: &Subject<'_>,
    ) -> Result<Option<Arc<StoredEvent>>, StepError> {
        let target = match subject.redacts {
            Some(target_id) => room.event_by_id(view, target_id)?,
            None => None,
        };
        let Some(before) = subject.received_at else {
            if subject.redacts.is_none() {
                let text = "a redaction must name its target";
                return Err(RoomError::InvalidParam(text.to_owned()).into());
            }
            let target = target.ok_or(RoomError::UnknownEvent)?;
            check_allowed(room, view, subject.sender, &target)?;
            return Ok(Some(target));
        };
        match target {
            Some(target) if target.ordinal == 0 => Ok(None),
            Some(target)
                if room.may_redact(view, subject.sender, target.pdu.sender(), before)? =>
            {
                Ok(Some(target))
            }
            _ => Ok(None),
        }
    }

    /// Writes the rows and announces the new form to the writer's memory.
    pub(crate) fn apply(mut self, room: &mut Room, batch: &mut Batch, by: EventOrdinal) {
        self.target.header.redacted_by = Some(by);
        if let (Some((parent, rel_type)), Some(index)) = (self.relation, self.target.index) {
            batch.commit.delete(&schema::RELATIONS, &room.id, &(parent, rel_type, index));
        }
        if let Some(key) = self.annotation {
            batch.commit.delete(&schema::ANNOTATIONS, &room.id, &key);
            room.local.annotations.insert(key, false);
        }
        if let Some(thread) = self.thread {
            thread.apply(room, batch);
        }
        if let Some(ledger) = self.ledger {
            ledger.apply(room, batch);
        }
        let target = Arc::new(self.target);
        room.keep_unredacted(batch, &target.header.event_id, &self.original);
        batch.replace_event(&room.id, &target);
        room.replace_remembered(&target);
        room.local.events.insert(target.ordinal, target);
    }
}

/// A sender may redact their own events; those of others need the level.
fn check_allowed(
    room: &mut Room,
    view: &Context<'_>,
    sender: &UserId,
    target: &StoredEvent,
) -> Result<(), RoomError> {
    if target.ordinal == 0 {
        return Err(RoomError::Forbidden("the create event cannot be redacted".to_owned()));
    }
    if target.pdu.sender() == sender {
        return Ok(());
    }
    let field = RoomPowerLevelsIntField::Redact;
    if room.with_power(view, |power| power.can(sender, field))? {
        Ok(())
    } else {
        Err(RoomError::Forbidden(
            "you do not have enough power to redact the events of others".to_owned(),
        ))
    }
}

impl Room {
    /// Is a received redaction applied? The target's own server may always redact; others need the
    /// level, in the state before the redaction (rooms/v3 "Handling redactions").
    pub(crate) fn may_redact(
        &self,
        view: &Context<'_>,
        sender: &UserId,
        target_sender: &UserId,
        before: StateRoot,
    ) -> Result<bool, RoomError> {
        if sender.server_name() == target_sender.server_name() {
            return Ok(true);
        }
        let Some(create) = self.state_event_at(view, before, "m.room.create", "")? else {
            return Ok(false);
        };
        let levels = self.state_event_at(view, before, "m.room.power_levels", "")?;
        let levels = levels.as_ref().map(|event| &event.pdu);
        Power::new(&self.rules.authorization, &create.pdu, levels)?
            .can(sender, RoomPowerLevelsIntField::Redact)
    }
}

/// The target in its redacted form.
fn redacted(
    room: &Room,
    target: &StoredEvent,
    index: Option<TimelineIndex>,
) -> Result<StoredEvent, RoomError> {
    let pdu = redacted_pdu(&room.rules, &target.pdu)?;
    Ok(StoredEvent { ordinal: target.ordinal, index, header: target.header.clone(), pdu })
}

/// An event in its redacted form (rooms' "Redactions").
pub(crate) fn redacted_pdu(rules: &RoomVersionRules, pdu: &Pdu) -> Result<Pdu, RoomError> {
    let unreadable = |error: &dyn std::fmt::Display| {
        RoomError::internal(format!("event {} cannot be redacted: {error}", pdu.id()))
    };
    let mut object: CanonicalJsonObject =
        serde_json::from_slice(pdu.json()).map_err(|error| unreadable(&error))?;
    redact_in_place(&mut object, &rules.redaction, None).map_err(|error| unreadable(&error))?;
    let json = serde_json::to_vec(&object).map_err(|error| unreadable(&error))?;
    let redacted =
        Pdu::parse(pdu.id().to_owned(), Bytes::from(json)).map_err(|error| unreadable(&error))?;
    Ok(if pdu.is_rejected() { redacted.into_rejected() } else { redacted })
}

/// The target of a received redaction, from where its room version has it (rooms/v11 "Moving the
/// `redacts` property").
pub(crate) fn received_target(rules: &RoomVersionRules, pdu: &Pdu) -> Option<OwnedEventId> {
    #[derive(Deserialize)]
    struct Holder {
        redacts: Option<OwnedEventId>,
    }
    let is_redaction = *pdu.kind() == TimelineEventType::RoomRedaction && pdu.state_key().is_none();
    if !is_redaction {
        return None;
    }
    let holder = if rules.redaction.content_field_redacts {
        pdu.content_as::<Holder>()
    } else {
        serde_json::from_slice(pdu.json())
    };
    holder.ok()?.redacts
}

/// What the target had added to the ledger.
fn ledger_undo(
    room: &Room,
    view: &Context<'_>,
    target: &StoredEvent,
    index: Option<TimelineIndex>,
    facts: &Facts,
) -> Result<Option<LedgerUndo>, RoomError> {
    let (true, Some(TimelineIndex::Live(position))) = (facts.notifies, index) else {
        return Ok(None);
    };
    let scope = match facts.relation.as_ref().filter(|relation| relation.is_thread()) {
        Some(relation) => match room.thread(view, &relation.parent)? {
            Some((_, row)) => row.root,
            None => MAIN_TIMELINE,
        },
        None => MAIN_TIMELINE,
    };
    let identity = view.rooms.identity();
    let mentions = facts.mentions.iter().filter(|user_id| identity.is_local(user_id));
    Ok(Some(LedgerUndo {
        scope,
        position,
        sender: target.pdu.sender().to_owned(),
        mentions: mentions.cloned().collect(),
    }))
}

impl ThreadUndo {
    fn plan(
        room: &Room,
        view: &Context<'_>,
        root_id: &OwnedEventId,
        target: &StoredEvent,
    ) -> Result<Option<Self>, StepError> {
        if room.local.threads.contains_key(root_id) {
            // The newest replies may not be in the snapshot: wait until they are.
            return Err(StepError::Settle);
        }
        let Some((_, row)) = room.thread(view, root_id)? else {
            return Ok(None);
        };
        let old_index = row.latest_index;
        let mut row = ThreadRow { count: row.count.saturating_sub(1), ..row };
        if row.latest == target.ordinal && row.count > 0 {
            let all = (root_id.clone(), THREAD.to_owned(), TimelineIndex::START)
                ..=(root_id.clone(), THREAD.to_owned(), TimelineIndex::END);
            let page =
                view.snapshot.page(&schema::RELATIONS, &room.id, all, Direction::Backward, 2)?;
            let newest = page.into_iter().find(|(_, reply)| reply.ordinal != target.ordinal);
            match newest {
                Some((key, reply)) => {
                    row.latest_index = key.2;
                    row.latest = reply.ordinal;
                }
                None => row.count = 0,
            }
        }
        Ok(Some(Self { root_id: root_id.clone(), old_index, row }))
    }

    fn apply(self, room: &mut Room, batch: &mut Batch) {
        batch.commit.delete(&schema::THREADS_BY_ACTIVITY, &room.id, &self.old_index);
        if self.row.count > 0 {
            let by_activity = EventOrdinalRow(self.row.root);
            let index = self.row.latest_index;
            batch.commit.put(&schema::THREADS_BY_ACTIVITY, &room.id, &index, &by_activity);
        }
        batch.commit.put(&schema::THREADS, &room.id, &self.root_id, &self.row);
        room.local.threads.insert(self.root_id, (batch.number, self.row));
    }
}
