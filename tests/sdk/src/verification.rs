//! Verification by comparing emoji, of two devices of a user and of two users.

use anyhow::{Context as _, Result, ensure};
use matrix_sdk::{
    encryption::{
        identities::UserIdentity,
        verification::{SasVerification, Verification, VerificationRequest},
    },
    ruma::events::key::verification::VerificationMethod,
};

use crate::{
    Servers,
    cross_signing::bootstrap,
    people::{Account, Device, Known},
    rooms::meet,
};

/// A new device is verified by an old one, and gets the secrets from it; others see the signature.
pub(crate) async fn of_two_devices(servers: &Servers) -> Result<()> {
    let account = Account::register(&servers.first, "alice").await?;
    let old = account.device().await?;
    let bob = Account::register(&servers.second, "bob").await?.device().await?;
    meet(&old, &bob).await?;
    bootstrap(&old).await?;
    let new = account.device().await?;
    old.knows_device("the new device", &new, |device| !device.is_cross_signed_by_owner()).await?;

    compare(&new, &old).await?;
    for (device, other) in [(&old, &new), (&new, &old), (&new, &new)] {
        device.knows_device("verified", other, Known::is_verified_with_cross_signing).await?;
    }
    new.until("the secrets", async || Ok(new.holds_cross_signing_keys().await.then_some(())))
        .await?;
    bob.knows_device("Alice's new device, signed", &new, Known::is_cross_signed_by_owner).await
}

/// Two users verify each other, and trust the devices that the other has signed.
pub(crate) async fn of_two_users(servers: &Servers) -> Result<()> {
    let alice = Account::register(&servers.first, "alice").await?.device().await?;
    let bob = Account::register(&servers.second, "bob").await?.device().await?;
    meet(&alice, &bob).await?;
    for device in [&alice, &bob] {
        bootstrap(device).await?;
    }
    for (device, other) in [(&alice, &bob), (&bob, &alice)] {
        let other = other.user_id()?;
        device
            .knows_identity("the other, not verified", &other, |user| !user.is_verified())
            .await?;
    }

    compare(&alice, &bob).await?;
    for (device, other) in [(&alice, &bob), (&bob, &alice)] {
        let user_id = other.user_id()?;
        device.knows_identity("the other, verified", &user_id, UserIdentity::is_verified).await?;
        device
            .knows_device(
                "the other's device, verified",
                other,
                Known::is_verified_with_cross_signing,
            )
            .await?;
    }
    Ok(())
}

/// `asking` wishes to be verified, `asked` agrees; both see the same emoji and confirm them.
async fn compare(asking: &Device, asked: &Device) -> Result<()> {
    let identity = asking.knows_identity("whom to ask", &asked.user_id()?, |_| true).await?;
    let methods = vec![VerificationMethod::SasV1];
    let request = identity.request_verification_with_methods(methods).await?;
    let flow = request.flow_id().to_owned();
    accept(asking, asked, &flow).await?;
    asking
        .until("readiness", async || {
            ensure!(!request.is_cancelled(), "cancelled: {:?}", request.cancel_info());
            Ok(request.is_ready().then_some(()))
        })
        .await?;
    let ours = request.start_sas().await?.context("both know SAS")?;
    let theirs = agree(asking, asked, &flow).await?;
    present(asking, &ours).await?;
    present(asked, &theirs).await?;
    let emoji = ours.emoji().context("emoji")?;
    ensure!(Some(&emoji) == theirs.emoji().as_ref(), "{emoji:?} and {:?}", theirs.emoji());
    confirm(asking, &ours).await?;
    confirm(asked, &theirs).await?;
    finish(asking, &ours).await?;
    finish(asked, &theirs).await
}

/// Waits for the request and accepts it.
async fn accept(asking: &Device, asked: &Device, flow: &str) -> Result<VerificationRequest> {
    let (encryption, user_id) = (asked.client.encryption(), asking.user_id()?);
    let request = asked
        .until("the request", async || {
            Ok(encryption.get_verification_request(&user_id, flow).await)
        })
        .await?;
    request.accept_with_methods(vec![VerificationMethod::SasV1]).await?;
    Ok(request)
}

/// Waits for the start of the verification and goes along.
async fn agree(asking: &Device, asked: &Device, flow: &str) -> Result<SasVerification> {
    let (encryption, user_id) = (asked.client.encryption(), asking.user_id()?);
    let sas = asked
        .until("the start", async || {
            let started = encryption.get_verification(&user_id, flow).await;
            Ok(started.and_then(Verification::sas))
        })
        .await?;
    sas.accept().await?;
    Ok(sas)
}

async fn present(device: &Device, sas: &SasVerification) -> Result<()> {
    device
        .until("something to compare", async || {
            ensure!(!sas.is_cancelled(), "cancelled: {:?}", sas.cancel_info());
            Ok(sas.can_be_presented().then_some(()))
        })
        .await
}

/// Says that the emoji are the same. Not while the device syncs: the SDK would answer the other's word from there, and that
/// it is done could overtake its own word, which the other then waits for.
async fn confirm(device: &Device, sas: &SasVerification) -> Result<()> {
    let _quiet = device.pause().await;
    Ok(sas.confirm().await?)
}

async fn finish(device: &Device, sas: &SasVerification) -> Result<()> {
    device
        .until("the end of the verification", async || {
            ensure!(!sas.is_cancelled(), "cancelled: {:?}", sas.cancel_info());
            Ok(sas.is_done().then_some(()))
        })
        .await
}
