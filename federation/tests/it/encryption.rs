//! Users of two servers who encrypt: keys, lists of devices and messages to devices go from one server to the
//! other.

use hearth_testkit::{Client, conversations};

use crate::support::World;

async fn world() -> (World, Client, Client) {
    let world = World::start(&["a.test", "b.test"]).await;
    let (hers, his) = (world.client("a.test"), world.client("b.test"));
    (world, hers, his)
}

#[tokio::test]
async fn both_are_read_and_the_servers_hold_ciphertext() {
    let (_world, hers, his) = world().await;
    conversations::both_are_read_and_the_servers_hold_ciphertext(&hers, &his).await;
}

#[tokio::test]
async fn a_member_who_left_does_not_get_the_next_room_key() {
    let (_world, hers, his) = world().await;
    conversations::a_member_who_left_does_not_get_the_next_room_key(&hers, &his).await;
}

#[tokio::test]
async fn a_new_device_reads_what_is_said_from_then_on() {
    let (_world, hers, his) = world().await;
    conversations::a_new_device_reads_what_is_said_from_then_on(&hers, &his).await;
}

#[tokio::test]
async fn a_lost_device_is_not_written_to() {
    let (_world, hers, his) = world().await;
    conversations::a_lost_device_is_not_written_to(&hers, &his).await;
}

#[tokio::test]
async fn a_wedged_session_is_repaired_by_a_new_one() {
    let (_world, hers, his) = world().await;
    conversations::a_wedged_session_is_repaired_by_a_new_one(&hers, &his).await;
}

#[tokio::test]
async fn a_fallback_key_serves_until_it_is_replaced() {
    let (_world, hers, his) = world().await;
    conversations::a_fallback_key_serves_until_it_is_replaced(&hers, &his).await;
}

#[tokio::test]
async fn a_repeated_room_key_comes_once() {
    let (_world, hers, his) = world().await;
    conversations::a_repeated_room_key_comes_once(&hers, &his).await;
}
