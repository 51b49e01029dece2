"""Users of federating servers: what they do, and how long a test waits until they see it."""

import os
import time
import urllib.parse

import harness
from harness import q

# Generous, as the machine may be busy with both servers; nothing waits so long unless it is broken.
DEADLINE_S = int(os.environ.get("FEDERATION_DEADLINE_S", "60"))
POLL_S = 0.1
SYNC_MS = 1_000
V3 = "/_matrix/client/v3"


def until(check, what):
    """Polls until `check` returns something true, and returns that. AssertionErrors count as not yet."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        failure = None
        try:
            result = check()
            if result:
                return result
        except AssertionError as error:
            failure = error
        if time.monotonic() > deadline:
            raise AssertionError("not within %d s: %s%s" % (DEADLINE_S, what, ": %s" % failure if failure else ""))
        time.sleep(POLL_S)


class Person(harness.Client):
    """A user, with everything that their syncs have told so far."""

    def __init__(self, server, name):
        account = harness.register(server.url, name)
        super().__init__(account.url, account.token, account.user_id)
        self.server = server
        self._since = None
        self._transactions = 0
        self.invites = {}  # room -> stripped state
        self.timelines = {}  # room -> events
        self.ephemeral = {}  # room -> events
        self.presence = []
        self.memberships = {}  # room -> "join", "leave" or "knock", as the response's section says, or "invite"

    # ---- waiting

    def sees(self, check, what):
        """Syncs until `check(self)` returns something true, and returns that."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            result = check(self)
            if result:
                return result
            if time.monotonic() > deadline:
                raise AssertionError("not seen by %s within %d s: %s" % (self.user_id, DEADLINE_S, what))
            self._sync()

    def _sync(self):
        query = {"timeout": str(SYNC_MS), "set_presence": "offline"}
        if self._since is not None:
            query["since"] = self._since
        response = self.ok("GET", V3 + "/sync?" + urllib.parse.urlencode(query))
        self._since = response["next_batch"]
        self.presence += response.get("presence", {}).get("events", [])
        for section, updates in response.get("rooms", {}).items():
            for room, update in updates.items():
                self.memberships[room] = section
                if section == "invite":
                    self.invites[room] = update["invite_state"]["events"]
                self.timelines.setdefault(room, []).extend(update.get("timeline", {}).get("events", []))
                self.ephemeral.setdefault(room, []).extend(update.get("ephemeral", {}).get("events", []))

    def sees_event(self, room, event_id):
        """Waits until this user may read the event, and returns it."""
        return until(lambda: self.event(room, event_id), "%s reads %s" % (self.user_id, event_id))

    def sees_invite(self, room):
        """Waits for an invite; returns its stripped state."""
        self.sees(lambda me: me.memberships.get(room) == "invite", "an invite to %s" % room)
        return self.invites[room]

    def sees_membership(self, room, user_id, membership):
        """Waits until the room's state says so; returns the event's content."""
        def check():
            content = self.state_content(room, "m.room.member", user_id)
            assert content and content["membership"] == membership, "the state says %s" % content
            return content
        return until(check, "%s sees %s of %s" % (self.user_id, membership, user_id))

    # ---- doing

    def room(self, version, **options):
        return self.create_room(room_version=version, **options)

    def join_via(self, room, other):
        """Joins by way of another server; returns the answer."""
        query = urllib.parse.urlencode({"server_name": other.server.name, "via": other.server.name})
        return self.request("POST", "%s/join/%s?%s" % (V3, q(room), query), {})

    def must_join(self, room, other):
        answer = self.join_via(room, other)
        assert answer.status == 200, "%s joins %s: %s" % (self.user_id, room, answer)
        return answer.json["room_id"]

    def says(self, room, body):
        """Sends a message, returns its event ID."""
        return self.sends(room, "m.room.message", {"msgtype": "m.text", "body": body})

    def sends(self, room, event_type, content):
        self._transactions += 1
        path = "%s/rooms/%s/send/%s/t%d" % (V3, q(room), q(event_type), self._transactions)
        return self.ok("PUT", path, content)["event_id"]

    def redacts(self, room, event_id, reason):
        self._transactions += 1
        path = "%s/rooms/%s/redact/%s/t%d" % (V3, q(room), q(event_id), self._transactions)
        return self.ok("PUT", path, {"reason": reason})["event_id"]

    def sets(self, room, event_type, content, state_key=""):
        """Sets state, returns the event ID."""
        return self.ok("PUT", self._state_path(room, event_type, state_key), content)["event_id"]

    def act(self, room, action, **body):
        """invite, kick, ban, unban or leave."""
        self.ok("POST", "%s/rooms/%s/%s" % (V3, q(room), action), body)

    # ---- reading

    def event(self, room, event_id):
        """The event, or None."""
        answer = self.request("GET", "%s/rooms/%s/event/%s" % (V3, q(room), q(event_id)))
        assert answer.status in (200, 403, 404), "event: %s" % answer
        return answer.json if answer.status == 200 else None

    def state(self, room):
        """The room's state: (type, state key) -> event."""
        events = self.ok("GET", "%s/rooms/%s/state" % (V3, q(room)))
        return {(event["type"], event["state_key"]): event for event in events}

    def state_content(self, room, event_type, state_key=""):
        """The content of one state event, or None."""
        answer = self.request("GET", self._state_path(room, event_type, state_key))
        return answer.json if answer.status == 200 else None

    def members(self, room):
        """user -> (membership, event ID)"""
        events = self.ok("GET", "%s/rooms/%s/members" % (V3, q(room)))["chunk"]
        return {event["state_key"]: (event["content"]["membership"], event["event_id"]) for event in events}

    def history(self, room, page=20, most_pages=100):
        """Everything that this user can page back to, oldest first."""
        events, start = [], None
        for _ in range(most_pages):
            query = {"dir": "b", "limit": str(page)}
            if start is not None:
                query["from"] = start
            answer = self.ok("GET", "%s/rooms/%s/messages?%s" % (V3, q(room), urllib.parse.urlencode(query)))
            events += answer["chunk"]
            start = answer.get("end")
            if start is None:
                return events[::-1]
        raise AssertionError("the room's history does not end")

    def _state_path(self, room, event_type, state_key):
        return "%s/rooms/%s/state/%s/%s" % (V3, q(room), q(event_type), q(state_key))


def bodies(events):
    """The texts of messages among events, in order."""
    return [event["content"]["body"] for event in events
            if event["type"] == "m.room.message" and "body" in event["content"]]


def agree(room, *people):
    """Waits until all see the same state and the same members, by event ID; returns the state."""
    def check():
        states = [person.state(room) for person in people]
        ids = [{key: event["event_id"] for key, event in state.items()} for state in states]
        for person, other in zip(people[1:], ids[1:]):
            differing = {key: (ids[0].get(key), other.get(key)) for key in ids[0].keys() | other.keys()
                         if ids[0].get(key) != other.get(key)}
            assert not differing, "state at %s and %s: %s" % (people[0].server.name, person.server.name, differing)
        members = [person.members(room) for person in people]
        assert all(each == members[0] for each in members), "members: %s" % members
        return states[0]
    return until(check, "the same state for %s" % ", ".join(person.user_id for person in people))
