"""Hearth and Synapse in the same rooms: what users of one do, users of the other see.

Every scenario runs once with the room on each side, and where the room version matters, in each of three versions.
"""

import concurrent.futures
import unittest
import urllib.parse

import peers
from harness import q
from people import V3, Person, agree, bodies, until

VERSIONS = ("10", "11", "12")
DEFAULT_VERSION = ("12",)
HISTORY = 45
# Lines of each server's log that a failed test shows, and errors in it.
LOGS_SHOWN = 60
FAULTS_SHOWN = 10

_pair = None


def setUpModule():
    global _pair
    _pair = peers.Pair()


def tearDownModule():
    if _pair is not None:
        _pair.close()


def pair():
    """The two servers of this run."""
    return _pair


def in_every_version(scenario):
    scenario.versions = VERSIONS
    return scenario


def with_each_resolution(scenario):
    """Once with state resolution v2, once with v2.1."""
    scenario.versions = ("11", "12")
    return scenario


def expand(case):
    """Makes tests of a class's scenarios: methods that take the host's user, the guest's and a room version."""
    for name, scenario in list(vars(case).items()):
        if not name.startswith("scenario_"):
            continue
        versions = getattr(scenario, "versions", DEFAULT_VERSION)
        for version in versions:
            for host, label in enumerate(peers.labels()):
                suffix = "_v" + version if len(versions) > 1 else ""
                test = "test_%s%s_hosted_by_%s" % (name.removeprefix("scenario_"), suffix, label)
                setattr(case, test, _test(scenario, host, version))
    return case


def _test(scenario, host, version):
    def test(self):
        hosting, visiting = _pair.servers[host], _pair.servers[1 - host]
        scenario(self, Person(hosting, "alice"), Person(visiting, "bob"), version)
    test.__doc__ = scenario.__doc__
    return test


class FederationCase(unittest.TestCase):
    def setUp(self):
        self._logged = [len(server.log_lines()) for server in _pair.servers]

    def tearDown(self):
        for server, logged in zip(_pair.servers, self._logged):
            faults = server.faults(skip=logged)
            self.assertFalse(faults, "logged as errors by %s: %s" % (server.kind, "\n".join(faults[:FAULTS_SHOWN])))

    def logs(self):
        """The last that both servers have logged during this test."""
        parts = []
        for server, label, logged in zip(_pair.servers, peers.labels(), self._logged):
            lines = server.log_lines()[logged:]
            parts.append("---- %s, the last of %d lines\n" % (label, len(lines)) + "\n".join(lines[-LOGS_SHOWN:]))
        return "\n".join(parts)

    def shared_room(self, alice, bob, version, **options):
        """A public room of Alice's that Bob has joined."""
        room = alice.room(version, preset="public_chat", **options)
        bob.must_join(room, alice)
        alice.sees_membership(room, bob.user_id, "join")
        return room

    def talk(self, room, *people):
        """Each says something that all read."""
        for person in people:
            event = person.says(room, "%s is here" % person.user_id)
            for other in people:
                self.assertEqual(other.sees_event(room, event)["sender"], person.user_id)


@expand
class Joins(FederationCase):
    @in_every_version
    def scenario_public_join(self, alice, bob, version):
        room = alice.room(version, preset="public_chat", name="A public room", topic="Open to all")
        bob.must_join(room, alice)
        alice.sees_membership(room, bob.user_id, "join")
        self.talk(room, alice, bob)
        state = agree(room, alice, bob)
        self.assertEqual(state["m.room.create", ""]["content"]["room_version"], version)
        self.assertEqual(state["m.room.name", ""]["content"]["name"], "A public room")

    @in_every_version
    def scenario_invite(self, alice, bob, version):
        room = alice.room(version, preset="private_chat", name="By invitation")
        self.assertEqual(bob.join_via(room, alice).status, 403)
        alice.act(room, "invite", user_id=bob.user_id)
        stripped = {event["type"]: event for event in bob.sees_invite(room) if event["type"] != "m.room.member"}
        self.assertEqual(stripped["m.room.name"]["content"], {"name": "By invitation"})
        self.assertEqual(stripped["m.room.join_rules"]["content"]["join_rule"], "invite")
        bob.must_join(room, alice)
        alice.sees_membership(room, bob.user_id, "join")
        self.talk(room, alice, bob)
        agree(room, alice, bob)

    @in_every_version
    def scenario_restricted_join(self, alice, bob, version):
        club = alice.room(version, preset="public_chat", name="The club")
        rule = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": club}]}
        room = alice.room(version, preset="private_chat", initial_state=[
            {"type": "m.room.join_rules", "state_key": "", "content": rule}])
        refused = bob.join_via(room, alice)
        self.assertEqual(refused.status, 403, refused)
        bob.must_join(club, alice)
        alice.sees_membership(club, bob.user_id, "join")
        bob.must_join(room, alice)
        content = alice.sees_membership(room, bob.user_id, "join")
        self.assertEqual(content["join_authorised_via_users_server"], alice.user_id)
        self.talk(room, alice, bob)
        agree(room, alice, bob)

    def scenario_crowded_join(self, alice, bob, version):
        """The answer to a join may leave members out: what they do counts at once, and soon all are known."""
        room = alice.room(version, preset="public_chat")
        carol, dave, mallory = [Person(alice.server, name) for name in ("carol", "dave", "mallory")]
        for person in (carol, dave, mallory):
            person.join(room)
        dave.act(room, "leave")
        alice.act(room, "ban", user_id=mallory.user_id)
        bob.must_join(room, alice)
        bob.sees_event(room, carol.says(room, "Welcome"))
        carol.act(room, "leave")
        alice.sees_event(room, bob.says(room, "Good bye"))
        bob.sees_membership(room, carol.user_id, "leave")
        bob.sees_membership(room, mallory.user_id, "ban")
        agree(room, alice, bob)

    def scenario_join_amid_messages(self, alice, bob, version):
        """Nothing is missed that is said while the join is under way."""
        room = alice.room(version, preset="public_chat")
        texts = ["message %d" % number for number in range(30)]

        def speak():
            for text in texts:
                alice.says(room, text)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            speech = pool.submit(speak)
            bob.must_join(room, alice)
            speech.result()
        until(lambda: bodies(bob.history(room)) == texts, "all that was said")
        agree(room, alice, bob)

    def scenario_second_guest(self, alice, bob, version):
        """Who joins a room that the own server is in already needs no other server."""
        room = self.shared_room(alice, bob, version)
        carol = Person(bob.server, "carol")
        carol.must_join(room, alice)
        alice.sees_membership(room, carol.user_id, "join")
        self.talk(room, alice, bob, carol)
        agree(room, alice, bob, carol)

    def scenario_alias(self, alice, bob, version):
        """An alias of the other server, resolved and joined."""
        local = "lounge" + alice.user_id.split(":")[0].removeprefix("@")
        room = alice.room(version, preset="public_chat", room_alias_name=local)
        alias = "#%s:%s" % (local, alice.server.name)
        answer = bob.ok("GET", "%s/directory/room/%s" % (V3, q(alias)))
        self.assertEqual(answer["room_id"], room)
        self.assertIn(alice.server.name, answer["servers"])
        missing = bob.request("GET", "%s/directory/room/%s" % (V3, q("#no" + alias[1:])))
        self.assertEqual((missing.status, missing.errcode), (404, "M_NOT_FOUND"))
        self.assertEqual(bob.ok("POST", "%s/join/%s" % (V3, q(alias)), {})["room_id"], room)
        self.talk(room, alice, bob)

    def scenario_knock(self, alice, bob, version):
        """Knocks: withdrawn, turned away, and let in."""
        room = alice.room(version, preset="private_chat", name="Knock first", initial_state=[
            {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}])
        path = "%s/knock/%s?%s" % (V3, q(room), urllib.parse.urlencode(
            {"server_name": alice.server.name, "via": alice.server.name}))
        # A Synapse takes a knock back without telling the room's servers.
        withdrawn_by = [bob] if bob.server.kind != "synapse" else []
        for ended_by in [alice] + withdrawn_by:
            bob.ok("POST", path, {"reason": "Is anybody in?"})
            content = alice.sees_membership(room, bob.user_id, "knock")
            self.assertEqual(content["reason"], "Is anybody in?")
            bob.sees(lambda me: me.memberships.get(room) == "knock", "the own knock")
            # A server that is not in the room need not be told that its user was turned away; Synapse tells none.
            if ended_by is bob:
                bob.act(room, "leave")
            else:
                alice.act(room, "kick", user_id=bob.user_id)
            alice.sees_membership(room, bob.user_id, "leave")
        bob.ok("POST", path, {})
        alice.sees_membership(room, bob.user_id, "knock")
        alice.act(room, "invite", user_id=bob.user_id)
        bob.sees_invite(room)
        bob.must_join(room, alice)
        self.talk(room, alice, bob)
        agree(room, alice, bob)


@expand
class Departures(FederationCase):
    def scenario_leave_and_return(self, alice, bob, version):
        room = self.shared_room(alice, bob, version)
        bob.act(room, "leave")
        alice.sees_membership(room, bob.user_id, "leave")
        missed = alice.says(room, "while Bob is away")
        bob.must_join(room, alice)
        alice.sees_membership(room, bob.user_id, "join")
        self.talk(room, alice, bob)
        until(lambda: missed in [event["event_id"] for event in bob.history(room)], "what was said meanwhile")
        agree(room, alice, bob)

    def scenario_kick_and_ban(self, alice, bob, version):
        room = self.shared_room(alice, bob, version)
        bob.sees(lambda me: me.memberships.get(room) == "join", "the join")
        alice.act(room, "kick", user_id=bob.user_id, reason="Take a walk")
        bob.sees(lambda me: me.memberships.get(room) == "leave", "the kick")
        bob.must_join(room, alice)
        alice.sees_membership(room, bob.user_id, "join")
        alice.act(room, "ban", user_id=bob.user_id)
        bob.sees(lambda me: any(
            event["type"] == "m.room.member" and event["content"]["membership"] == "ban"
            for event in me.timelines.get(room, [])), "the ban")
        self.assertEqual(bob.join_via(room, alice).status, 403)
        alice.act(room, "unban", user_id=bob.user_id)
        bob.must_join(room, alice)
        alice.sees_membership(room, bob.user_id, "join")
        self.talk(room, alice, bob)
        agree(room, alice, bob)

    def scenario_declined_invite(self, alice, bob, version):
        room = alice.room(version, preset="private_chat")
        alice.act(room, "invite", user_id=bob.user_id)
        bob.sees_invite(room)
        bob.act(room, "leave")
        alice.sees_membership(room, bob.user_id, "leave")
        bob.sees(lambda me: me.memberships.get(room) == "leave", "the end of the invite")

    def scenario_withdrawn_invite(self, alice, bob, version):
        room = alice.room(version, preset="private_chat")
        alice.act(room, "invite", user_id=bob.user_id)
        bob.sees_invite(room)
        alice.act(room, "kick", user_id=bob.user_id)
        bob.sees(lambda me: me.memberships.get(room) == "leave", "the end of the invite")
        self.assertEqual(bob.join_via(room, alice).status, 403)

    def scenario_server_acl(self, alice, bob, version):
        """Nothing comes from a server that the room's access control list denies."""
        room = self.shared_room(alice, bob, version)
        before = bob.says(room, "heard")
        alice.sees_event(room, before)
        denied = alice.sets(room, "m.room.server_acl", {"allow": ["*"], "deny": [bob.server.name.split(":")[0].upper()]})
        bob.sees_event(room, denied)
        answer = bob.send(room, "not heard", "denied")
        other = self.shared_room(alice, bob, version)
        later = bob.says(other, "heard in another room")
        alice.sees_event(other, later)
        if answer.status == 200:
            self.assertIsNone(alice.event(room, answer.json["event_id"]))


@expand
class Conversation(FederationCase):
    def scenario_redactions(self, alice, bob, version):
        room = self.shared_room(alice, bob, version)
        for author, censor in ((alice, alice), (bob, bob), (bob, alice)):
            event = author.says(room, "regrettable")
            for person in (alice, bob):
                self.assertEqual(person.sees_event(room, event)["content"]["body"], "regrettable")
            redaction = censor.redacts(room, event, "second thoughts")
            for person in (alice, bob):
                person.sees_event(room, redaction)
                until(lambda: person.event(room, event)["content"] == {}, "%s sees the redaction" % person.user_id)
                because = person.event(room, event)["unsigned"]["redacted_because"]
                self.assertEqual((because["event_id"], because["content"]["reason"]), (redaction, "second thoughts"))

    def scenario_redaction_without_power(self, alice, bob, version):
        """What Alice's server must not accept, Bob's refuses to send."""
        room = self.shared_room(alice, bob, version)
        event = alice.says(room, "stays")
        bob.sees_event(room, event)
        path = "%s/rooms/%s/redact/%s/t" % (V3, q(room), q(event))
        self.assertEqual(bob.request("PUT", path, {}).status, 403)

    def scenario_state(self, alice, bob, version):
        room = self.shared_room(alice, bob, version)
        refused = bob.request("PUT", "%s/rooms/%s/state/m.room.topic/" % (V3, q(room)), {"topic": "Bob's"})
        self.assertEqual(refused.status, 403)
        bob.sees_event(room, alice.sets(room, "m.room.topic", {"topic": "Alice's"}))
        levels = alice.state_content(room, "m.room.power_levels")
        levels.setdefault("users", {})[bob.user_id] = 50
        bob.sees_event(room, alice.sets(room, "m.room.power_levels", levels))
        alice.sees_event(room, bob.sets(room, "m.room.topic", {"topic": "Bob's"}))
        alice.sees_event(room, bob.sets(room, "org.example.note", {"text": "ä ö \u2603 \U0001f525"}, "key/with:signs"))
        state = agree(room, alice, bob)
        self.assertEqual(state["m.room.topic", ""]["content"]["topic"], "Bob's")
        self.assertEqual(state["org.example.note", "key/with:signs"]["content"], {"text": "ä ö \u2603 \U0001f525"})

    def scenario_many_messages(self, alice, bob, version):
        """More than a transaction holds, from both sides at once, in the order of each sender."""
        room = self.shared_room(alice, bob, version)
        said = {person: [] for person in (alice, bob)}
        for number in range(60):
            for person in (alice, bob):
                text = "%s %d" % (person.user_id, number)
                person.says(room, text)
                said[person].append(text)
        for person in (alice, bob):
            def check():
                heard = bodies(person.history(room))
                for sender in (alice, bob):
                    assert [text for text in heard if text.startswith(sender.user_id)] == said[sender], heard
                return True
            until(check, "%s reads all" % person.user_id)
        agree(room, alice, bob)

    def scenario_receipts(self, alice, bob, version):
        room = self.shared_room(alice, bob, version)
        for reader, author in ((bob, alice), (alice, bob)):
            event = author.says(room, "read this")
            reader.sees_event(room, event)
            reader.ok("POST", "%s/rooms/%s/receipt/m.read/%s" % (V3, q(room), q(event)), {})
            author.sees(lambda me: any(
                reader.user_id in each["content"].get(event, {}).get("m.read", {})
                for each in me.ephemeral.get(room, []) if each["type"] == "m.receipt"),
                "the receipt of %s" % reader.user_id)

    def scenario_typing(self, alice, bob, version):
        room = self.shared_room(alice, bob, version)
        for writer, watcher in ((bob, alice), (alice, bob)):
            path = "%s/rooms/%s/typing/%s" % (V3, q(room), q(writer.user_id))

            def last(me):
                typing = [each for each in me.ephemeral.get(room, []) if each["type"] == "m.typing"]
                return typing[-1]["content"]["user_ids"] if typing else []
            writer.ok("PUT", path, {"typing": True, "timeout": 30_000})
            watcher.sees(lambda me: writer.user_id in last(me), "%s typing" % writer.user_id)
            writer.ok("PUT", path, {"typing": False})
            watcher.sees(lambda me: writer.user_id not in last(me), "%s no longer typing" % writer.user_id)

    def scenario_presence(self, alice, bob, version):
        self.shared_room(alice, bob, version)
        for person, watcher in ((bob, alice), (alice, bob)):
            for presence, status in (("online", "at the desk"), ("unavailable", "at lunch")):
                path = "%s/presence/%s/status" % (V3, q(person.user_id))
                person.ok("PUT", path, {"presence": presence, "status_msg": status})
                watcher.sees(lambda me: any(
                    each["sender"] == person.user_id and each["content"].get("status_msg") == status
                    and each["content"]["presence"] == presence for each in me.presence),
                    "%s being %s" % (person.user_id, presence))

    def scenario_profiles(self, alice, bob, version):
        """A changed name is seen in shared rooms; profiles can be asked for without sharing any."""
        for person, asker in ((bob, alice), (alice, bob)):
            path = "%s/profile/%s" % (V3, q(person.user_id))
            person.ok("PUT", path + "/displayname", {"displayname": "First name"})
            self.assertEqual(asker.ok("GET", path)["displayname"], "First name")
            self.assertEqual(asker.ok("GET", path + "/displayname"), {"displayname": "First name"})
        stranger = "%s/profile/%s" % (V3, q("@nobody:" + alice.server.name))
        answer = bob.request("GET", stranger)
        self.assertEqual((answer.status, answer.errcode), (404, "M_NOT_FOUND"))
        room = self.shared_room(alice, bob, version)
        for person, watcher in ((bob, alice), (alice, bob)):
            path = "%s/profile/%s" % (V3, q(person.user_id))
            person.ok("PUT", path + "/displayname", {"displayname": "Second name"})
            person.ok("PUT", path + "/avatar_url", {"avatar_url": "mxc://example.org/face"})

            def check():
                content = watcher.state_content(room, "m.room.member", person.user_id)
                return (content.get("displayname"), content.get("avatar_url")) == (
                    "Second name", "mxc://example.org/face")
            until(check, "the new profile of %s" % person.user_id)
        agree(room, alice, bob)


@expand
class Reading(FederationCase):
    def scenario_backfill(self, alice, bob, version):
        """Pages back to before the own server was in the room, down to its first event."""
        room = alice.room(version, preset="public_chat")
        texts = ["message %d" % number for number in range(HISTORY)]
        sent = [alice.says(room, text) for text in texts]
        bob.must_join(room, alice)
        until(lambda: bodies(bob.history(room)) == texts, "all that was said before the join")
        history = bob.history(room)
        self.assertEqual(history[0]["type"], "m.room.create")
        ids = [event["event_id"] for event in history]
        self.assertEqual(len(ids), len(set(ids)))
        self.assertEqual([each for each in ids if each in set(sent)], sent)

    def scenario_hidden_history(self, alice, bob, version):
        """History before the join stays hidden when the room says so."""
        room = alice.room(version, preset="public_chat", initial_state=[
            {"type": "m.room.history_visibility", "state_key": "", "content": {"history_visibility": "joined"}}])
        hidden = alice.says(room, "before")
        bob.must_join(room, alice)
        alice.sees_membership(room, bob.user_id, "join")
        shown = alice.says(room, "after")
        bob.sees_event(room, shown)
        self.assertEqual(bodies(bob.history(room)), ["after"])
        self.assertIsNone(bob.event(room, hidden))

    def scenario_timestamp_to_event(self, alice, bob, version):
        """An event of before the join is found by its time."""
        room = alice.room(version, preset="public_chat")
        events = [alice.says(room, "number %d" % number) for number in range(HISTORY)]
        wanted = alice.event(room, events[2])
        bob.must_join(room, alice)
        query = urllib.parse.urlencode({"ts": wanted["origin_server_ts"], "dir": "f"})

        def check():
            answer = bob.request("GET", "/_matrix/client/v1/rooms/%s/timestamp_to_event?%s" % (q(room), query))
            assert answer.status == 200 and answer.json["event_id"] == events[2], answer
            return True
        until(check, "the event of that time")

    def scenario_public_rooms(self, alice, bob, version):
        """The other server's directory, whole and searched."""
        room = alice.room(version, preset="public_chat", visibility="public", name="Listed " + alice.user_id)
        query = urllib.parse.urlencode({"server": alice.server.name, "limit": 1000})

        def listed(answer):
            return [each for each in answer["chunk"] if each["room_id"] == room]
        found = until(lambda: listed(bob.ok("GET", "%s/publicRooms?%s" % (V3, query))), "the room in the list")
        self.assertEqual((found[0]["name"], found[0]["num_joined_members"]), ("Listed " + alice.user_id, 1))
        search = {"filter": {"generic_search_term": alice.user_id}, "limit": 10}
        found = bob.ok("POST", "%s/publicRooms?%s" % (V3, query), search)["chunk"]
        self.assertEqual([each["room_id"] for each in found], [room])

    def scenario_hierarchy(self, alice, bob, version):
        """A space of the other server, with rooms that the own server is not in."""
        space = alice.room(version, preset="public_chat", name="The space", creation_content={"type": "m.space"})
        rule = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": space}]}
        children = {
            "public": alice.room(version, preset="public_chat", name="public"),
            "restricted": alice.room(version, preset="private_chat", name="restricted", initial_state=[
                {"type": "m.room.join_rules", "state_key": "", "content": rule}]),
            "private": alice.room(version, preset="private_chat", name="private"),
        }
        for child in children.values():
            alice.sets(space, "m.space.child", {"via": [alice.server.name]}, child)
        bob.must_join(space, alice)

        def rooms():
            answer = bob.ok("GET", "/_matrix/client/v1/rooms/%s/hierarchy" % q(space))
            return {each["room_id"]: each.get("name") for each in answer["rooms"]}
        wanted = {space: "The space", children["public"]: "public", children["restricted"]: "restricted"}
        until(lambda: rooms() == wanted, "the rooms of the space that Bob may see")
