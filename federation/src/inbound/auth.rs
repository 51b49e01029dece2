//! Who asks: `X-Matrix` (SS "Request Authentication").

use ruma::OwnedServerName;

/// The server that has proven to have sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(pub OwnedServerName);
