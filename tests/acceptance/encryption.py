"""Encrypted conversations by matrix-nio with its encryption (vodozemac): what is sent is read by those it is for, on every
device that they have, and the server holds nothing but ciphertext. Over restarts and kills too."""

import tempfile
import time
import unittest

import nio

import harness

WAIT_S = 30
POLL_MS = 500

_server = None


def setUpModule():
    global _server
    _server = harness.server_under_test()
    _server.start()


def tearDownModule():
    faults = _server.faults()
    try:
        _server.stop()
    finally:
        _server.close()
    assert not faults, "logged as an error:\n" + "\n".join(faults)


def good(response):
    """The response, which must not be one of the SDK's error responses."""
    assert not isinstance(response, nio.ErrorResponse), "%s: %s" % (type(response).__name__, response)
    return response


class Device:
    """One device of a user, with the texts that it could read and the events that it could not."""

    def __init__(self, client):
        self.client = client
        self.read = []
        self.unread = []
        client.add_event_callback(self._text, nio.RoomMessageText)
        client.add_event_callback(self._unreadable, nio.MegolmEvent)

    async def _text(self, _room, event):
        if event.decrypted:
            self.read.append(event.body)

    async def _unreadable(self, _room, event):
        self.unread.append(event.event_id)

    async def step(self, timeout_ms=POLL_MS):
        """One sync, and what a client does after it."""
        client = self.client
        good(await client.sync(timeout=timeout_ms))
        for response in await client.send_to_device_messages():
            good(response)
        if client.should_upload_keys:
            good(await client.keys_upload())
        if client.should_query_keys:
            good(await client.keys_query())
        if client.should_claim_keys:
            good(await client.keys_claim(client.get_users_for_key_claiming()))

    async def until(self, check, what):
        deadline = time.monotonic() + WAIT_S
        while not check():
            assert time.monotonic() < deadline, "%s: not within %d s: %s" % (self.client.user_id, WAIT_S, what)
            await self.step()

    async def say(self, room, text):
        content = {"msgtype": "m.text", "body": text}
        sent = good(await self.client.room_send(room, "m.room.message", content, ignore_unverified_devices=True))
        return sent.event_id

    async def reads(self, text):
        await self.until(lambda: text in self.read, "reads %r; could not read %s" % (text, self.unread))

    async def knows(self, user_id, device_ids):
        """Waits until the user's devices are these, as far as this device knows."""
        def known():
            devices = self.client.device_store[user_id]
            return sorted(device.id for device in devices.values() if not device.deleted) == sorted(device_ids)
        await self.until(known, "the devices of %s are %s" % (user_id, device_ids))


class Encryption(unittest.IsolatedAsyncioTestCase):
    """Alice and Bob, registered anew for each test, in a room that is encrypted."""

    async def asyncSetUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="hearth-encryption-")
        self.addCleanup(self.folder.cleanup)
        self.accounts = {name: harness.register(_server.url, name) for name in ("alice", "bob")}
        self.alice = await self.device("alice")
        self.bob = await self.device("bob")
        self.room = await self.encrypted_room()

    async def device(self, who):
        """A new device of this user, with its keys uploaded."""
        user_id = self.accounts[who].user_id
        name = user_id[1:].split(":")[0]
        store = tempfile.mkdtemp(dir=self.folder.name)
        config = nio.AsyncClientConfig(encryption_enabled=True, store_sync_tokens=False)
        client = nio.AsyncClient(_server.url, user_id, store_path=store, config=config)
        self.addAsyncCleanup(client.close)
        good(await client.login("correct horse " + name))
        device = Device(client)
        await device.step()
        self.assertFalse(client.should_upload_keys, "the first sync uploads the keys")
        return device

    async def encrypted_room(self):
        encryption = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
        created = good(await self.alice.client.room_create(
            invite=[self.bob.client.user_id], initial_state=[encryption]))
        await self.bob.until(lambda: created.room_id in self.bob.client.invited_rooms, "is invited")
        good(await self.bob.client.join(created.room_id))
        for device in (self.alice, self.bob):
            rooms = device.client.rooms
            await device.until(
                lambda rooms=rooms: created.room_id in rooms and len(rooms[created.room_id].users) == 2
                and rooms[created.room_id].encrypted, "sees both in the encrypted room")
        return created.room_id

    async def test_what_is_said_is_read_and_the_server_holds_ciphertext(self):
        said = await self.alice.say(self.room, "the first secret")
        await self.bob.reads("the first secret")
        await self.bob.say(self.room, "the answer")
        await self.alice.reads("the answer")
        held = self.accounts["bob"].ok("GET", "/_matrix/client/v3/rooms/%s/event/%s" % (harness.q(self.room), harness.q(said)))
        self.assertEqual(held["type"], "m.room.encrypted")
        self.assertNotIn("secret", str(held))
        self.assertEqual(self.alice.unread + self.bob.unread, [])

    async def test_a_new_device_reads_what_is_said_from_then_on(self):
        await self.alice.say(self.room, "before")
        await self.bob.reads("before")
        second = await self.device("bob")
        await self.alice.knows(self.bob.client.user_id, [self.bob.client.device_id, second.client.device_id])
        await self.alice.say(self.room, "after")
        await second.reads("after")
        await self.bob.reads("after")
        self.assertNotIn("before", second.read)

    async def test_a_device_that_logs_out_is_not_written_to_any_more(self):
        second = await self.device("bob")
        devices = [self.bob.client.device_id, second.client.device_id]
        await self.alice.knows(self.bob.client.user_id, devices)
        await self.alice.say(self.room, "for both")
        await second.reads("for both")
        good(await second.client.logout())
        await self.alice.knows(self.bob.client.user_id, devices[:1])
        await self.alice.say(self.room, "for one")
        await self.bob.reads("for one")

    async def test_a_key_that_was_sent_before_a_crash_arrives_after_it(self):
        if _server.process is None:
            self.skipTest("the server runs elsewhere")
        await self.alice.say(self.room, "sent before the crash")
        _server.kill()
        _server.start()
        await self.bob.reads("sent before the crash")
        await self.bob.say(self.room, "and answered")
        await self.alice.reads("and answered")

    async def test_many_messages_in_rotated_sessions_are_all_read_in_order(self):
        texts = []
        for session in range(3):
            for number in range(5):
                texts.append("session %d, message %d" % (session, number))
                await self.alice.say(self.room, texts[-1])
            await self.bob.reads(texts[-1])
            self.alice.client.invalidate_outbound_session(self.room)
        self.assertEqual([text for text in self.bob.read if text.startswith("session")], texts)
        self.assertEqual(self.bob.unread, [])


if __name__ == "__main__":
    unittest.main()
