//! Memberships as events state them.

use hearth_types::Pdu;

use crate::schema::Membership;

impl Membership {
    /// The membership of this name (CS "m.room.member").
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "join" => Self::Join,
            "invite" => Self::Invite,
            "knock" => Self::Knock,
            "leave" => Self::Leave,
            "ban" => Self::Ban,
            _ => return None,
        })
    }

    /// The membership that a membership event gives; `None` for one that states none known.
    #[must_use]
    pub fn of(event: &Pdu) -> Option<Self> {
        #[derive(serde::Deserialize)]
        struct Content<'a> {
            #[serde(borrow)]
            membership: std::borrow::Cow<'a, str>,
        }
        let content: Content<'_> = event.content_as().ok()?;
        Self::named(&content.membership)
    }
}
