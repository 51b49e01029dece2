//! Who waits for keys of whom.

use std::collections::{BTreeMap, HashMap, VecDeque};

use parking_lot::Mutex;
use ruma::{
    OneTimeKeyAlgorithm, OwnedDeviceId, OwnedOneTimeKeyId, OwnedUserId, UserId,
    encryption::OneTimeKey, serde::Raw,
};
use tokio::sync::oneshot;

use crate::{E2ee, E2eeError};

/// Devices of one user in one claim at the desk; a request for more comes several times.
const DEVICES_PER_CLAIM: usize = 100;
/// Devices that one commit serves, each with at most three operations.
const DEVICES_PER_COMMIT: usize = 300;
/// Claims that wait for keys of one user; more are refused.
const MAX_WAITING: usize = 10_000;
/// Claims that wait for keys of anybody; more are refused.
const MAX_WAITING_IN_ALL: usize = 50_000;

/// Keys of one user: device, key.
pub(super) type UserKeys = BTreeMap<OwnedDeviceId, BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>>;
type Answer = oneshot::Sender<Result<UserKeys, E2eeError>>;

/// A claim that waits for its turn.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) devices: Vec<(OwnedDeviceId, OneTimeKeyAlgorithm)>,
    pub(super) answer: Answer,
}

/// Claims that wait for their turn.
#[derive(Debug, Default)]
pub(crate) struct ClaimDesk(Mutex<Lines>);

/// The claims of each user who is served at the moment; who is not has no line.
#[derive(Debug, Default)]
struct Lines {
    by_user: HashMap<OwnedUserId, VecDeque<Waiting>>,
    waiting: usize,
}

impl ClaimDesk {
    /// Takes a place in a user's line. True if nobody serves that user yet: then the caller must.
    fn enter(&self, user_id: &UserId, claim: Waiting) -> Result<bool, E2eeError> {
        let mut lines = self.0.lock();
        let line = lines.by_user.get(user_id).map_or(0, VecDeque::len);
        if line >= MAX_WAITING || lines.waiting >= MAX_WAITING_IN_ALL {
            return Err(E2eeError::Busy("claims of keys"));
        }
        lines.waiting += 1;
        if let Some(line) = lines.by_user.get_mut(user_id) {
            line.push_back(claim);
            return Ok(false);
        }
        lines.by_user.insert(user_id.to_owned(), VecDeque::from([claim]));
        Ok(true)
    }

    /// The first claims of a user's line; without any the line ends.
    fn next(&self, user_id: &UserId) -> Vec<Waiting> {
        let mut lines = self.0.lock();
        let (mut batch, mut devices) = (Vec::new(), 0);
        if let Some(line) = lines.by_user.get_mut(user_id) {
            while let Some(claim) = line.front() {
                devices += claim.devices.len();
                if devices > DEVICES_PER_COMMIT && !batch.is_empty() {
                    break;
                }
                batch.extend(line.pop_front());
            }
        }
        lines.waiting = lines.waiting.saturating_sub(batch.len());
        if batch.is_empty() {
            lines.by_user.remove(user_id);
        }
        batch
    }

    /// Nobody serves this user any more: who waits learns that nothing comes.
    fn close(&self, user_id: &UserId) {
        let mut lines = self.0.lock();
        let line = lines.by_user.remove(user_id).unwrap_or_default();
        lines.waiting = lines.waiting.saturating_sub(line.len());
        drop(lines);
        drop(line);
    }
}

/// Closes the line of a user if whoever serves it is cut off.
struct Serving {
    e2ee: E2ee,
    user_id: OwnedUserId,
    done: bool,
}

impl Drop for Serving {
    fn drop(&mut self) {
        if !self.done {
            self.e2ee.inner.claims.close(&self.user_id);
        }
    }
}

impl E2ee {
    /// Claims keys of one user of this server.
    pub(super) async fn claim_of_user(
        &self,
        user_id: &UserId,
        devices: BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>,
    ) -> Result<UserKeys, E2eeError> {
        if !self.users().is_active(user_id).await? {
            return Ok(UserKeys::new());
        }
        let mut devices = devices.into_iter().collect::<VecDeque<_>>();
        let mut claimed = UserKeys::new();
        while !devices.is_empty() {
            let some: Vec<_> = devices.drain(..devices.len().min(DEVICES_PER_CLAIM)).collect();
            match self.claim_some(user_id, some).await {
                Ok(keys) => claimed.extend(keys),
                Err(error) if claimed.is_empty() => return Err(error),
                // What is handed out already is gone: who asked must get it.
                Err(error) => {
                    tracing::warn!(%error, %user_id, "some claims are left out");
                    break;
                }
            }
        }
        Ok(claimed)
    }

    async fn claim_some(
        &self,
        user_id: &UserId,
        devices: Vec<(OwnedDeviceId, OneTimeKeyAlgorithm)>,
    ) -> Result<UserKeys, E2eeError> {
        let (answer, answered) = oneshot::channel();
        if self.inner.claims.enter(user_id, Waiting { devices, answer })? {
            let serving = Serving { e2ee: self.clone(), user_id: user_id.to_owned(), done: false };
            self.spawn(serve(serving));
        }
        let stopped = |_| E2eeError::Internal("claims are not served any more".to_owned());
        answered.await.map_err(stopped)?
    }
}

/// Serves a user's line until it is empty, one commit at a time. Between them others have their turns.
async fn serve(mut serving: Serving) {
    loop {
        let batch = serving.e2ee.inner.claims.next(&serving.user_id);
        if batch.is_empty() {
            serving.done = true;
            return;
        }
        let (e2ee, user_id) = (serving.e2ee.clone(), serving.user_id.clone());
        let work = move || async move {
            e2ee.hand_out(&user_id, batch).await;
            Ok::<_, E2eeError>(())
        };
        if let Err(error) = serving.e2ee.users().in_turn(&serving.user_id, work).await {
            tracing::error!(%error, "claims were not served");
        }
    }
}

impl Waiting {
    /// Does whoever asked still wait?
    pub(super) fn is_wanted(&self) -> bool {
        !self.answer.is_closed()
    }
}
