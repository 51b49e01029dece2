//! The parts of a response that clients encrypt by (CS "Extensions to /sync" of end-to-end encryption).

use std::sync::Arc;

use hearth_e2ee::KeyCounts;

use crate::{
    body::{EventList, Object},
    device_lists::DeviceLists,
};

/// What a response says about encryption.
#[derive(Debug, Default)]
pub(crate) struct Encryption {
    /// Messages to the device.
    pub(crate) to_device: EventList,
    /// Whose devices changed.
    pub(crate) lists: DeviceLists,
    /// What is left of the device's own keys.
    pub(crate) keys: Arc<KeyCounts>,
}

impl Encryption {
    /// Is there nothing to tell? Counts are told in any case and are no news.
    pub(crate) fn is_empty(&self) -> bool {
        self.to_device.is_empty() && self.lists.is_empty()
    }

    pub(crate) fn write(&self, body: &mut Object<'_>) {
        body.events("to_device", &self.to_device);
        if !self.lists.is_empty() {
            let mut lists = Object::begin(body.key("device_lists"));
            lists.member("changed", &self.lists.changed);
            lists.member("left", &self.lists.left);
            lists.end();
        }
        // Without keys none can run out. Clients take a missing count for zero.
        if !self.keys.one_time_keys.is_empty() {
            body.member("device_one_time_keys_count", &self.keys.one_time_keys);
        }
        body.member("device_unused_fallback_key_types", &self.keys.unused_fallback_keys);
    }
}
