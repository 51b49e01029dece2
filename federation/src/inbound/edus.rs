//! What a transaction carries beside events (SS "EDUs").

use ruma::{ServerName, api::federation::transactions::edu::Edu, serde::Raw};

use crate::Federation;

/// Takes EDUs of one transaction. Those of users of other servers than `origin`, for rooms that it is
/// not in or that its ACL keeps it out of, are dropped one by one.
pub(super) async fn receive(_federation: &Federation, _origin: &ServerName, _edus: Vec<Raw<Edu>>) {
    unimplemented!("fed-outbound")
}
