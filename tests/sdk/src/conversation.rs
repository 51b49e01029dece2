//! Texts in an encrypted room.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use matrix_sdk::ruma::{
    TransactionId, api::client::to_device::send_event_to_device, events::AnyToDeviceEventContent,
    serde::Raw, to_device::DeviceIdOrAllDevices,
};

use crate::{
    Servers,
    people::{Account, Device},
    rooms::meet,
};

/// More messages than a server gives to a device in one sync, which is about a hundred.
const QUEUED: usize = 150;

/// Both read what the other says; the servers hold ciphertext.
pub(crate) async fn both_ways(servers: &Servers) -> Result<()> {
    let alice = Account::register(&servers.first, "alice").await?.device().await?;
    let bobs_account = Account::register(&servers.second, "bob").await?;
    let bob = bobs_account.device().await?;
    let room = meet(&alice, &bob).await?;

    let said = alice.say(&room, "the first secret").await?;
    bob.reads(&room, "the first secret").await?;
    bob.say(&room, "the answer").await?;
    alice.reads(&room, "the answer").await?;
    for device in [&alice, &bob] {
        let held = device.as_held(&room, &said).await?;
        ensure!(held.contains("m.room.encrypted") && !held.contains("secret"), "held: {held}");
    }

    let second = bobs_account.device().await?;
    alice.knows_device("Bob's new device", &second, |_| true).await?;
    alice.say(&room, "for both devices").await?;
    bob.reads(&room, "for both devices").await?;
    second.loads_history(&room).await?;
    second.reads(&room, "for both devices").await?;
    second.cannot_read(&room, &said).await
}

/// A device has the message before its key, which waits behind others, and decrypts it when the key comes.
pub(crate) async fn late_key(servers: &Servers) -> Result<()> {
    let alice = Account::register(&servers.first, "alice").await?.device().await?;
    let bobs_account = Account::register(&servers.second, "bob").await?;
    let bob = bobs_account.device().await?;
    let room = meet(&alice, &bob).await?;
    let mut late = bobs_account.quiet_device().await?;
    alice.knows_device("Bob's quiet device", &late, |_| true).await?;

    for number in 0..QUEUED {
        send_unrelated(&alice, &late, number).await?;
    }
    let said = alice.say(&room, "before its key").await?;
    bob.reads(&room, "before its key").await?;
    late.sync_once().await?;
    late.cannot_read(&room, &said).await?;
    late.start_syncing();
    late.reads(&room, "before its key").await
}

/// Sends a message that means nothing to a device.
async fn send_unrelated(from: &Device, to: &Device, number: usize) -> Result<()> {
    let content =
        Raw::<AnyToDeviceEventContent>::from_json_string(format!("{{\"number\":{number}}}"))?;
    let device = BTreeMap::from([(DeviceIdOrAllDevices::DeviceId(to.id()?), content)]);
    let request = send_event_to_device::v3::Request::new_raw(
        "org.example.unrelated".into(),
        TransactionId::new(),
        BTreeMap::from([(to.user_id()?, device)]),
    );
    from.client.send(request).await?;
    Ok(())
}
