"""The WebSocket transport from outside (docs/websocket.md): updates, acknowledgements, sending, and moving between transports."""

import asyncio
import json
import os
import random
import secrets
import time
import unittest

import aiohttp

import harness
from harness import q

PATH = "/_matrix/client/unstable/org.hearth.websocket/sync"
V3 = "/_matrix/client/v3"
WAIT_S = 20
POLL_MS = 2_000

_server = None


def setUpModule():
    global _server
    if os.environ.get("HEARTH_URL"):
        raise unittest.SkipTest("the transport is Hearth's own")
    _server = harness.server_of_module()


def bodies(update, room):
    """The texts of the room's messages in a sync response."""
    joined = update.get("rooms", {}).get("join", {}).get(room, {})
    assert not joined.get("timeline", {}).get("limited"), "the test sends too much at once: %s" % update
    return [event["content"]["body"] for event in joined.get("timeline", {}).get("events", [])
            if event["type"] == "m.room.message"]


class Sockets(unittest.IsolatedAsyncioTestCase):
    """Alice and Bob in a room; Bob has synced up to `token`."""

    async def asyncSetUp(self):
        self.server = _server
        await self.people()

    async def people(self):
        self.alice = await asyncio.to_thread(harness.register, self.server.url, "alice")
        self.bob = await asyncio.to_thread(harness.register, self.server.url, "bob")
        self.room = await asyncio.to_thread(self.alice.create_room, preset="public_chat")
        await asyncio.to_thread(self.bob.join, self.room)
        self.token = (await asyncio.to_thread(self.bob.sync))["next_batch"]
        self.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_S))
        self.addAsyncCleanup(self.session.close)

    async def open(self, since=None, who=None, **query):
        """A socket of Bob's, or of `who`."""
        if since is not None:
            query["since"] = since
        headers = {"Authorization": "Bearer " + (who or self.bob).token}
        socket = await self.session.ws_connect(self.server.url + PATH, params=query, headers=headers,
                                               protocols=["m.json"], autoping=False, autoclose=False)
        self.addAsyncCleanup(socket.close)
        self.assertEqual(socket.protocol, "m.json")
        return socket

    @staticmethod
    async def frame(socket, timeout=WAIT_S):
        """The next frame that is neither ping nor pong. Pings stay unanswered: no test lasts long enough to need it."""
        while True:
            frame = await socket.receive(timeout=timeout)
            if frame.type not in (aiohttp.WSMsgType.PING, aiohttp.WSMsgType.PONG):
                return frame

    async def message(self, socket, timeout=WAIT_S):
        frame = await self.frame(socket, timeout)
        self.assertEqual(frame.type, aiohttp.WSMsgType.TEXT, frame)
        return json.loads(frame.data)

    async def update(self, socket):
        """The next update; answers to requests that come before it are passed over."""
        while True:
            message = await self.message(socket)
            if "next_batch" in message:
                return message

    async def request(self, socket, method, params, request_id="1"):
        """The answer to a request; updates that come before it are passed over, unacknowledged."""
        await socket.send_json({"id": request_id, "method": method, "params": params})
        while True:
            message = await self.message(socket)
            if message.get("id") == request_id:
                return message

    async def until(self, socket, holds, what):
        """Takes in and acknowledges updates until one holds."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            update = await self.update(socket)
            await socket.send_json({"ack": update["next_batch"]})
            if holds(update):
                return update
        self.fail("no update with " + what)

    async def say(self, body, who=None):
        answer = await asyncio.to_thread((who or self.alice).send, self.room, body, harness.fresh_name("t"))
        self.assertEqual(answer.status, 200, str(answer))
        return answer.json["event_id"]

    async def closed(self, socket):
        """The code with which the server closes the socket."""
        while True:
            frame = await self.frame(socket)
            if frame.type == aiohttp.WSMsgType.CLOSE:
                return frame.data
            self.assertEqual(frame.type, aiohttp.WSMsgType.TEXT, "gone without a closing frame")


class Updates(Sockets):
    async def test_it_is_announced(self):
        versions = self.bob.ok("GET", "/_matrix/client/versions")
        self.assertIs(versions["unstable_features"].get("org.hearth.websocket"), True)

    async def test_a_message_is_pushed(self):
        socket = await self.open(self.token)
        await self.say("over the wire")
        await self.until(socket, lambda update: bodies(update, self.room) == ["over the wire"], "the message")

    async def test_without_a_token_it_begins_with_everything(self):
        await self.say("before")
        update = await self.update(await self.open())
        self.assertIn("before", bodies(update, self.room))
        self.assertIn("m.push_rules", [event["type"] for event in update["account_data"]["events"]])

    async def test_what_was_not_taken_in_comes_again(self):
        await self.say("once more")
        socket = await self.open(self.token)
        first = await self.update(socket)
        self.assertEqual(bodies(first, self.room), ["once more"])
        await socket.close()
        again = await self.update(await self.open(self.token))
        self.assertEqual(bodies(again, self.room), ["once more"])
        by_poll = await asyncio.to_thread(self.bob.sync, self.token)
        self.assertEqual(bodies(by_poll, self.room), ["once more"])
        later = await asyncio.to_thread(self.bob.sync, first["next_batch"])
        self.assertEqual(bodies(later, self.room), [])

    async def test_a_client_moves_between_the_transports_without_gap_or_duplicate(self):
        seed = int(os.environ.get("HEARTH_SEED") or secrets.randbelow(2**32))
        print("seed %d" % seed, end=" ", flush=True)
        choose = random.Random(seed)
        sent = ["step %d" % number for number in range(150)]

        async def talk():
            for body in sent:
                await self.say(body)

        talking = asyncio.create_task(talk())
        seen, since, deadline = [], self.token, time.monotonic() + 3 * WAIT_S
        moves = {"poll": 0, "socket": 0}
        while len(seen) < len(sent):
            self.assertLess(time.monotonic(), deadline, "saw %d of %d" % (len(seen), len(sent)))
            if choose.random() < 0.5:
                moves["poll"] += 1
                updates = [await asyncio.to_thread(self.bob.sync, since, POLL_MS)]
            else:
                moves["socket"] += 1
                socket = await self.open(since)
                updates = []
                for _ in range(choose.randint(1, 4)):
                    if len(seen) + sum(len(bodies(update, self.room)) for update in updates) >= len(sent):
                        break  # Nothing more will come.
                    updates.append(await self.update(socket))
                    # Whether it is acknowledged or not: taken in is taken in.
                    if choose.random() < 0.7:
                        await socket.send_json({"ack": updates[-1]["next_batch"]})
                await socket.close()
            for update in updates:
                seen += bodies(update, self.room)
                since = update["next_batch"]
        await talking
        self.assertEqual(seen, sent)
        self.assertTrue(moves["poll"] and moves["socket"], moves)
        rest = await asyncio.to_thread(self.bob.sync, since)
        self.assertEqual(bodies(rest, self.room), [])

    async def test_a_client_that_does_not_acknowledge_is_not_flooded(self):
        socket = await self.open(self.token)
        await self.say("first")
        taken = [await self.update(socket)]
        for number in range(12):
            await self.say("more %d" % number)
        while True:
            try:
                taken.append(await self.message(socket, timeout=1))
            except asyncio.TimeoutError:
                break
        self.assertLessEqual(len(taken), 4)
        seen = [body for update in taken for body in bodies(update, self.room)]
        socket = await self.open(taken[-1]["next_batch"])
        while len(seen) < 13:
            update = await self.update(socket)
            await socket.send_json({"ack": update["next_batch"]})
            seen += bodies(update, self.room)
        self.assertEqual(seen, ["first"] + ["more %d" % number for number in range(12)])


class Requests(Sockets):
    async def test_sending(self):
        socket = await self.open(self.token)
        params = {"room_id": self.room, "event_type": "m.room.message", "txn_id": "w1",
                  "content": {"msgtype": "m.text", "body": "from the socket"}}
        first = await self.request(socket, "send", params, "a")
        again = await self.request(socket, "send", params, "b")
        self.assertEqual(first["result"]["event_id"], again["result"]["event_id"])
        over_http = await asyncio.to_thread(self.bob.send, self.room, "from the socket", "w1")
        self.assertEqual(over_http.json["event_id"], first["result"]["event_id"])
        event = self.alice.ok("GET", "%s/rooms/%s/event/%s" % (V3, q(self.room), q(first["result"]["event_id"])))
        self.assertEqual((event["sender"], event["content"]["body"]), (self.bob.user_id, "from the socket"))

    async def test_state_receipts_and_typing(self):
        heard = await self.open((await asyncio.to_thread(self.alice.sync))["next_batch"], self.alice)
        socket = await self.open(self.token)
        event_id = await self.say("read me")
        receipt = {"room_id": self.room, "event_id": event_id, "receipt_type": "m.read"}
        self.assertEqual((await self.request(socket, "receipt", receipt)).get("result"), {})
        typing = {"room_id": self.room, "typing": True, "timeout": 30_000}
        self.assertEqual((await self.request(socket, "typing", typing)).get("result"), {})
        found = {}

        def holds(update):
            for event in update.get("rooms", {}).get("join", {}).get(self.room, {}).get("ephemeral", {}).get("events", []):
                found[event["type"]] = event["content"]
            return {"m.receipt", "m.typing"} <= set(found)

        await self.until(heard, holds, "receipt and typing")
        self.assertIn(self.bob.user_id, found["m.receipt"][event_id]["m.read"])
        self.assertEqual(found["m.typing"]["user_ids"], [self.bob.user_id])
        state = {"room_id": self.room, "event_type": "org.example.game", "state_key": "x", "content": {"move": "e4"}}
        refused = await self.request(socket, "state", state)
        self.assertEqual(refused["error"]["errcode"], "M_FORBIDDEN")
        granted = await self.request(heard, "state", state)
        self.assertIn("event_id", granted["result"])

    async def test_what_is_wrong_with_a_request(self):
        socket = await self.open(self.token)
        self.assertEqual((await self.request(socket, "ping", {}))["result"], {})
        for method, params in (("no such method", {}), ("send", {}), ("send", {"room_id": 7}), ("send", [])):
            answer = await self.request(socket, method, params)
            self.assertTrue(answer["error"]["errcode"].startswith("M_"), (method, params, answer))
        elsewhere = {"room_id": "!nothing:localhost", "event_type": "m.room.message", "content": {}}
        self.assertIn((await self.request(socket, "send", elsewhere))["error"]["errcode"], ("M_FORBIDDEN", "M_NOT_FOUND"))
        number = {"room_id": self.room, "event_type": "org.example", "content": {"n": 1.5}}
        self.assertEqual((await self.request(socket, "send", number))["error"]["errcode"], "M_BAD_JSON")
        self.assertEqual((await self.request(socket, "ping", {}))["result"], {}, "the socket goes on")


class OpeningAndClosing(Sockets):
    async def test_handshakes_that_are_refused(self):
        stranger = harness.Client(self.server.url, "made-up", "@nobody:localhost")
        for who, query, protocols, status in ((stranger, {}, ["m.json"], 401), (self.bob, {"since": "garbage"}, ["m.json"], 400),
                                              (self.bob, {}, [], 400), (self.bob, {}, ["other"], 400)):
            headers = {"Authorization": "Bearer " + who.token}
            with self.assertRaises(aiohttp.WSServerHandshakeError) as raised:
                await self.session.ws_connect(self.server.url + PATH, params=query, headers=headers, protocols=protocols)
            self.assertEqual(raised.exception.status, status, (query, protocols))

    async def test_frames_that_close_the_socket(self):
        socket = await self.open(self.token)
        await socket.send_bytes(b"{}")
        self.assertEqual(await self.closed(socket), 1003)
        for text in ("[]", "{", "7"):
            socket = await self.open(self.token)
            await socket.send_str(text)
            self.assertEqual(await self.closed(socket), 1007, text)
        socket = await self.open(self.token)
        await socket.send_str('{"id":"1","method":"ping","params":{"x":"%s"}}' % ("x" * 200_000))
        self.assertEqual(await self.closed(socket), 1009)

    async def test_logging_out_closes_the_socket(self):
        socket = await self.open(self.token)
        await asyncio.to_thread(self.bob.ok, "POST", V3 + "/logout", {})
        self.assertEqual(await self.closed(socket), 1008)


class Shutdown(Sockets):
    """With a server of its own, since it ends."""

    async def asyncSetUp(self):
        self.server = harness.server_under_test()
        self.addCleanup(self.server.close)
        await asyncio.to_thread(self.server.start)
        await self.people()

    async def test_waiting_clients_are_told_when_the_server_ends(self):
        socket = await self.open(self.token)
        waiting = asyncio.create_task(asyncio.to_thread(self.alice.sync, None, 0))
        since = (await waiting)["next_batch"]
        polling = asyncio.create_task(asyncio.to_thread(self.alice.sync, since, 60_000))
        await asyncio.sleep(0)
        stopping = asyncio.create_task(asyncio.to_thread(self.server.stop))
        self.assertEqual(await self.closed(socket), 1001)
        try:
            self.assertIn("next_batch", await polling)
        except OSError:
            pass  # The poll came after the listener had closed.
        await stopping


if __name__ == "__main__":
    unittest.main()
