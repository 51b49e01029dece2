//! What other servers ask: one module a subject, named as the specification's sections.
//!
//! `auth` proves who asks · `keys` serves keys · `send` takes transactions, `gaps` fetches what they
//! refer to, `edus` what they carry beside events · `rooms` answers about events and state ·
//! `membership` lets users of other servers join, leave, knock and be invited · `queries` are the small
//! ones.

mod auth;
mod edus;
mod gaps;
mod keys;
mod membership;
mod queries;
mod rooms;
mod send;
mod well_known;

pub use self::{auth::Origin, gaps::Gaps};

use hearth_http::{ApiState, Endpoints, Http};

use crate::Federation;

/// What handlers hold.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) federation: Federation,
    http: Http,
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
        .merge(queries::endpoints())
        .merge(well_known::endpoints());
    endpoints.into_router(Api { federation, http })
}
