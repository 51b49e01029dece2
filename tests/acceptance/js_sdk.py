"""Clients in JavaScript that are published on npm: matrix-js-sdk, which Element Web and many others stand on, and Hydrogen, a
whole web client, in Debian's Chromium. They are the scenarios of tests/js.

HEARTH_BINARY must be set, as the server is killed in some; NODE names the Node to run them with, CHROMIUM the browser.
scripts/acceptance installs Node and the packages of tests/js. With SCREENSHOTS naming a folder, pictures of what was on the
screens are kept there when a scenario with a browser fails.
"""

import os
import unittest

import harness
import scenarios

MAIN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "js", "src", "main.js")
SDK_SCENARIOS = [
    "rooms-at-first", "rooms-afterwards", "scroll-back", "gap", "permalink",
    "badge-of-a-room", "badge-of-a-thread", "badge-by-rules",
    "pictures", "guarded-media", "avatar", "large-file",
    "thread", "list-of-threads", "edits-and-reactions",
    "encrypted-talk", "encrypted-badge", "recovery", "late-key",
    "reconnect", "encrypted-reconnect",
]
BROWSER_SCENARIOS = ["web-chat", "web-picture"]


class Scenarios:
    """Alice, Bob and their devices on one server, which must have nothing to complain of."""

    @classmethod
    def setUpClass(cls):
        cls.server = harness.server_under_test()
        cls.server.start()
        cls.addClassCleanup(harness.finish, cls.server)

    def scenario(self, name):
        scenarios.run(name, [os.environ.get("NODE", "node"), MAIN, name, self.server.url], self.server)


class JsSdk(Scenarios, unittest.TestCase):
    """matrix-js-sdk under Node."""


class Browser(Scenarios, unittest.TestCase):
    """Hydrogen in Chromium."""


def _test(scenario):
    return lambda self: self.scenario(scenario)


for _class, _names in [(JsSdk, SDK_SCENARIOS), (Browser, BROWSER_SCENARIOS)]:
    for _name in _names:
        setattr(_class, "test_" + _name.replace("-", "_"), _test(_name))


if __name__ == "__main__":
    unittest.main()
