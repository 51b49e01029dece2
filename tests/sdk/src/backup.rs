//! The key backup: what a lost device could read, a new one reads with the recovery key.

use anyhow::{Context as _, Result, ensure};
use matrix_sdk::encryption::backups::BackupState;

use crate::{
    Servers,
    cross_signing::bootstrap,
    people::{Account, Known},
    rooms::meet,
    secret_storage::{key_of_another, refuses},
};

pub(crate) async fn scenario(servers: &Servers) -> Result<()> {
    let account = Account::register(&servers.first, "alice").await?;
    let lost = account.device().await?;
    let bob = Account::register(&servers.second, "bob").await?.device().await?;
    let room = meet(&lost, &bob).await?;
    bootstrap(&lost).await?;

    let before = bob.say(&room, "before the backup").await?;
    lost.reads(&room, "before the backup").await?;
    let recovery_key = lost.client.encryption().recovery().enable().await.context("a backup")?;
    let after = lost.say(&room, "after it").await?;
    bob.reads(&room, "after it").await?;
    lost.client.encryption().backups().wait_for_steady_state().await.context("the upload")?;
    lost.client.matrix_auth().logout().await?;
    drop(lost);

    let new = account.device().await?;
    new.loads_history(&room).await?;
    for event in [&before, &after] {
        new.cannot_read(&room, event).await?;
    }
    refuses(&new, &key_of_another(&bob).await?).await?;
    new.client.encryption().recovery().recover(&recovery_key).await.context("recovery")?;
    for text in ["before the backup", "after it"] {
        new.reads(&room, text).await?;
    }
    new.knows_device("itself, verified", &new, Known::is_verified_with_cross_signing).await?;

    let backups = new.client.encryption().backups();
    ensure!(
        backups.state() == BackupState::Enabled,
        "goes on with the backup: {:?}",
        backups.state()
    );
    new.say(&room, "from the new device").await?;
    bob.reads(&room, "from the new device").await?;
    backups.wait_for_steady_state().await.context("the new device's upload")
}
