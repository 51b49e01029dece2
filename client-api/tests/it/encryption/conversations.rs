//! Two users of one server who encrypt.

use hearth_testkit::{Client, TestServer, conversations};

async fn server() -> (TestServer, Client) {
    let server = TestServer::start().await;
    let client = server.client();
    (server, client)
}

#[tokio::test]
async fn both_are_read_and_the_server_holds_ciphertext() {
    let (_server, client) = server().await;
    conversations::both_are_read_and_the_servers_hold_ciphertext(&client, &client).await;
}

#[tokio::test]
async fn a_member_who_left_does_not_get_the_next_room_key() {
    let (_server, client) = server().await;
    conversations::a_member_who_left_does_not_get_the_next_room_key(&client, &client).await;
}

#[tokio::test]
async fn a_new_device_reads_what_is_said_from_then_on() {
    let (_server, client) = server().await;
    conversations::a_new_device_reads_what_is_said_from_then_on(&client, &client).await;
}

#[tokio::test]
async fn a_lost_device_is_not_written_to() {
    let (_server, client) = server().await;
    conversations::a_lost_device_is_not_written_to(&client, &client).await;
}

#[tokio::test]
async fn a_wedged_session_is_repaired_by_a_new_one() {
    let (_server, client) = server().await;
    conversations::a_wedged_session_is_repaired_by_a_new_one(&client, &client).await;
}

#[tokio::test]
async fn a_fallback_key_serves_until_it_is_replaced() {
    let (_server, client) = server().await;
    conversations::a_fallback_key_serves_until_it_is_replaced(&client, &client).await;
}

#[tokio::test]
async fn a_repeated_room_key_comes_once() {
    let (_server, client) = server().await;
    conversations::a_repeated_room_key_comes_once(&client, &client).await;
}
