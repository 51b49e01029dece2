"""Clients of the published matrix-sdk: the scenarios of tests/sdk. Those of encryption run on one server and across two, those
with matrix-sdk-ui, which Element X is made of, on one.

SDK_TESTS_BINARY names the built crate; scripts/acceptance builds it and sets it.
"""

import os
import unittest

import harness
import peers
import scenarios

SCENARIOS = ["cross-signing", "verify-devices", "verify-users", "secret-storage", "backup", "talk", "late-key"]
# Needs content of other servers, which Hearth does not fetch yet, if the two are on different servers.
LOCAL_SCENARIOS = ["attachment"]
# Rooms and keys come by sliding sync, which the server must offer.
PHONE_SCENARIOS = [
    "room-list", "room-list-afterwards", "timeline", "timeline-media", "badges", "threads", "sliding-talk", "reconnect",
]


def run(scenario, alices, bobs):
    """Runs a scenario with Alice on one server and Bob on the other; its complaints are the failure's."""
    binary = os.environ.get("SDK_TESTS_BINARY")
    if not binary:
        raise harness.ServerFailed("set SDK_TESTS_BINARY, or use scripts/acceptance")
    scenarios.run(scenario, [binary, scenario, "--first", alices.url, "--second", bobs.url], alices)


class OneServer(unittest.TestCase):
    """Alice and Bob on the same server, which must have nothing to complain of."""

    @classmethod
    def setUpClass(cls):
        cls.server = harness.server_under_test()
        cls.server.start()

    @classmethod
    def tearDownClass(cls):
        faults = cls.server.faults()
        try:
            cls.server.stop()
        finally:
            cls.server.close()
        assert not faults, "logged as an error:\n" + "\n".join(faults)

    def scenario(self, name):
        run(name, self.server, self.server)


class TwoServers:
    """Alice on one server and Bob on the other."""

    sides = None

    @classmethod
    def setUpClass(cls):
        cls.pair = peers.Pair(cls.sides)

    @classmethod
    def tearDownClass(cls):
        faults = [fault for server in cls.pair.servers for fault in server.faults()]
        cls.pair.close()
        assert not faults, "logged as an error:\n" + "\n".join(faults)

    def scenario(self, name, alices=0):
        run(name, self.pair.servers[alices], self.pair.servers[1 - alices])

    def logs(self):
        return "\n".join("%s:\n%s" % (server.kind, server.log_tail()) for server in self.pair.servers)


class HearthAndHearth(TwoServers, unittest.TestCase):
    sides = ["hearth", "hearth"]


class Federation(TwoServers, unittest.TestCase):
    """A Hearth and a Synapse, unless the environment says otherwise."""


def _test(*arguments):
    return lambda self: self.scenario(*arguments)


def _method(scenario):
    return "test_" + scenario.replace("-", "_")


for _name in SCENARIOS + LOCAL_SCENARIOS + PHONE_SCENARIOS:
    setattr(OneServer, _method(_name), _test(_name))
for _name in SCENARIOS:
    setattr(HearthAndHearth, _method(_name), _test(_name))
    for _alices, _label in enumerate(peers.labels()):
        setattr(Federation, "%s_with_alice_on_%s" % (_method(_name), _label), _test(_name, _alices))


if __name__ == "__main__":
    unittest.main()
