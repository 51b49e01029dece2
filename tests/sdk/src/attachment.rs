//! Files in an encrypted room.

use anyhow::{Context as _, Result, bail, ensure};
use matrix_sdk::ruma::{api::client::authenticated_media::get_content, events::room::MediaSource};

use crate::{Servers, people::Account, rooms::meet};

/// Bob gets the file that Alice has sent; the server holds ciphertext.
pub(crate) async fn scenario(servers: &Servers) -> Result<()> {
    let alice = Account::register(&servers.first, "alice").await?.device().await?;
    let bob = Account::register(&servers.second, "bob").await?.device().await?;
    let room = meet(&alice, &bob).await?;
    let map = b"ten paces to the north of the palm".repeat(1000);

    let sent = alice.send_file(&room, "map.txt", map.clone()).await?;
    let file = bob.sees_file(&room, &sent).await?;
    ensure!(file.filename() == "map.txt", "it is called {}", file.filename());
    let got = bob.client.media().get_file(&file, false).await.context("the download")?;
    ensure!(got.as_ref() == Some(&map), "other bytes than were sent");

    let MediaSource::Encrypted(encrypted) = &file.source else { bail!("{:?}", file.source) };
    let request = get_content::v1::Request::from_uri(&encrypted.url)?;
    let held = bob.client.send(request).await?.file;
    ensure!(held.len() == map.len() && held != map, "the server holds what was sent");
    Ok(())
}
