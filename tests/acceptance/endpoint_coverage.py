"""Every endpoint is known to the server but for those named below, and none of them fails inside.

Uses the endpoint-coverage tool beside the project's folder (or the one that ENDPOINT_COVERAGE names); skipped without it.
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest

import certificates
import harness
import peers

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TOOL = os.environ.get("ENDPOINT_COVERAGE") or os.path.join(ROOT, "..", "shared", "tools", "endpoint-coverage")
TIMEOUT_S = 300

# What the server does not serve yet: search; OAuth 2.0 and single sign-on, which the specification makes optional;
# and what needs e-mail or telephone.
NOT_SERVED = {"search"}
NOT_SERVED_PATHS = ("/account/3pid/", "/email/requestToken", "/msisdn/requestToken", "/login/sso/")
# Optional by the specification, but served here.
SERVED_OPTIONS = {
    "/.well-known/matrix/client", "/.well-known/matrix/server", "/_matrix/client/v1/login/get_token",
}


def expected(result):
    """Whether the server must know the endpoint of this probe."""
    if result["api"] != "client-server" or result["deprecated"] == "yes" or result["area"] in NOT_SERVED:
        return False
    path = result["path"]
    if any(part in path for part in NOT_SERVED_PATHS):
        return False
    return result["optional"] == "no" or path in SERVED_OPTIONS


def expected_of_servers(result):
    """The same for what other servers ask."""
    if result["api"] != "server-server" or result["deprecated"] == "yes":
        return False
    return result["optional"] == "no" or result["path"] in SERVED_OPTIONS


@unittest.skipUnless(os.access(TOOL, os.R_OK), "no endpoint-coverage tool at %s" % os.path.normpath(TOOL))
class EndpointCoverage(unittest.TestCase):
    def test_endpoints_are_recognised_and_do_not_fail(self):
        server = harness.server_under_test()
        self.addCleanup(server.close)
        server.start()
        self.probe(server, expected, 135, "--only", "client")

    @unittest.skipUnless(os.environ.get("HEARTH_BINARY"), "needs a server with a certificate for other servers")
    def test_federation_endpoints_are_recognised_and_do_not_fail(self):
        with tempfile.TemporaryDirectory() as folder:
            server = peers.Hearth(os.environ["HEARTH_BINARY"], certificates.Authority(folder))
            self.addCleanup(server.close)
            server.start()
            self.probe(server, expected_of_servers, 34, "--only", "federation", "--insecure",
                       "--federation-url", "https://127.0.0.1:%d" % server.tls_port, "--server-name", server.name)

    def probe(self, server, expected_of, least, *arguments):
        """Runs the tool and judges its list; ends the server, which must not have complained."""
        with tempfile.TemporaryDirectory() as folder:
            output = os.path.join(folder, "coverage.json")
            run = subprocess.run(
                [sys.executable, TOOL, "--url", server.url, "--json", output, *arguments],
                capture_output=True, text=True, timeout=TIMEOUT_S)
            self.assertIn(run.returncode, (0, 1), "the tool could not be used:\n%s%s" % (run.stdout, run.stderr))
            with open(output, encoding="utf-8") as file:
                results = json.load(file)["results"]
        wanted = [result for result in results if expected_of(result)]
        self.assertGreater(len(wanted), least, "the list of endpoints is shorter than it should be")
        missing = ["%s %s: %s (%s %s)" % (r["method"], r["path"], r["verdict"], r["status"], r["errcode"])
                   for r in wanted if r["verdict"] != "recognised"]
        failed = ["%s %s: %s" % (r["method"], r["path"], r["status"]) for r in results if r["verdict"] == "server error"]
        print("%d of %d endpoints recognised" % (len(wanted) - len(missing), len(wanted)), end=" ", flush=True)
        self.assertEqual((missing, failed), ([], []))
        self.assertEqual(server.faults(), [], "logged as an error")
        server.stop()


if __name__ == "__main__":
    unittest.main()
