"""Hearth and Synapse after one of them was away, and after both went on without the other.

A cut is made on the wires between the servers, so that both live on; an outage is a server that is stopped or killed.
"""

import federation
from federation import FederationCase, in_every_version, with_each_resolution
from people import Person, agree, bodies, until

# More than a transaction holds, and more than one timeline.
MISSED = 55


def setUpModule():
    federation.setUpModule()


def tearDownModule():
    federation.tearDownModule()


def messages(person, room):
    """The texts that the person can page back to."""
    return bodies(person.history(room))


@federation.expand
class Outages(FederationCase):
    def scenario_guest_stopped(self, alice, bob, version):
        self.away(alice, bob, version, absent=bob)

    def scenario_host_stopped(self, alice, bob, version):
        self.away(alice, bob, version, absent=alice)

    def away(self, alice, bob, version, absent):
        """One server is away while the other's user speaks and changes the state; it catches up."""
        rooms = [self.shared_room(alice, bob, version, power_level_content_override={"state_default": 0})
                 for _ in range(2)]
        speaker = alice if absent is bob else bob
        for room in rooms:
            absent.sees_event(room, speaker.says(room, "before"))
        absent.server.stop()
        busy, quiet = rooms
        texts = ["missed %d" % number for number in range(MISSED)]
        for text in texts:
            speaker.says(busy, text)
        topic = speaker.sets(busy, "m.room.topic", {"topic": "changed meanwhile"})
        speaker.says(quiet, "missed in a quiet room")
        absent.server.start()
        until(lambda: messages(absent, busy) == ["before"] + texts, "all that was missed")
        until(lambda: messages(absent, quiet) == ["before", "missed in a quiet room"], "what was missed elsewhere")
        speaker.sees_event(busy, absent.says(busy, "after"))
        state = agree(busy, speaker, absent)
        self.assertEqual(state["m.room.topic", ""]["event_id"], topic)

    def scenario_speaker_restarted(self, alice, bob, version):
        """What a server could not deliver before it was killed is delivered after it has started again."""
        room = self.shared_room(alice, bob, version)
        bob.sees_event(room, alice.says(room, "before"))
        federation.pair().cut()
        try:
            texts = ["undelivered %d" % number for number in range(5)]
            for text in texts:
                alice.says(room, text)
            alice.server.kill()
            alice.server.start()
        finally:
            federation.pair().heal()
        until(lambda: messages(bob, room) == ["before"] + texts, "what was said before the kill")
        agree(room, alice, bob)


@federation.expand
class Forks(FederationCase):
    def tearDown(self):
        federation.pair().heal()
        super().tearDown()

    def forked(self, alice, bob, version, here, there):
        """Two sides of a room go their own ways: `here` and `there` run while nothing passes between them.

        Returns the room and its state after the servers have found each other again.
        """
        room = self.shared_room(alice, bob, version)
        levels = alice.state_content(room, "m.room.power_levels")
        levels.setdefault("users", {})[bob.user_id] = 90
        levels["events"]["m.room.power_levels"] = 90
        bob.sees_event(room, alice.sets(room, "m.room.power_levels", levels))
        federation.pair().cut()
        try:
            events = here(room, levels) + there(room, levels)
        finally:
            federation.pair().heal()
        for person in (alice, bob):
            for event in events:
                person.sees_event(room, event)
        state = agree(room, alice, bob)
        # The branches are joined by what comes next, and stay so.
        for person, other in ((alice, bob), (bob, alice)):
            other.sees_event(room, person.says(room, "together again"))
        self.assertEqual(ids(agree(room, alice, bob)), ids(state))
        return room, state

    @in_every_version
    def scenario_same_keys(self, alice, bob, version):
        """Both change the same state and say things; one side's last word counts, and what only one changed stays."""
        def change(person, label):
            def run(room, _):
                events = [person.says(room, "%s %d" % (label, number)) for number in range(3)]
                for number in range(3):
                    events.append(person.sets(room, "m.room.topic", {"topic": "%s %d" % (label, number)}))
                person.sets(room, "org.example.own", {"by": label}, label)
                person.sets(room, "m.room.name", {"name": label})
                return events
            return run
        room, state = self.forked(alice, bob, version, change(alice, "here"), change(bob, "there"))
        self.assertIn(state["m.room.topic", ""]["content"]["topic"], ("here 2", "there 2"))
        for label in ("here", "there"):
            self.assertEqual(state["org.example.own", label]["content"], {"by": label})

    @with_each_resolution
    def scenario_ban_wins(self, alice, bob, version):
        """Whoever is banned on one side while he acts on the other is banned on both, and his changes are undone."""
        mallory = Person(bob.server, "mallory")

        room = self.shared_room(alice, bob, version)
        levels = alice.state_content(room, "m.room.power_levels")
        mallory.must_join(room, alice)
        alice.sees_membership(room, mallory.user_id, "join")
        levels.setdefault("users", {}).update({bob.user_id: 90, mallory.user_id: 60})
        bob.sees_event(room, alice.sets(room, "m.room.power_levels", levels))
        alice.sets(room, "m.room.name", {"name": "The name"})
        bob.sees_event(room, alice.says(room, "before the cut"))
        federation.pair().cut()
        try:
            alice.act(room, "ban", user_id=mallory.user_id)
            bob.sets(room, "m.room.topic", {"topic": "Bob's"})
            mallory.sets(room, "m.room.name", {"name": "Mallory's"})
        finally:
            federation.pair().heal()
        for person in (alice, bob):
            person.sees_membership(room, mallory.user_id, "ban")
            until(lambda: person.state_content(room, "m.room.topic") == {"topic": "Bob's"}, "Bob's topic")
        state = agree(room, alice, bob)
        self.assertEqual(state["m.room.name", ""]["content"]["name"], "The name")

    @with_each_resolution
    def scenario_demotion_wins(self, alice, bob, version):
        """Both change the power levels: the higher user's change counts, and what it forbids is undone."""
        def here(room, levels):
            lowered = {**levels, "users": {**levels["users"], bob.user_id: 0}}
            alice.sets(room, "m.room.power_levels", lowered)
            return [alice.sets(room, "m.room.topic", {"topic": "Alice's"})]

        def there(room, levels):
            bob.sets(room, "m.room.power_levels", {**levels, "events_default": 10})
            bob.sets(room, "m.room.topic", {"topic": "Bob's"})
            return []
        room, state = self.forked(alice, bob, version, here, there)
        self.assertEqual(state["m.room.power_levels", ""]["content"]["users"][bob.user_id], 0)
        self.assertEqual(state["m.room.topic", ""]["content"]["topic"], "Alice's")


def ids(state):
    return {key: event["event_id"] for key, event in state.items()}
