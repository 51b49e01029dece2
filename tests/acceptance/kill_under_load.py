"""kill -9 under load: nothing acknowledged is lost, nothing is doubled, and sync tokens stay good.

Several senders send into two rooms while a reader follows its sync token. The server is killed at random moments and
started again on the same folder. A sender without an answer either repeats the message with the same transaction ID until
it is acknowledged, or gives it up; then it may be in the room or not. HEARTH_SEED repeats a run's random choices,
HEARTH_KILLS changes the number of kills.
"""

import collections
import os
import random
import secrets
import threading
import time
import unittest
import urllib.parse

import harness
from harness import q

KILLS = int(os.environ.get("HEARTH_KILLS", "6"))
SENDERS = 6
ROOMS = 2
# A kill comes at least so many acknowledgements after the last start, so that there is something to lose.
ACKNOWLEDGED_BETWEEN_KILLS = 30
PROGRESS_TIMEOUT_S = 60
POLL_MS = 5_000
TIMELINE_LIMIT = 500
MOST_PAGES = 1_000


class Sender(threading.Thread):
    """Sends numbered messages until it is told to stop."""

    def __init__(self, name, client, rooms, seed, repeats, stop):
        super().__init__(name=name, daemon=True)
        self.client, self.rooms, self.random = client, rooms, random.Random(seed)
        self.repeats, self.stop = repeats, stop
        self.acknowledged = {}  # body -> (room, event)
        self.given_up = {}  # body -> room
        self.refused = []

    def run(self):
        number = 0
        while not self.stop.is_set():
            number += 1
            room, body = self.random.choice(self.rooms), "%s message %d" % (self.name, number)
            self.say(room, body, "%s-%d" % (self.name, number))

    def say(self, room, body, transaction_id):
        while True:
            try:
                answer = self.client.send(room, body, transaction_id)
            except OSError:
                time.sleep(0.02)
                if self.stop.is_set() or not self.repeats:
                    self.given_up[body] = room
                    return
                continue
            if answer.status == 200:
                self.acknowledged[body] = (room, answer.json["event_id"])
            elif answer.status == 503:
                time.sleep(0.02)  # The server says that it is starting or overloaded.
                continue
            else:
                self.refused.append("%s: %s" % (body, answer))
            return


class Reader(threading.Thread):
    """Follows /sync from token to token, over all kills, and keeps what it was given."""

    def __init__(self, client, since, rooms):
        super().__init__(name="reader", daemon=True)
        self.client, self.since, self.rooms = client, since, rooms
        self.tokens = [since]
        self.seen = {room: [] for room in rooms}  # room -> [(event, body)]
        self.last_words = threading.Event()
        self.failure = None

    def run(self):
        try:
            while not all(any(body == "the end" for _, body in events) for events in self.seen.values()):
                try:
                    self.since = follow(self.client, self.since, self.seen, POLL_MS)
                    self.tokens.append(self.since)
                except OSError:
                    time.sleep(0.02)
            self.last_words.set()
        except Exception as failure:  # Shown by the test; a thread's own report would be lost.
            self.failure = failure
            self.last_words.set()


def follow(client, since, seen, timeout_ms):
    """One sync. Adds the messages of its timelines, gaps filled in, to `seen`. Returns the next token."""
    response = client.sync(since, timeout_ms, TIMELINE_LIMIT)
    arrived = {}
    for room, update in response.get("rooms", {}).get("join", {}).items():
        timeline = update["timeline"]
        events = timeline["events"]
        if timeline.get("limited"):
            known = {event_id for event_id, _ in seen[room]}
            events = gap(client, room, timeline["prev_batch"], since, known) + events
        arrived[room] = [(event["event_id"], event["content"].get("body")) for event in events
                         if event["type"] == "m.room.message"]
    # Only now: a kill while a gap is being filled makes the whole response be asked for again.
    for room, messages in arrived.items():
        seen[room] += messages
    return response["next_batch"]


def gap(client, room, start, since, known):
    """The events between `since` and `start`, oldest first."""
    events = []
    for _ in range(MOST_PAGES):
        query = urllib.parse.urlencode({"dir": "b", "from": start, "to": since, "limit": "100"})
        page = client.ok("GET", "/_matrix/client/v3/rooms/%s/messages?%s" % (q(room), query))
        for event in page["chunk"]:
            if event["event_id"] in known:
                return events[::-1]
            events.append(event)
        start = page.get("end")
        if start is None:
            return events[::-1]
    raise AssertionError("a gap without end")


class KillUnderLoad(unittest.TestCase):
    def test_nothing_acknowledged_is_lost_and_nothing_is_doubled(self):
        if os.environ.get("HEARTH_URL"):
            self.skipTest("needs a server that it may kill")
        seed = int(os.environ.get("HEARTH_SEED") or secrets.randbelow(2**32))
        print("seed %d" % seed, end=" ", flush=True)
        self.random = random.Random(seed)
        self.server = harness.server_under_test()
        self.addCleanup(self.server.close)
        self.server.start()
        self.prepare()
        self.addCleanup(self.stop.set)
        for thread in [*self.senders, self.reader]:
            thread.start()
        for _ in range(KILLS):
            self.wait_for_progress()
            time.sleep(self.random.uniform(0, 0.5))
            self.server.kill()
            time.sleep(self.random.uniform(0, 0.1))
            self.server.start()
        self.wait_for_progress()
        self.stop.set()
        for sender in self.senders:
            sender.join(PROGRESS_TIMEOUT_S)
            self.assertFalse(sender.is_alive(), "%s hangs" % sender.name)
        for room in self.rooms:
            self.assertEqual(self.owner.send(room, "the end", "end").status, 200)
        self.assertTrue(self.reader.last_words.wait(PROGRESS_TIMEOUT_S), "the reader does not see the end")
        if self.reader.failure:
            raise self.reader.failure
        self.check_rooms()
        self.check_reader()
        self.check_old_tokens()
        self.assertEqual(self.server.faults(), [], "logged as an error")
        self.server.stop()

    def prepare(self):
        self.owner = harness.register(self.server.url, "owner")
        self.rooms = [self.owner.create_room(preset="public_chat") for _ in range(ROOMS)]
        follower = harness.register(self.server.url, "reader")
        clients = [harness.register(self.server.url, "sender") for _ in range(SENDERS)]
        for client in [follower, *clients]:
            for room in self.rooms:
                client.join(room)
        self.stop = threading.Event()
        self.senders = [
            Sender("sender %d" % number, client, self.rooms, self.random.random(), number % 3 != 0, self.stop)
            for number, client in enumerate(clients)]
        self.reader = Reader(follower, follower.sync()["next_batch"], self.rooms)

    def wait_for_progress(self):
        """Returns when enough was acknowledged since it was called."""
        def count():
            return sum(len(sender.acknowledged) for sender in self.senders)

        goal, deadline = count() + ACKNOWLEDGED_BETWEEN_KILLS, time.monotonic() + PROGRESS_TIMEOUT_S
        while count() < goal:
            refused = [text for sender in self.senders for text in sender.refused]
            self.assertEqual(refused, [], "sends were refused")
            self.assertLess(time.monotonic(), deadline, "no progress")
            time.sleep(0.005)

    def check_rooms(self):
        """Each acknowledged event is in its room exactly once, under the ID that was acknowledged."""
        self.messages = {}
        for room in self.rooms:
            events = self.owner.whole_timeline(room)
            ids = [event["event_id"] for event in events]
            self.assertEqual(len(ids), len(set(ids)), "an event is on two pages")
            self.messages[room] = [(event["event_id"], event["content"]["body"]) for event in events
                                   if event["type"] == "m.room.message"]
        stored = collections.defaultdict(list)
        for room, messages in self.messages.items():
            for event_id, body in messages:
                stored[body].append((room, event_id))
        acknowledged, given_up = {}, {}
        for sender in self.senders:
            self.assertEqual(sender.refused, [], "sends were refused")
            acknowledged.update(sender.acknowledged)
            given_up.update(sender.given_up)
        print("%d acknowledged, %d given up" % (len(acknowledged), len(given_up)), end=" ", flush=True)
        wrong = {body: (where, stored[body]) for body, where in acknowledged.items() if stored[body] != [where]}
        self.assertEqual(wrong, {}, "acknowledged, but not in the room once")
        doubled = {body: stored[body] for body in given_up if len(stored[body]) > 1}
        self.assertEqual(doubled, {}, "sent once, stored more than once")
        strange = set(stored) - set(acknowledged) - set(given_up) - {"the end"}
        self.assertEqual(strange, set(), "never sent")

    def check_reader(self):
        """The reader has seen each message of each room exactly once, in the room's order."""
        for room in self.rooms:
            self.assertEqual(self.reader.seen[room], self.messages[room])

    def check_old_tokens(self):
        """From any token of any time, a client arrives at the same end of the story."""
        for token in self.random.sample(self.reader.tokens, min(8, len(self.reader.tokens))):
            seen, since = {room: [] for room in self.rooms}, token
            for _ in range(MOST_PAGES):
                following = follow(self.reader.client, since, seen, 0)
                if following == since:
                    break
                since = following
            for room in self.rooms:
                rest = len(self.messages[room]) - len(seen[room])
                self.assertGreaterEqual(rest, 0, "more than the room holds")
                self.assertEqual(seen[room], self.messages[room][rest:], "from token %s" % token)


if __name__ == "__main__":
    unittest.main()
