//! What happens in the demonstration, told while it does.

use std::{
    io::{self, Write},
    time::Duration,
};

use ruma::{OwnedRoomId, RoomId};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{DemoError, person::Person, servers::Servers};

const ROOM_NAME: &str = "Two hearths";
/// How long the servers may take to hold the same.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long to wait before they are compared again.
const PAUSE: Duration = Duration::from_millis(200);
/// How much of a ciphertext is shown, at its beginning and at its end.
const SHOWN: (usize, usize) = (40, 8);

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

    /// A line about the one before, without a time of its own.
    fn note(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "          {text}")
    }

    fn chapter(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "\n{text}\n")
    }
}

/// Two users and what they share.
struct Stage<'a> {
    teller: Teller<'a>,
    alice: Person,
    bob: Person,
    room_id: OwnedRoomId,
}

/// Who does something.
#[derive(Clone, Copy)]
enum Side {
    Alice,
    Bob,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Alice => Self::Bob,
            Self::Bob => Self::Alice,
        }
    }
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
    let mut teller = Teller { out, begun: Instant::now() };
    let (alice, bob) = open(servers, &mut teller).await?;
    let mut stage = meet(teller, alice, bob).await?;
    stage.converse().await?;
    stage.outage(servers).await?;
    stage.compare().await
}

/// Starts the servers and registers a user on each.
async fn open(
    servers: &mut Servers,
    teller: &mut Teller<'_>,
) -> Result<(Person, Person), DemoError> {
    for server in [&mut servers.one, &mut servers.two] {
        server.start().await?;
        let (name, clients) = (server.name(), server.base_url());
        teller.line(&format!("the server {name} has started; clients reach it at {clients}"))?;
    }
    let alice = Person::register(servers.one.base_url(), "alice").await?;
    let bob = Person::register(servers.two.base_url(), "bob").await?;
    for user in [&alice, &bob] {
        let (who, key) = (&user.user_id, user.fingerprint());
        teller.line(&format!("{who} has registered; the device's key is {key}"))?;
    }
    Ok((alice, bob))
}

/// An invitation, and joining by way of the other server.
async fn meet(
    mut teller: Teller<'_>,
    mut alice: Person,
    mut bob: Person,
) -> Result<Stage<'_>, DemoError> {
    teller.chapter("An encrypted room on the first server, and a guest of the second")?;
    let (hers, his) = (alice.user_id.clone(), bob.user_id.clone());
    let room_id = alice.create_room(ROOM_NAME, his.as_str()).await?;
    teller.line(&format!("alice makes the room \"{ROOM_NAME}\" and invites {his}"))?;
    let invited = format!("/rooms/invite/{}", escaped(room_id.as_str()));
    bob.wait_for("for the invitation", |_, response| response.pointer(&invited).map(drop)).await?;
    teller.line(&format!("bob is told that {hers} invites him"))?;
    bob.join(room_id.as_str()).await?;
    teller.line("bob joins: his server asks hers, checks what it is told and keeps the room")?;
    let joined = |event: &Value| {
        event.get("state_key").and_then(Value::as_str) == Some(his.as_str())
            && event.pointer("/content/membership").is_some_and(|is| is == "join")
    };
    alice.wait_for("for bob to join", |_, sync| find_event(sync, &room_id, joined)).await?;
    teller.line("alice sees him join")?;
    Ok(Stage { teller, alice, bob, room_id })
}

impl Stage<'_> {
    /// Messages both ways, a reaction, and one message taken back.
    async fn converse(&mut self) -> Result<(), DemoError> {
        self.teller.chapter("A conversation that the servers carry and cannot read")?;
        let first = self.say(Side::Alice, "Hello Bob! Does this reach you?").await?;
        self.say(Side::Bob, "It does, and our servers had never met before.").await?;
        let relation = json!({ "rel_type": "m.annotation", "event_id": first, "key": "👍" });
        let thumb = json!({ "m.relates_to": relation });
        let begun = Instant::now();
        let thumb = self.bob.send(&self.room_id, "m.reaction", thumb).await?;
        self.teller.line("bob    reacts to her message with 👍")?;
        self.seen_by(Side::Alice, &thumb, begun).await?;
        let slip = self.say(Side::Alice, "The key is under the mat. Oh, wrong room.").await?;
        let begun = Instant::now();
        let redaction = self.alice.redact(&self.room_id, &slip).await?;
        self.teller.line("alice  takes that back")?;
        self.seen_by(Side::Bob, &redaction, begun).await?;
        let left = self.bob.held(&self.room_id, &slip).await?;
        if left.pointer("/content/ciphertext").is_some() {
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
        self.share_room_key(Side::Alice).await?;
        let event_id = self.alice.say(&self.room_id, text).await?;
        self.teller.line(&format!("alice  {text}"))?;
        // Long enough for her server to find his gone.
        sleep(Duration::from_secs(1)).await;
        let begun = Instant::now();
        servers.two.start().await?;
        self.teller.line("bob's server starts again")?;
        self.read_by(Side::Bob, &event_id, text, begun).await?;
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

    /// Says something and waits until the other has read it; the event's ID.
    async fn say(&mut self, who: Side, said: &str) -> Result<String, DemoError> {
        self.share_room_key(who).await?;
        let begun = Instant::now();
        let (person, room_id) = self.person(who);
        let event_id = person.say(&room_id, said).await?;
        let line = format!("{:6} {said}", person.name());
        self.teller.line(&line)?;
        self.read_by(who.other(), &event_id, said, begun).await?;
        Ok(event_id)
    }

    /// Lets the other's device read what this one says, if it cannot yet.
    async fn share_room_key(&mut self, who: Side) -> Result<(), DemoError> {
        let (person, room_id) = self.person(who);
        if person.share_room_key(&room_id).await? {
            let (from, to) = (person.name().to_owned(), self.person(who.other()).0.name());
            let line =
                format!("{from:6} gives {to}'s device the room key, in a message for it alone");
            self.teller.line(&line)?;
        }
        Ok(())
    }

    /// Waits until somebody reads what was said, and looks at what the servers hold of it.
    async fn read_by(
        &mut self,
        who: Side,
        event_id: &str,
        said: &str,
        begun: Instant,
    ) -> Result<(), DemoError> {
        let person = self.person(who).0;
        let read = person.reads(event_id).await?;
        let line = format!(
            "{:6} reads \"{read}\" after {} ms",
            person.name(),
            begun.elapsed().as_millis()
        );
        self.teller.line(&line)?;
        if read != said {
            return Err(DemoError::Exposed(format!("{said:?} was read as {read:?}")));
        }
        let hers = self.ciphertext(Side::Alice, event_id, said).await?;
        let his = self.ciphertext(Side::Bob, event_id, said).await?;
        if hers != his {
            return Err(DemoError::Disagreement(format!("they hold {hers} and {his}")));
        }
        Ok(self.teller.note(&format!("both servers hold {}", shortened(&hers)))?)
    }

    /// What somebody's server holds of something that was said: nothing that shows what it was.
    async fn ciphertext(
        &mut self,
        who: Side,
        event_id: &str,
        said: &str,
    ) -> Result<String, DemoError> {
        let (person, room_id) = self.person(who);
        let held = person.held(&room_id, event_id).await?;
        match held.pointer("/content/ciphertext").and_then(Value::as_str) {
            Some(ciphertext) if !held.to_string().contains(said) => Ok(ciphertext.to_owned()),
            _ => Err(DemoError::Exposed(format!("{}'s server holds {held}", person.name()))),
        }
    }

    async fn seen_by(
        &mut self,
        who: Side,
        event_id: &str,
        begun: Instant,
    ) -> Result<(), DemoError> {
        let (person, room_id) = self.person(who);
        let is_it = |event: &Value| event.get("event_id").is_some_and(|id| id == event_id);
        let find = |_: &Person, sync: &Value| find_event(sync, &room_id, is_it);
        person.wait_for("for an event", find).await?;
        let line = format!("{:6} sees it after {} ms", person.name(), begun.elapsed().as_millis());
        Ok(self.teller.line(&line)?)
    }

    /// One of the two, and the room.
    fn person(&mut self, who: Side) -> (&mut Person, OwnedRoomId) {
        let person = match who {
            Side::Alice => &mut self.alice,
            Side::Bob => &mut self.bob,
        };
        (person, self.room_id.clone())
    }
}

/// The two ends of a ciphertext.
fn shortened(ciphertext: &str) -> String {
    let end = ciphertext.len().saturating_sub(SHOWN.1);
    match (ciphertext.get(..SHOWN.0), ciphertext.get(end..)) {
        (Some(first), Some(last)) if SHOWN.0 < end => format!("{first}…{last}"),
        _ => ciphertext.to_owned(),
    }
}

/// Is there such an event in this room's timeline of a sync response?
fn find_event(response: &Value, room_id: &RoomId, is_it: impl Fn(&Value) -> bool) -> Option<()> {
    let timeline = format!("/rooms/join/{}/timeline/events", escaped(room_id.as_str()));
    let events = response.pointer(&timeline)?.as_array()?;
    events.iter().any(is_it).then_some(())
}

/// As part of a JSON pointer.
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
