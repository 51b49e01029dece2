"""Runs the acceptance tests; scripts/acceptance calls this with HEARTH_BINARY set.

usage: run.py [module ...]      without modules: all of them
"""

import os
import sys
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
MODULES = ["chat", "websocket", "bad_input", "endpoint_coverage", "kill_under_load", "encryption",
           "federation", "federation_outages", "federation_encryption", "media_bucket", "sdk", "js_sdk"]


class TimedResult(unittest.TextTestResult):
    """Says of every test how long it took, and of a failed one what the servers have logged, if the test knows."""

    def startTest(self, test):
        self._started = time.monotonic()
        super().startTest(test)

    def addSuccess(self, test):
        self.stream.write("%.1f s " % (time.monotonic() - self._started))
        super().addSuccess(test)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._show_logs(test)

    def addError(self, test, err):
        super().addError(test, err)
        self._show_logs(test)

    def _show_logs(self, test):
        if hasattr(test, "logs"):
            self.stream.writeln(test.logs())


def main():
    sys.path.insert(0, HERE)
    wanted = sys.argv[1:] or MODULES
    unknown = [name for name in wanted if name.split(".")[0] not in MODULES]
    if unknown:
        print("no such test module: %s; there are %s" % (", ".join(unknown), ", ".join(MODULES)), file=sys.stderr)
        return 2
    suite = unittest.defaultTestLoader.loadTestsFromNames(wanted)
    result = unittest.TextTestRunner(verbosity=2, resultclass=TimedResult).run(suite)
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
