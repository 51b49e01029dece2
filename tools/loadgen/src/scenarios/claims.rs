//! Claims of one-time keys, as many as there are: each must be handed out once.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use tokio::task::JoinSet;
use tokio::time::Instant;
use vodozemac::{Curve25519PublicKey, Curve25519SecretKey, Ed25519SecretKey};

use crate::client::{Account, Client};
use crate::connection::RequestError;
use crate::report::Row;
use crate::world::{Doing as _, Failure, Tally, World};
use crate::{paths, scan};

/// One-time keys of each device; clients upload about so many.
const KEYS: u32 = 100;

/// A device whose keys are claimed.
#[derive(Debug)]
struct Device {
    /// The body that claims one of its keys.
    claim: Bytes,
}

/// Claims all one-time keys of all devices, every claimer its next one when the last is answered.
pub(crate) async fn run(world: &mut World) -> Result<(), Failure> {
    let (devices, claimers) = (world.options.devices, world.options.claimers);
    let accounts = world.accounts(devices).await?;
    let mut client = world.client();
    let mut claimed = Vec::new();
    for account in &accounts {
        claimed.push(upload(&mut client, account).await.doing("uploading keys")?);
    }
    let claimed: Arc<[Device]> = claimed.into();
    let (next, total) = (Arc::new(AtomicU32::new(0)), devices.saturating_mul(KEYS));
    let before = world.usage();
    let begun = Instant::now();
    let mut workers = JoinSet::new();
    for account in accounts.iter().cycle().take(claimers as usize) {
        let (next, claimed) = (Arc::clone(&next), Arc::clone(&claimed));
        workers.spawn(claim_all(world.client(), Arc::clone(account), claimed, next, total));
    }
    let (mut tally, mut keys, mut twice) = (Tally::default(), HashSet::new(), 0_u64);
    while let Some(worker) = workers.join_next().await {
        let (counted, got) = worker?;
        tally.merge(counted);
        for key in got {
            twice += u64::from(!keys.insert(key));
        }
    }
    let took = begun.elapsed();
    let count = tally.latency.count();
    let row = Row::new("claims", format!("{claimers} claimers, {devices} devices of {KEYS} keys"))
        .rate("claims", count, took.max(Duration::from_millis(1)).as_secs_f64())
        .latency("", &tally.latency)
        .count("different keys", u64::try_from(keys.len()).unwrap_or(u64::MAX))
        .count("handed out twice", twice)
        .usage(before, world.usage(), count, "claim")
        .failures(tally.failed, tally.first_error.as_deref());
    world.report.add(row);
    Ok(())
}

/// Claims key after key until all are claimed; returns them.
async fn claim_all(
    mut client: Client,
    account: Arc<Account>,
    devices: Arc<[Device]>,
    next: Arc<AtomicU32>,
    total: u32,
) -> (Tally, Vec<String>) {
    let (mut tally, mut keys) = (Tally::default(), Vec::new());
    while !tally.hopeless() {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let count = u32::try_from(devices.len().max(1)).unwrap_or(u32::MAX);
        let Some(device) = devices.get((number % count) as usize).filter(|_| number < total) else {
            break;
        };
        let begun = Instant::now();
        let answer = client.call(Method::POST, paths::CLAIM, &account, device.claim.clone()).await;
        let key = answer.and_then(|answer| {
            let key = scan::string_field(&answer, "key").map(str::to_owned);
            key.ok_or(RequestError::Missing("key"))
        });
        keys.extend(tally.note(begun, key));
    }
    (tally, keys)
}

/// Uploads a device's keys.
async fn upload(client: &mut Client, account: &Account) -> Result<Device, RequestError> {
    let whoami = client.patient(Method::GET, paths::WHOAMI, Some(account), None).await?;
    let field = |name| scan::string_field(&whoami, name).ok_or(RequestError::Missing(name));
    let (user_id, device_id) = (field("user_id")?, field("device_id")?);
    let body = Bytes::from(keys_of(user_id, device_id));
    client.patient(Method::POST, paths::UPLOAD_KEYS, Some(account), Some(body)).await?;
    let claim =
        format!(r#"{{"one_time_keys":{{"{user_id}":{{"{device_id}":"signed_curve25519"}}}}}}"#);
    Ok(Device { claim: Bytes::from(claim) })
}

/// The keys of a device as it uploads them. What is signed is written in its canonical form.
fn keys_of(user_id: &str, device_id: &str) -> String {
    let signing = Ed25519SecretKey::new();
    let (ed25519, curve25519) = (signing.public_key().to_base64(), curve25519_key());
    let sign = |canonical: &str| {
        let signature = signing.sign(canonical.as_bytes()).to_base64();
        let signatures =
            format!(r#""signatures":{{"{user_id}":{{"ed25519:{device_id}":"{signature}"}}}}"#);
        format!("{},{signatures}}}", canonical.strip_suffix('}').unwrap_or_default())
    };
    let keys = (0..KEYS).map(|number| {
        let key = sign(&format!(r#"{{"key":"{}"}}"#, curve25519_key()));
        format!(r#""signed_curve25519:{number:06}":{key}"#)
    });
    let keys = keys.collect::<Vec<_>>().join(",");
    let identity =
        format!(r#""curve25519:{device_id}":"{curve25519}","ed25519:{device_id}":"{ed25519}""#);
    let device = format!(
        r#"{{"algorithms":["m.olm.v1.curve25519-aes-sha2"],"device_id":"{device_id}","keys":{{{identity}}},"user_id":"{user_id}"}}"#
    );
    format!(r#"{{"device_keys":{},"one_time_keys":{{{keys}}}}}"#, sign(&device))
}

fn curve25519_key() -> String {
    Curve25519PublicKey::from(&Curve25519SecretKey::new()).to_base64()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn what_is_uploaded_is_json_with_signatures() {
        let upload: Value = serde_json::from_str(&keys_of("@a:b", "DEV")).unwrap();
        assert_eq!(upload["device_keys"]["user_id"], "@a:b");
        assert!(upload["device_keys"]["signatures"]["@a:b"]["ed25519:DEV"].is_string());
        let keys = upload["one_time_keys"].as_object().unwrap();
        assert_eq!(keys.len(), KEYS as usize);
        assert!(keys.values().all(|key| key["signatures"]["@a:b"]["ed25519:DEV"].is_string()));
    }
}
