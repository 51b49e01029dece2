"""Runs the acceptance tests; scripts/acceptance calls this with HEARTH_BINARY set.

usage: run.py [module ...]      without modules: all of them
"""

import os
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
MODULES = ["chat", "websocket", "bad_input", "endpoint_coverage", "kill_under_load"]


def main():
    sys.path.insert(0, HERE)
    wanted = sys.argv[1:] or MODULES
    unknown = [name for name in wanted if name.split(".")[0] not in MODULES]
    if unknown:
        print("no such test module: %s; there are %s" % (", ".join(unknown), ", ".join(MODULES)), file=sys.stderr)
        return 2
    suite = unittest.defaultTestLoader.loadTestsFromNames(wanted)
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
