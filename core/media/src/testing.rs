//! What the tests of this crate's modules stand on.

use std::sync::Arc;

use hearth_storage::Store;
use hearth_types::{ManualClock, ServerIdentity};
use ruma::owned_server_name;

use crate::{Blobs, KEYSPACES, Media, MediaConfig, MediaParts};

/// When the clocks of tests begin, in milliseconds since the epoch.
const START_MS: u64 = 1_700_000_000_000;

/// The media of `hearth.test`, on a clock that the test moves.
pub(crate) fn media(store: Store, blobs: Blobs, config: MediaConfig) -> (Media, Arc<ManualClock>) {
    let key = ServerIdentity::generate_key();
    let name = owned_server_name!("hearth.test");
    let identity = ServerIdentity::from_der(name, &key, "1".to_owned()).unwrap();
    let clock = Arc::new(ManualClock::new(START_MS));
    let parts =
        MediaParts { store, blobs, identity: Arc::new(identity), clock: clock.clone(), config };
    (Media::open(parts), clock)
}

/// The same with nothing on a disk.
pub(crate) fn media_in_memory(config: MediaConfig) -> (Media, Arc<ManualClock>) {
    media(Store::memory_for_tests(KEYSPACES), Blobs::in_memory(), config)
}
