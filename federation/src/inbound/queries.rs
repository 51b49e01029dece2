//! TODO-OWNER: module docs.

use hearth_http::Endpoints;

use super::Api;

/// The endpoints of this module.
pub(super) fn endpoints() -> Endpoints<Api> {
    Endpoints::new()
}
