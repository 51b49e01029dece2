//! What other servers ask: one module a subject, named as the specification's sections.
//!
//! `auth` proves who asks · `keys` serves keys · `send` takes transactions, `gaps` fetches what they
//! refer to, `edus` what they carry beside events, `ended` invitations that are taken back · `rooms`
//! answers about events and state · `membership` lets users of other servers join, leave and knock ·
//! `invites` and `third_party` take invitations · `queries` are the small ones · `devices` and `media`
//! tell of what users upload · `answer` and `error` shape the responses.

mod answer;
mod auth;
mod devices;
mod edus;
mod ended;
mod error;
mod gaps;
mod invites;
mod keys;
mod media;
mod membership;
mod queries;
mod rooms;
mod send;
mod third_party;
mod well_known;

pub use self::{auth::Origin, gaps::Gaps};
pub(crate) use self::{
    edus::{KEPT_EDU_COUNTS, KEPT_EDUS, hand_over_kept},
    gaps::{HOLES, Holes, Turns, fill_holes},
    send::{ANSWERED, ANSWERED_ORDER},
};

use hearth_http::{ApiState, Endpoints, Http};
use hearth_rooms::Rooms;

use crate::Federation;

/// What handlers hold.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) federation: Federation,
    transactions: send::Transactions,
    http: Http,
}

impl Api {
    /// Rooms.
    fn rooms(&self) -> &Rooms {
        self.federation.rooms()
    }
}

#[cfg(test)]
impl Api {
    fn for_tests(federation: Federation, http: Http) -> Self {
        Self { federation, transactions: send::Transactions::default(), http }
    }
}

impl ApiState for Api {
    fn http(&self) -> &Http {
        &self.http
    }
}

/// All endpoints.
pub(crate) fn router(federation: Federation, http: Http) -> axum::Router {
    let endpoints = Endpoints::new()
        .merge(keys::endpoints())
        .merge(send::endpoints())
        .merge(rooms::endpoints())
        .merge(membership::endpoints())
        .merge(invites::endpoints())
        .merge(third_party::endpoints())
        .merge(queries::endpoints())
        .merge(devices::endpoints())
        .merge(media::endpoints())
        .merge(well_known::endpoints());
    endpoints.into_router(Api { federation, transactions: send::Transactions::default(), http })
}
