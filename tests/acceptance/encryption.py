"""Encrypted conversations: what is said is read by those it is for, on every device that they have, and the server holds
nothing but ciphertext. Over restarts and kills too."""

import tempfile
import unittest

import devices
import harness
from devices import good

_server = None


def setUpModule():
    global _server
    _server = harness.server_of_module()


class Encryption(unittest.IsolatedAsyncioTestCase):
    """Alice and Bob, registered anew for each test, in a room that is encrypted."""

    async def asyncSetUp(self):
        folder = tempfile.TemporaryDirectory(prefix="hearth-encryption-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.accounts = {name: harness.register(_server.url, name) for name in ("alice", "bob")}
        self.alice = await self.device("alice")
        self.bob = await self.device("bob")
        self.room = await devices.encrypted_room(self.alice, self.bob)

    async def device(self, who):
        return await devices.log_in(self, _server, self.accounts[who].user_id, self.folder)

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
        both = [self.bob.client.device_id, second.client.device_id]
        await self.alice.knows(self.bob.client.user_id, both)
        await self.alice.say(self.room, "for both")
        await second.reads("for both")
        good(await second.client.logout())
        await self.alice.knows(self.bob.client.user_id, both[:1])
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

    async def test_an_encrypted_file_arrives_whole_after_a_crash_too(self):
        data = b"\x89PNG\r\n\x1a\n" + bytes(number % 251 for number in range(3_000_000))
        uri = await self.alice.send_file(self.room, "hearth.png", data)
        self.assertTrue(uri.startswith("mxc://"), uri)
        served, decrypted = await self.bob.receives_file("hearth.png")
        self.assertEqual(decrypted, data)
        self.assertEqual(served.content_type, "application/octet-stream")
        self.assertEqual(len(served.body), len(data))
        self.assertNotIn(data[1000:1100], served.body)
        if _server.process is not None:
            _server.kill()
            _server.start()
            served, decrypted = await self.bob.receives_file("hearth.png")
            self.assertEqual(decrypted, data)

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
