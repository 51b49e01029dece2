//! A batch of claims in its user's turn: one commit, then the answers.

use std::{collections::BTreeMap, sync::Arc};

use hearth_storage::{Commit, Direction, Positioned};
use hearth_types::{StreamPosition, limits::MAX_ID_BYTES};
use ruma::{
    OneTimeKeyAlgorithm, OwnedDeviceId, OwnedOneTimeKeyId, OwnedUserId, encryption::OneTimeKey,
    serde::Raw,
};
use serde_json::value::RawValue;

use super::desk::{UserKeys, Waiting};
use crate::{
    E2ee, E2eeError, KeyCounts,
    one_time_keys::{full_id, public_part},
    schema::{CLAIMED_KEYS, FALLBACK_KEYS, KeyRow, ONE_TIME_KEYS},
};

/// The keys that claims of a batch get: for each device and algorithm in the order of the claims.
type Places = BTreeMap<(OwnedDeviceId, String), Vec<usize>>;

/// A key that was handed out.
struct Given {
    /// Which claim of the batch gets it.
    to: usize,
    device_id: OwnedDeviceId,
    key_id: OwnedOneTimeKeyId,
    key: Raw<OneTimeKey>,
}

/// What a commit of claims changes.
struct HandOut {
    commit: Commit,
    given: Vec<Given>,
    counts: BTreeMap<OwnedDeviceId, KeyCounts>,
}

impl E2ee {
    /// In the user's turn: hands out keys to a batch of claims and answers them.
    pub(super) async fn hand_out(&self, user_id: &OwnedUserId, mut batch: Vec<Waiting>) {
        batch.retain(Waiting::is_wanted);
        match self.commit_claims(user_id, &batch).await {
            Ok(given) => {
                let mut answers: Vec<UserKeys> = batch.iter().map(|_| UserKeys::new()).collect();
                for Given { to, device_id, key_id, key } in given {
                    if let Some(answer) = answers.get_mut(to) {
                        answer.entry(device_id).or_default().insert(key_id, key);
                    }
                }
                for (claim, keys) in batch.into_iter().zip(answers) {
                    // Who went meanwhile goes without.
                    drop(claim.answer.send(Ok(keys)));
                }
            }
            Err(error) => {
                let text = error.to_string();
                for claim in batch {
                    drop(claim.answer.send(Err(E2eeError::Internal(text.clone()))));
                }
            }
        }
    }

    async fn commit_claims(
        &self,
        user_id: &OwnedUserId,
        batch: &[Waiting],
    ) -> Result<Vec<Given>, E2eeError> {
        let (commit, given) = (Commit::new(user_id), Vec::new());
        let mut work = HandOut { commit, given, counts: BTreeMap::new() };
        let position = work.commit.next_position();
        for ((device_id, algorithm), claims) in places(batch) {
            let left = self
                .give_one_time_keys(&mut work, user_id, &device_id, &algorithm, position, claims)
                .await?;
            self.give_fallback_key(&mut work, user_id, &device_id, &algorithm, left).await?;
        }
        if work.commit.is_empty() {
            return Ok(work.given);
        }
        // Whoever looks when the commit is published waits for the end of this turn.
        self.forget_key_counts(user_id, work.counts.keys());
        let changed = self.store().commit(work.commit).await?.last;
        let counts = work.counts.into_iter();
        let counts = counts.map(|(id, counts)| (id, Arc::new(KeyCounts { changed, ..counts })));
        self.set_key_counts(user_id, counts.collect());
        Ok(work.given)
    }

    /// The oldest keys first. Returns the claims that are left over.
    async fn give_one_time_keys(
        &self,
        work: &mut HandOut,
        user_id: &OwnedUserId,
        device_id: &OwnedDeviceId,
        algorithm: &str,
        position: StreamPosition,
        claims: Vec<usize>,
    ) -> Result<Vec<usize>, E2eeError> {
        let prefix = (device_id.clone(), algorithm.to_owned());
        let rows = self
            .store()
            .page_prefix(&ONE_TIME_KEYS, user_id, &prefix, Direction::Forward, claims.len())
            .await?;
        let mut claims = claims.into_iter();
        for (place, row) in rows {
            let Some(to) = claims.next() else { break };
            let counts = self.counts_of(work, user_id, device_id).await?;
            if let Some(count) = counts.one_time_keys.get_mut(&OneTimeKeyAlgorithm::from(algorithm))
            {
                *count = count.saturating_sub(1);
            }
            work.given.push(given(to, device_id, algorithm, &row)?);
            work.commit.delete(&ONE_TIME_KEYS, user_id, &place);
            let claimed = (device_id.clone(), full_id(algorithm, &row));
            let record = public_part(&row.json);
            work.commit.put(&CLAIMED_KEYS, user_id, &claimed, &Positioned { position, record });
        }
        Ok(claims.collect())
    }

    async fn give_fallback_key(
        &self,
        work: &mut HandOut,
        user_id: &OwnedUserId,
        device_id: &OwnedDeviceId,
        algorithm: &str,
        claims: Vec<usize>,
    ) -> Result<(), E2eeError> {
        if claims.is_empty() {
            return Ok(());
        }
        let place = (device_id.clone(), algorithm.to_owned());
        let Some(mut row) = self.store().get(&FALLBACK_KEYS, user_id, &place).await? else {
            return Ok(());
        };
        for to in claims {
            work.given.push(given(to, device_id, algorithm, &row.key)?);
        }
        if !row.used {
            row.used = true;
            work.commit.put(&FALLBACK_KEYS, user_id, &place, &row);
            let counts = self.counts_of(work, user_id, device_id).await?;
            counts.unused_fallback_keys.retain(|unused| unused.as_str() != algorithm);
        }
        Ok(())
    }

    /// What is left of a device's keys after the commit so far.
    async fn counts_of<'a>(
        &self,
        work: &'a mut HandOut,
        user_id: &OwnedUserId,
        device_id: &OwnedDeviceId,
    ) -> Result<&'a mut KeyCounts, E2eeError> {
        if !work.counts.contains_key(device_id) {
            let counts = self.key_counts_in_turn(user_id, device_id).await?;
            work.counts.insert(device_id.clone(), (*counts).clone());
        }
        Ok(work.counts.entry(device_id.clone()).or_default())
    }
}

/// Which claims want which device's keys, each in their order. Names that no key can have are left out.
fn places(batch: &[Waiting]) -> Places {
    let mut places = Places::new();
    for (number, claim) in batch.iter().enumerate() {
        for (device_id, algorithm) in &claim.devices {
            if device_id.as_str().len() > MAX_ID_BYTES || algorithm.as_str().len() > MAX_ID_BYTES {
                continue;
            }
            let place = (device_id.clone(), algorithm.as_str().to_owned());
            places.entry(place).or_default().push(number);
        }
    }
    places
}

fn given(
    to: usize,
    device_id: &OwnedDeviceId,
    algorithm: &str,
    row: &KeyRow,
) -> Result<Given, E2eeError> {
    let damaged = || E2eeError::Internal("a stored one-time key cannot be read".to_owned());
    let key_id = full_id(algorithm, row).try_into().map_err(|_| damaged())?;
    let json = RawValue::from_string(row.json.clone()).map_err(|_| damaged())?;
    Ok(Given { to, device_id: device_id.clone(), key_id, key: Raw::from_json(json) })
}
