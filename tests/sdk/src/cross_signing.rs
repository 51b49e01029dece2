//! Cross-signing: an identity that signs its devices, is seen by others, and is replaced with the password alone.

use anyhow::{Context as _, Result, bail, ensure};
use matrix_sdk::encryption::CrossSigningResetAuthType;

use crate::{
    Servers,
    people::{Account, Device, Known},
    rooms::meet,
};

pub(crate) async fn scenario(servers: &Servers) -> Result<()> {
    let account = Account::register(&servers.first, "alice").await?;
    let alice = account.device().await?;
    let bob = Account::register(&servers.second, "bob").await?.device().await?;
    meet(&alice, &bob).await?;

    let own = alice.client.encryption().get_own_device().await?.context("uploaded")?;
    ensure!(!own.is_cross_signed_by_owner(), "signed before there is an identity");
    bootstrap(&alice).await?;
    let identity = bob.knows_identity("Alice's identity", &account.user_id, |_| true).await?;
    let first_key = identity.master_key().get_first_key().context("a master key")?.to_base64();
    ensure!(!identity.is_verified(), "Bob has verified nobody");
    bob.knows_device("Alice's device, signed", &alice, Known::is_cross_signed_by_owner).await?;

    replace(&account, &alice).await?;
    let is_another = |key: Option<String>| key.is_some_and(|key| key != first_key);
    bob.knows_identity("Alice's next identity", &account.user_id, |identity| {
        is_another(identity.master_key().get_first_key().map(|key| key.to_base64()))
    })
    .await?;
    bob.knows_device("Alice's device, signed anew", &alice, Known::is_cross_signed_by_owner).await
}

/// Makes the user's first identity, which signs this device.
pub(crate) async fn bootstrap(device: &Device) -> Result<()> {
    let encryption = device.client.encryption();
    encryption.bootstrap_cross_signing(None).await.context("cross-signing bootstrap")?;
    ensure!(device.holds_cross_signing_keys().await, "keys are missing");
    device.knows_device("itself, signed", device, Known::is_verified_with_cross_signing).await
}

/// Replaces the identity. That is refused without the password.
async fn replace(account: &Account, device: &Device) -> Result<()> {
    let encryption = device.client.encryption();
    let again = encryption.reset_cross_signing().await?;
    let handle = again.context("the identity was replaced without authentication")?;
    let CrossSigningResetAuthType::Uiaa(asked) = handle.auth_type() else {
        bail!("asked for something else than a password: {:?}", handle.auth_type());
    };
    let wrong = handle.auth(Some(account.wrong_authentication(asked.session.clone()))).await;
    ensure!(wrong.is_err(), "the identity was replaced with a wrong password");
    handle.auth(Some(account.authentication(asked.session.clone()))).await?;
    Ok(())
}
