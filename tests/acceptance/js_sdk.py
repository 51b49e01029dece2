"""Clients of the published matrix-js-sdk, which Element Web and many others stand on: the scenarios of tests/js.

HEARTH_BINARY must be set, as the server is killed in some; NODE names the Node to run them with. scripts/acceptance installs it
and the packages of tests/js.
"""

import os
import subprocess
import threading
import unittest

import harness

SOURCES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "js", "src")
SCENARIOS = [
    "rooms-at-first", "rooms-afterwards", "scroll-back", "gap", "permalink",
    "badge-of-a-room", "badge-of-a-thread", "badge-by-rules",
    "pictures", "guarded-media", "avatar", "large-file",
    "thread", "list-of-threads", "edits-and-reactions",
    "encrypted-talk", "encrypted-badge", "recovery", "late-key",
    "reconnect", "encrypted-reconnect",
]
# Every wait inside a scenario ends by itself before.
SCENARIO_TIMEOUT_S = 300


def run(scenario, server, script="main.js"):
    """Runs a scenario, and kills and starts the server whenever it asks for that; its complaints are the failure's."""
    process = subprocess.Popen(
        [os.environ.get("NODE", "node"), os.path.join(SOURCES, script), scenario, server.url],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    alarm = threading.Timer(SCENARIO_TIMEOUT_S, process.kill)
    alarm.start()
    complaints = []
    try:
        for line in process.stdout:
            if line != "restart\n":
                complaints.append(line)
                continue
            server.kill()
            server.start()
            process.stdin.write("\n")
            process.stdin.flush()
        status = process.wait()
    finally:
        alarm.cancel()
        process.kill()
        process.stdin.close()
        process.stdout.close()
    assert status == 0, "%s ended with %d:\n%s" % (scenario, status, "".join(complaints))


class JsSdk(unittest.TestCase):
    """Alice, Bob and their devices on one server, which must have nothing to complain of."""

    @classmethod
    def setUpClass(cls):
        cls.server = harness.server_under_test()
        cls.server.start()
        cls.addClassCleanup(harness.finish, cls.server)


def _test(scenario):
    return lambda self: run(scenario, self.server)


for _name in SCENARIOS:
    setattr(JsSdk, "test_" + _name.replace("-", "_"), _test(_name))


if __name__ == "__main__":
    unittest.main()
