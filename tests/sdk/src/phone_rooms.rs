//! The room list: what is on it, in which order, and under which names.

use anyhow::{Result, ensure};
use matrix_sdk::{RoomState, ruma::events::room::name::RoomNameEventContent};

use crate::{
    Servers,
    people::Account,
    phone::{Phone, room_of, say},
};

/// More than the first, small range of the room list.
const ROOMS: usize = 30;

/// A phone that logs in shows every room, the one that was spoken in last at the top, and invites.
pub(crate) async fn at_first(servers: &Servers) -> Result<()> {
    let alice = Account::register(&servers.first, "alice").await?.device().await?;
    let bob = Account::register(&servers.first, "bob").await?;
    let old = Phone::start(&bob).await?;
    let mut rooms = Vec::new();
    for number in 0..ROOMS {
        let room_id = room_of(&alice, &old, &format!("Room {number}")).await?;
        old.accept(&room_id).await?;
        rooms.push(room_id);
    }
    for room_id in &rooms {
        say(&alice, room_id, "a message").await?;
    }
    let expected: Vec<String> = (0..ROOMS).rev().map(|number| format!("Room {number}")).collect();

    let new = Phone::start(&bob).await?;
    for phone in [&old, &new] {
        let shown =
            phone.until("all rooms", async || Ok((phone.names() == expected).then_some(())));
        shown.await.map_err(|error| error.context(format!("shown: {:?}", phone.names())))?;
    }
    for room in new.shown() {
        ensure!(room.joined_members_count() == 2, "{:?} has other members", room.room_id());
    }

    let invited = room_of(&alice, &new, "Come in").await?;
    new.until("the invite", async || {
        let room = new.shown().into_iter().find(|room| room.room_id() == invited);
        Ok(room.filter(|room| room.state() == RoomState::Invited))
    })
    .await?;
    ensure!(new.names().contains(&"Come in".to_owned()), "shown: {:?}", new.names());
    Ok(())
}

/// A message brings its room to the top; new names are shown; a room that one leaves is gone.
pub(crate) async fn afterwards(servers: &Servers) -> Result<()> {
    let alice = Account::register(&servers.first, "alice").await?.device().await?;
    let bob = Account::register(&servers.first, "bob").await?;
    let (phone, tablet) = (Phone::start(&bob).await?, Phone::start(&bob).await?);
    let mut rooms = Vec::new();
    for name in ["one", "two", "three"] {
        let room_id = room_of(&alice, &phone, name).await?;
        phone.accept(&room_id).await?;
        say(&alice, &room_id, "a message").await?;
        rooms.push(room_id);
    }
    let [one, two, _] = rooms.as_slice() else { unreachable!("three were made") };
    shows(&phone, &["three", "two", "one"]).await?;
    say(&alice, one, "another").await?;
    shows(&phone, &["one", "three", "two"]).await?;

    let room = alice.until("her room", async || Ok(alice.client.get_room(two))).await?;
    room.send_state_event(RoomNameEventContent::new("second".to_owned())).await?;
    phone
        .until("the new name", async || {
            Ok(phone.names().contains(&"second".to_owned()).then_some(()))
        })
        .await?;
    let left = tablet.open(one).await?;
    left.leave().await?;
    for phone in [&phone, &tablet] {
        phone
            .until("the room is gone", async || {
                Ok((!phone.names().contains(&"one".to_owned())).then_some(()))
            })
            .await?;
        ensure!(phone.names().len() == 2, "shown: {:?}", phone.names());
    }
    Ok(())
}

async fn shows(phone: &Phone, expected: &[&str]) -> Result<()> {
    let shown =
        phone.until("the rooms in order", async || Ok((phone.names() == expected).then_some(())));
    shown.await.map_err(|error| error.context(format!("shown: {:?}", phone.names())))
}
