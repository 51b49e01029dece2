//! Secret storage: what one device puts into the account data, another one opens with the recovery key.

use anyhow::{Context as _, Result, ensure};
use matrix_sdk::encryption::secret_storage::SecretStorageError;

use crate::{
    Servers,
    cross_signing::bootstrap,
    people::{Account, Device, Known},
    rooms::meet,
};

const SECRET_NAME: &str = "org.example.treasure";

pub(crate) async fn scenario(servers: &Servers) -> Result<()> {
    let account = Account::register(&servers.first, "alice").await?;
    let first = account.device().await?;
    let bob = Account::register(&servers.second, "bob").await?.device().await?;
    meet(&first, &bob).await?;
    bootstrap(&first).await?;
    let store = first.client.encryption().secret_storage().create_secret_store().await?;
    store.put_secret(SECRET_NAME, "buried under the palm").await?;
    let recovery_key = store.secret_storage_key();

    let second = account.device().await?;
    let storage = second.client.encryption().secret_storage();
    ensure!(storage.is_enabled().await?, "the new device sees no secret storage");
    refuses(&second, &key_of_another(&bob).await?).await?;
    let opened = storage.open_secret_store(&recovery_key).await.context("the recovery key")?;
    let secret = opened.get_secret(SECRET_NAME).await?;
    ensure!(secret.as_deref() == Some("buried under the palm"), "the secret is {secret:?}");

    ensure!(!second.holds_cross_signing_keys().await, "keys before they are imported");
    opened.import_secrets().await?;
    ensure!(second.holds_cross_signing_keys().await, "keys are missing after the import");
    for device in [&first, &second] {
        device.knows_device("verified", &second, Known::is_verified_with_cross_signing).await?;
    }
    bob.knows_device("Alice's second device, signed", &second, Known::is_cross_signed_by_owner)
        .await
}

/// A recovery key that is well formed and belongs to somebody else.
pub(crate) async fn key_of_another(device: &Device) -> Result<String> {
    let storage = device.client.encryption().secret_storage();
    Ok(storage.create_secret_store().await?.secret_storage_key())
}

/// The device's secret storage must not open with this key.
pub(crate) async fn refuses(device: &Device, wrong_key: &str) -> Result<()> {
    let storage = device.client.encryption().secret_storage();
    let opened = storage.open_secret_store(wrong_key).await;
    ensure!(
        matches!(opened, Err(SecretStorageError::SecretStorageKey(_))),
        "opened with a wrong key: {opened:?}"
    );
    Ok(())
}
