//! `POST /user_directory/search`.

use hearth_testkit::{TestServer, TestUser};
use serde_json::{Value, json};

use crate::support::{V3, list, same, text};

async fn search(user: &TestUser, term: &str, limit: u8) -> Value {
    let body = json!({ "search_term": term, "limit": limit });
    user.post_ok(&format!("{V3}/user_directory/search"), body).await
}

fn found(answer: &Value) -> Vec<&str> {
    list(&answer["results"]).iter().map(|user| text(user, "user_id")).collect()
}

#[tokio::test]
async fn finds_those_who_share_or_show_themselves() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let hidden = server.register("bobby").await;
    let name = format!("{V3}/profile/{}/displayname", bob.user_id);
    bob.put_ok(&name, json!({ "displayname": "Robert the Builder" })).await;
    // Alice shares a private room with Bob, Carol is in a public one, Bobby in none.
    let room = alice.create_room(json!({ "invite": [bob.user_id] })).await;
    bob.join(&room).await;
    carol.create_public_room().await;

    let answer = search(&alice, "bob", 10).await;
    assert_eq!(found(&answer), ["@bob:localhost"]);
    assert_eq!(answer["limited"], false);
    assert_eq!(answer["results"][0]["display_name"], "Robert the Builder");
    assert_eq!(found(&search(&alice, "BUILDER", 10).await), ["@bob:localhost"]);
    assert_eq!(found(&search(&alice, "carol", 10).await), ["@carol:localhost"]);
    assert_eq!(found(&search(&carol, "bob", 10).await), Vec::<&str>::new());
    assert_eq!(found(&search(&alice, "nobody", 10).await), Vec::<&str>::new());
    drop(hidden);
}

#[tokio::test]
async fn keeps_to_the_limit() {
    let server = TestServer::builder().config(|c| c.users.search_all_users = true).start().await;
    let alice = server.register("alice").await;
    for name in ["anna", "annabel", "annalise"] {
        server.register(name).await;
    }
    let answer = search(&alice, "ann", 2).await;
    assert_eq!((found(&answer).len(), &answer["limited"]), (2, &json!(true)));
    let answer = search(&alice, "ann", 10).await;
    same(found(&answer), ["@anna:localhost", "@annabel:localhost", "@annalise:localhost"]);
    assert_eq!(answer["limited"], false);
}
