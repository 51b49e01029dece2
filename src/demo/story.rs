//! What happens in the demonstration, told while it does.

use std::{
    io::{self, Write},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    DemoError,
    client::{ClientError, Person},
    servers::Servers,
};

const ROOM_NAME: &str = "Two hearths";
/// How long the servers may take to hold the same.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long to wait before they are compared again.
const PAUSE: Duration = Duration::from_millis(200);

/// Writes lines with the time since the beginning.
struct Teller<'a> {
    out: &'a mut (dyn Write + Send),
    begun: Instant,
}

impl Teller<'_> {
    fn line(&mut self, text: &str) -> io::Result<()> {
        let seconds = self.begun.elapsed().as_secs_f64();
        writeln!(self.out, "{seconds:6.2} s  {text}")?;
        self.out.flush()
    }

    fn chapter(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "\n{text}\n")
    }
}

/// Two users, who share a room once they have met.
struct Stage<'a> {
    teller: Teller<'a>,
    alice: Person,
    bob: Person,
    room_id: String,
}

/// Who does something.
#[derive(Clone, Copy)]
enum Side {
    Alice,
    Bob,
}

/// Tells it all.
pub(super) async fn tell(
    servers: &mut Servers,
    out: &mut (dyn Write + Send),
) -> Result<(), DemoError> {
    writeln!(
        out,
        "Two Hearth servers on this machine, each with a store of its own, which federate over TLS\n\
         with certificates of a private authority. Their data is in {} until the end.\n",
        servers.folder().display()
    )?;
    let mut stage = open(servers, Teller { out, begun: Instant::now() }).await?;
    stage.meet().await?;
    stage.converse().await?;
    stage.outage(servers).await?;
    stage.compare().await
}

/// Starts the servers and registers a user on each.
async fn open<'a>(servers: &mut Servers, mut teller: Teller<'a>) -> Result<Stage<'a>, DemoError> {
    for server in [&mut servers.one, &mut servers.two] {
        server.start().await?;
        let (name, clients) = (server.name(), server.base_url());
        teller.line(&format!("the server {name} has started; clients reach it at {clients}"))?;
    }
    let alice = Person::register(servers.one.base_url(), "alice").await?;
    let bob = Person::register(servers.two.base_url(), "bob").await?;
    for user in [&alice, &bob] {
        teller.line(&format!("{} has registered", user.user_id))?;
    }
    Ok(Stage { teller, alice, bob, room_id: String::new() })
}

impl Stage<'_> {
    /// An invitation, and joining by way of the other server.
    async fn meet(&mut self) -> Result<(), DemoError> {
        self.teller.chapter("A room on the first server, and a guest of the second")?;
        let (alice, bob) = (self.alice.user_id.clone(), self.bob.user_id.clone());
        self.room_id = self.alice.create_room(ROOM_NAME, &bob).await?;
        self.teller.line(&format!("alice makes the room \"{ROOM_NAME}\" and invites {bob}"))?;
        let invited = format!("/rooms/invite/{}", escaped(&self.room_id));
        self.bob
            .wait_for("for the invitation", |response| response.pointer(&invited).map(drop))
            .await?;
        self.teller.line(&format!("bob is told that {alice} invites him"))?;
        self.bob.join(&self.room_id).await?;
        self.teller
            .line("bob joins: his server asks hers, checks what it is told and keeps the room")?;
        let joined = |event: &Value| {
            event.get("state_key").and_then(Value::as_str) == Some(&bob)
                && event.pointer("/content/membership").is_some_and(|is| is == "join")
        };
        let find = |response: &Value| find_event(response, &self.room_id, joined);
        self.alice.wait_for("for bob to join", find).await?;
        self.teller.line("alice sees him join")?;
        Ok(())
    }

    /// Messages both ways, a reaction, and one message taken back.
    async fn converse(&mut self) -> Result<(), DemoError> {
        self.teller.chapter("A conversation")?;
        let first = self.say(Side::Alice, "Hello Bob! Does this reach you?").await?;
        self.say(Side::Bob, "It does, and our servers had never met before.").await?;
        let relation = json!({ "rel_type": "m.annotation", "event_id": first, "key": "👍" });
        let thumb = json!({ "m.relates_to": relation });
        self.send(Side::Bob, "m.reaction", thumb, "reacts to her message with 👍").await?;
        let slip = self.say(Side::Alice, "The key is under the mat. Oh, wrong room.").await?;
        let redaction = self.alice.redact(&self.room_id, &slip).await?;
        self.teller.line("alice  takes that back")?;
        self.seen_by(Side::Bob, &redaction, Instant::now()).await?;
        let left = self.bob.event(&self.room_id, &slip).await?;
        if left.pointer("/content/body").is_some() {
            let what = "a message that was taken back is still there".to_owned();
            return Err(DemoError::Disagreement(what));
        }
        self.teller.line("bob    finds an empty message in its place")?;
        Ok(())
    }

    /// What is sent while a server is away arrives when it is back.
    async fn outage(&mut self, servers: &mut Servers) -> Result<(), DemoError> {
        self.teller.chapter("One server is away for a while")?;
        servers.two.stop().await?;
        self.teller.line("bob's server stops")?;
        let text = "Are you still there?";
        let content = json!({ "msgtype": "m.text", "body": text });
        let event_id = self.alice.send(&self.room_id, "m.room.message", content).await?;
        self.teller.line(&format!("alice  {text}"))?;
        // Long enough for her server to find his gone.
        sleep(Duration::from_secs(1)).await;
        let begun = Instant::now();
        servers.two.start().await?;
        self.teller.line("bob's server starts again")?;
        self.seen_by(Side::Bob, &event_id, begun).await?;
        self.say(Side::Bob, "Yes. Nothing is lost.").await?;
        Ok(())
    }

    /// Do both servers hold the same room? A server that joins may leave out what it does not need at
    /// once, and fetch it behind.
    async fn compare(&mut self) -> Result<(), DemoError> {
        let begun = Instant::now();
        loop {
            let one = self.alice.state(&self.room_id).await?;
            let two = self.bob.state(&self.room_id).await?;
            if one == two {
                let text = format!(
                    "Both servers hold the same state of the room, {} events, each in its own store.",
                    one.len()
                );
                return Ok(writeln!(self.teller.out, "\n{text}")?);
            }
            if begun.elapsed() > PATIENCE {
                let what = format!("{one:?} and {two:?} are their states");
                return Err(DemoError::Disagreement(what));
            }
            sleep(PAUSE).await;
        }
    }

    async fn say(&mut self, who: Side, text: &str) -> Result<String, DemoError> {
        let content = json!({ "msgtype": "m.text", "body": text });
        self.send(who, "m.room.message", content, text).await
    }

    /// Sends an event and waits until the other has seen it; its ID.
    async fn send(
        &mut self,
        who: Side,
        event_type: &str,
        content: Value,
        told: &str,
    ) -> Result<String, DemoError> {
        let (from, other) = match who {
            Side::Alice => (&mut self.alice, Side::Bob),
            Side::Bob => (&mut self.bob, Side::Alice),
        };
        let begun = Instant::now();
        let event_id = from.send(&self.room_id, event_type, content).await?;
        let line = format!("{:6} {told}", from.name());
        self.teller.line(&line)?;
        self.seen_by(other, &event_id, begun).await?;
        Ok(event_id)
    }

    async fn seen_by(
        &mut self,
        who: Side,
        event_id: &str,
        begun: Instant,
    ) -> Result<(), DemoError> {
        let user = match who {
            Side::Alice => &mut self.alice,
            Side::Bob => &mut self.bob,
        };
        let is_it = |event: &Value| event.get("event_id").is_some_and(|id| id == event_id);
        let find = |response: &Value| find_event(response, &self.room_id, is_it);
        let seen: Result<(), ClientError> = user.wait_for("for an event", find).await;
        seen?;
        let line = format!("{:6} sees it after {} ms", user.name(), begun.elapsed().as_millis());
        Ok(self.teller.line(&line)?)
    }
}

/// Is there such an event in this room's timeline of a sync response?
fn find_event(response: &Value, room_id: &str, is_it: impl Fn(&Value) -> bool) -> Option<()> {
    let timeline = format!("/rooms/join/{}/timeline/events", escaped(room_id));
    let events = response.pointer(&timeline)?.as_array()?;
    events.iter().any(is_it).then_some(())
}

/// As part of a JSON pointer.
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
