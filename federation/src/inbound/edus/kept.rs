//! EDUs about encryption that former versions kept until there was somebody to use them: handed over once,
//! when the server starts, in the order in which they came.

use std::ops::ControlFlow;

use bytes::Bytes;
use hearth_e2ee::E2eeError;
use hearth_storage::{Commit, Keyspace, Positioned};
use hearth_types::StreamPosition;
use ruma::{OwnedServerName, ServerName};

use crate::Federation;

/// EDUs by server; clustering: the EDU's type, its subject (message ID with its sender, device with its
/// user, or user). The value is the content as JSON behind the position at which it was written.
pub(crate) const KEPT_EDUS: Keyspace<OwnedServerName, Key, Positioned<Bytes>> =
    Keyspace::new("federation_kept_edus");

/// How many rows of [`KEPT_EDUS`] a server had.
pub(crate) const KEPT_EDU_COUNTS: Keyspace<OwnedServerName, (), Bytes> =
    Keyspace::new("federation_kept_edu_counts");

/// Type, subject and the subject's owner.
type Key = (String, String, String);

/// Hands over what is kept. What fails is handed over with the next start.
pub(crate) async fn hand_over_kept(federation: Federation) {
    if let Err(error) = hand_over(&federation).await {
        tracing::error!(%error, "kept EDUs stay for now");
    }
}

async fn hand_over(federation: &Federation) -> Result<(), E2eeError> {
    let store = federation.store();
    let read = store.bulk(|view| {
        let mut kept = Vec::new();
        view.for_each(&KEPT_EDUS, |origin, key, row| {
            kept.push((row.position, origin, key));
            ControlFlow::Continue(())
        })?;
        Ok(kept)
    });
    // Former versions bounded how many there are.
    let mut kept: Vec<(StreamPosition, OwnedServerName, Key)> = read.await?;
    kept.sort_unstable();
    for (_, origin, key) in kept {
        if let Some(row) = store.get(&KEPT_EDUS, &origin, &key).await? {
            give(federation, &origin, &key.0, &row.record).await?;
        }
        let mut commit = Commit::new(&origin).lazy();
        commit.delete(&KEPT_EDUS, &origin, &key);
        commit.delete(&KEPT_EDU_COUNTS, &origin, &());
        store.commit(commit).await?;
    }
    Ok(())
}

async fn give(
    federation: &Federation,
    origin: &ServerName,
    kind: &str,
    content: &[u8],
) -> Result<(), E2eeError> {
    let e2ee = federation.e2ee();
    let malformed = |error: serde_json::Error| {
        tracing::warn!(%error, %origin, kind, "a kept EDU is dropped");
    };
    match kind {
        "m.direct_to_device" => match serde_json::from_slice(content) {
            Ok(content) => e2ee.receive_to_device(origin, vec![content]).await?,
            Err(error) => malformed(error),
        },
        "m.device_list_update" => match serde_json::from_slice(content) {
            Ok(content) => e2ee.receive_device_list_update(origin, content).await?,
            Err(error) => malformed(error),
        },
        "m.signing_key_update" => match serde_json::from_slice(content) {
            Ok(content) => e2ee.receive_signing_key_update(origin, content).await?,
            Err(error) => malformed(error),
        },
        _ => {}
    }
    Ok(())
}
