//! The server is killed while the phone syncs. Its sliding syncs' positions mean nothing to the new process, and nothing is lost.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use matrix_sdk::ruma::events::room::message::RoomMessageEventContent;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines, Stdin, stdin},
    time::timeout,
};

use crate::{
    Servers,
    people::{Account, DEADLINE},
    phone::{Phone, room_of, say, scroll_to_start, timeline},
};

const KILLS: usize = 3;
/// More than one answer has of a room.
const SAID_MEANWHILE: usize = 30;

/// What was said before, during and after the kills is there once and in order; the room list and sending go on too.
pub(crate) async fn scenario(servers: &Servers) -> Result<()> {
    let account = Account::register(&servers.first, "alice").await?;
    let alice = account.quiet_device().await?;
    let bob = Account::register(&servers.first, "bob").await?;
    let phone = Phone::start(&bob).await?;
    let room_id = room_of(&alice, &phone, "The cave").await?;
    alice.sync_once().await?;
    let view = timeline(&phone.accept(&room_id).await?).await?;
    let mut said = vec!["before".to_owned()];
    say(&alice, &room_id, "before").await?;
    phone.reads(&view, "before").await?;

    let mut answers = BufReader::new(stdin()).lines();
    for kill in 0..KILLS {
        let mut states = phone.sync.state();
        restart(&mut answers).await?;
        for number in 0..SAID_MEANWHILE {
            said.push(format!("{kill}: {number}"));
            say(&alice, &room_id, &format!("{kill}: {number}")).await?;
        }
        let last = format!("{kill}: {}", SAID_MEANWHILE - 1);
        phone.reads(&view, &last).await?;
        // Set anew only if the phone has lost its server meanwhile.
        timeout(DEADLINE, states.next()).await.context("the phone never lost its server")?;
        scroll_to_start(&view).await?;
        phone.reads_all(&view, &said).await?;
        let mine = format!("{kill}: read");
        view.send(RoomMessageEventContent::text_plain(&mine).into()).await?;
        said.push(mine);
        phone.reads_all(&view, &said).await?;
        let name = format!("The cave after {}", kill + 1);
        let next = room_of(&alice, &phone, &name).await?;
        phone.accept(&next).await?;
        phone
            .until("the new room", async || Ok(phone.names().contains(&name).then_some(())))
            .await?;
    }
    Ok(())
}

/// Has the server killed and started again.
async fn restart(answers: &mut Lines<BufReader<Stdin>>) -> Result<()> {
    let mut output = std::io::stdout();
    output.write_all(b"restart\n")?;
    output.flush()?;
    answers.next_line().await?.context("nobody restarts the server")?;
    Ok(())
}
