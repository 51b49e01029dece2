"""Encrypted conversations across two servers: keys, changed devices and messages to devices go from one to the other."""

import tempfile
import unittest

import devices
import harness
import peers
from devices import good

ROOM_VERSION = "11"

_pair = None


def setUpModule():
    global _pair
    _pair = peers.Pair()


def tearDownModule():
    if _pair is not None:
        _pair.close()


class FederatedEncryption(unittest.IsolatedAsyncioTestCase):
    """Alice on one server and Bob on the other, registered anew for each test; each scenario with the room on each side."""

    async def meet(self, host):
        folder = tempfile.TemporaryDirectory(prefix="hearth-encryption-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.hosting, self.visiting = _pair.servers[host], _pair.servers[1 - host]
        alice = harness.register(self.hosting.url, "alice")
        self.bobs_account = harness.register(self.visiting.url, "bob")
        self.alice = await devices.log_in(self, self.hosting, alice.user_id, self.folder)
        self.bob = await self.device_of_bob()
        self.room = await devices.encrypted_room(self.alice, self.bob, room_version=ROOM_VERSION)

    async def device_of_bob(self):
        return await devices.log_in(self, self.visiting, self.bobs_account.user_id, self.folder)

    async def scenario_talk(self):
        """What each says is read by the other, and held as ciphertext by both servers."""
        said = await self.alice.say(self.room, "the first secret")
        await self.bob.reads("the first secret")
        await self.bob.say(self.room, "the answer")
        await self.alice.reads("the answer")
        held = self.bobs_account.ok(
            "GET", "/_matrix/client/v3/rooms/%s/event/%s" % (harness.q(self.room), harness.q(said)))
        self.assertEqual(held["type"], "m.room.encrypted")
        self.assertNotIn("secret", str(held))

    async def scenario_devices_come_and_go(self):
        """A new device reads what is said from then on; one that logged out is no longer written to."""
        await self.alice.say(self.room, "before")
        await self.bob.reads("before")
        second = await self.device_of_bob()
        both = [self.bob.client.device_id, second.client.device_id]
        await self.alice.knows(self.bob.client.user_id, both)
        await self.alice.say(self.room, "for both")
        await second.reads("for both")
        await self.bob.reads("for both")
        good(await second.client.logout())
        await self.alice.knows(self.bob.client.user_id, both[:1])
        await self.alice.say(self.room, "for one")
        await self.bob.reads("for one")

    async def scenario_said_during_a_cut(self):
        """Keys and messages that are sent while the servers do not reach each other arrive afterwards."""
        await self.alice.say(self.room, "before the cut")
        await self.bob.reads("before the cut")
        _pair.cut()
        try:
            self.alice.client.invalidate_outbound_session(self.room)
            await self.alice.say(self.room, "during the cut")
        finally:
            _pair.heal()
        await self.bob.reads("during the cut")
        await self.bob.say(self.room, "read")
        await self.alice.reads("read")


def _test(scenario, host):
    async def test(self):
        await self.meet(host)
        await scenario(self)
    test.__doc__ = scenario.__doc__
    return test


for _name, _scenario in list(vars(FederatedEncryption).items()):
    if _name.startswith("scenario_"):
        for _host, _label in enumerate(peers.labels()):
            _method = "test_%s_hosted_by_%s" % (_name.removeprefix("scenario_"), _label)
            setattr(FederatedEncryption, _method, _test(_scenario, _host))


if __name__ == "__main__":
    unittest.main()
