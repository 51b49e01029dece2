"""Two homeservers that federate over TLS on loopback, with a wire before each that can be cut.

FEDERATION_SIDES says which: "hearth synapse" unless set; "synapse synapse" shows whether a scenario asks too much of
servers, "hearth hearth" is for comparison. With FEDERATION_LOGS naming a folder, the servers' logs are kept there.
"""

import base64
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import certificates
import harness
import wire

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
# Backoff after a failure, kept short so that a healed wire is noticed soon.
BACKOFF_S = 1

HEARTH_CONFIGURATION = """\
[server]
name = "{name}"
data_dir = "data"

[listen]
addresses = ["127.0.0.1:{port}"]
tls_addresses = ["127.0.0.1:{tls_port}"]
tls_certificate = "{certificate}"
tls_key = "{key}"

[client]
base_url = "http://127.0.0.1:{port}"

[federation]
ca_files = ["{authority}"]
allow_networks = ["127.0.0.0/8", "::1/128"]
well_known = "{name}"
backoff_min_s = {backoff_min_s}
backoff_max_s = {backoff_max_s}

[log]
level = "{log_level}"
format = "json"

[users]
open_registration = true

[users.argon2]
memory_kib = 8
iterations = 1

[http.rate_limits]
enabled = false
"""


class Hearth(harness.Server):
    """The server under test, federating."""

    kind = "hearth"

    def __init__(self, binary, authority):
        super().__init__(binary)
        self.wire, self.tls_port = wire.Wire(), harness.free_port()
        self.wire.target_port = self.tls_port
        self.name = "localhost:%d" % self.wire.port
        certificate, key = authority.issue(self.folder)
        self.write_configuration(HEARTH_CONFIGURATION.format(
            name=self.name, port=self.port, tls_port=self.tls_port, certificate=certificate, key=key,
            authority=authority.path, backoff_min_s=BACKOFF_S, backoff_max_s=BACKOFF_S,
            log_level=os.environ.get("FEDERATION_HEARTH_LOG", "info,hearth_federation=debug,hearth_rooms=debug")))

    def close(self):
        self.kill()
        self.wire.close()
        super().close()


class Synapse:
    """A Synapse of the package that is installed beside this Python, in a folder of its own."""

    kind = "synapse"

    def __init__(self, authority):
        self._folder = tempfile.TemporaryDirectory(prefix="synapse-acceptance-")
        self.folder = self._folder.name
        self.log_path = os.path.join(self.folder, "server.log")
        self.wire, self.tls_port, self.port = wire.Wire(), harness.free_port(), harness.free_port()
        self.wire.target_port = self.tls_port
        self.name = "localhost:%d" % self.wire.port
        self.url = "http://127.0.0.1:%d" % self.port
        self.process = None
        certificate, key = authority.issue(self.folder)
        self._write("signing.key", "ed25519 a_test %s\n" % base64.b64encode(secrets.token_bytes(32)).decode().rstrip("="))
        # YAML contains JSON.
        self._write("homeserver.yaml", json.dumps(self._configuration(authority, certificate, key)))
        self._write("logging.yaml", json.dumps(self._logging()))

    def _write(self, name, text):
        with open(os.path.join(self.folder, name), "w", encoding="utf-8") as file:
            file.write(text)

    def _configuration(self, authority, certificate, key):
        resources = {"client": ["client"], "federation": ["federation"]}
        often = {"per_second": 10_000, "burst_count": 10_000}
        limits = {name: often for name in (
            "rc_message", "rc_registration", "rc_admin_redaction", "rc_joins_per_room", "rc_3pid_validation",
            "rc_room_creation", "rc_reports")}
        limits.update({
            "rc_login": {"address": often, "account": often, "failed_attempts": often},
            "rc_joins": {"local": often, "remote": often},
            "rc_invites": {"per_room": often, "per_user": often, "per_issuer": often},
            "rc_presence": {"per_user": often},
            "rc_federation": {"window_size": 1000, "sleep_limit": 10_000, "sleep_delay": 1, "reject_limit": 10_000,
                              "concurrent": 100},
        })
        listener = {"type": "http", "bind_addresses": ["127.0.0.1"], "x_forwarded": False}
        return {
            "server_name": self.name,
            "public_baseurl": self.url + "/",
            "report_stats": False,
            "pid_file": os.path.join(self.folder, "homeserver.pid"),
            "listeners": [
                {**listener, "port": self.port, "tls": False, "resources": [{"names": resources["client"]}]},
                {**listener, "port": self.tls_port, "tls": True, "resources": [{"names": resources["federation"]}]},
            ],
            "tls_certificate_path": certificate,
            "tls_private_key_path": key,
            "federation_verify_certificates": True,
            "federation_custom_ca_list": [authority.path],
            "ip_range_blacklist": [],
            "federation": {name: "%ds" % BACKOFF_S for name in (
                "destination_min_retry_interval", "destination_max_retry_interval",
                # Within one request.
                "max_short_retry_delay", "max_long_retry_delay")},
            "trusted_key_servers": [],
            "suppress_key_server_warning": True,
            "signing_key_path": os.path.join(self.folder, "signing.key"),
            "macaroon_secret_key": secrets.token_hex(16),
            "form_secret": secrets.token_hex(16),
            "registration_shared_secret": secrets.token_hex(16),
            "enable_registration": True,
            "enable_registration_without_verification": True,
            "bcrypt_rounds": 4,
            "presence": {"enabled": True},
            "allow_public_rooms_over_federation": True,
            "room_list_publication_rules": [{"action": "allow"}],
            "media_store_path": os.path.join(self.folder, "media"),
            "database": {"name": "sqlite3", "args": {"database": os.path.join(self.folder, "homeserver.db")}},
            "log_config": os.path.join(self.folder, "logging.yaml"),
            **limits,
        }

    def _logging(self):
        return {
            "version": 1,
            "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(request)s %(message)s"}},
            "handlers": {"file": {"class": "logging.FileHandler", "filename": self.log_path, "formatter": "line"}},
            "root": {"level": os.environ.get("FEDERATION_SYNAPSE_LOG", "INFO"), "handlers": ["file"]},
        }

    def start(self):
        """Starts the server and returns when it answers."""
        with open(os.path.join(self.folder, "output.log"), "ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "synapse.app.homeserver", "-c", os.path.join(self.folder, "homeserver.yaml")],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            if self.process.poll() is not None:
                raise harness.ServerFailed("Synapse ended with %s while starting:\n%s"
                                           % (self.process.returncode, self.log_tail()))
            try:
                if harness.Client(self.url).request("GET", "/health").status == 200:
                    return
            except OSError:
                pass
            if time.monotonic() > deadline:
                self.kill()
                raise harness.ServerFailed("no answer within %d s:\n%s" % (START_TIMEOUT_S, self.log_tail()))
            time.sleep(0.05)

    def kill(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def stop(self):
        """Asks the server to end; it is no test's business how long it takes."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self.process = None

    def close(self):
        self.kill()
        self.wire.close()
        self._folder.cleanup()

    def log_tail(self):
        """The last lines of what it has logged and printed."""
        lines = []
        for name in ("output.log", "server.log"):
            path = os.path.join(self.folder, name)
            if os.path.exists(path):
                with open(path, encoding="utf-8", errors="replace") as log:
                    lines += log.read().splitlines()[-harness.LOG_TAIL_LINES:]
        return "\n".join(lines)

    def log_lines(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return log.read().splitlines()

    def faults(self, skip=0):
        """Another project's errors are not this test's business."""
        return []


def kinds():
    """What stands on each side, as the environment asks."""
    return os.environ.get("FEDERATION_SIDES", "hearth synapse").split()


def labels(sides=None):
    """A name for each side, for the names of tests."""
    first, second = sides or kinds()
    return [first, second] if first != second else [first + "1", second + "2"]


class Pair:
    """Two servers that know the same authority, started; of the kinds that the environment asks for unless `sides` says."""

    def __init__(self, sides=None):
        self._sides = sides or kinds()
        self._folder = tempfile.TemporaryDirectory(prefix="federation-acceptance-")
        authority = certificates.Authority(self._folder.name)
        self.servers = [self._server(kind, authority) for kind in self._sides]
        try:
            for server in self.servers:
                server.start()
        except Exception:
            self.close()
            raise

    @staticmethod
    def _server(kind, authority):
        if kind == "synapse":
            return Synapse(authority)
        binary = os.environ.get("HEARTH_BINARY")
        if kind != "hearth" or not binary:
            raise harness.ServerFailed("no such side: %s, or HEARTH_BINARY is not set" % kind)
        return Hearth(binary, authority)

    def cut(self):
        for server in self.servers:
            server.wire.cut()

    def heal(self):
        for server in self.servers:
            server.wire.heal()

    def close(self):
        """Ends both servers; their folders go, unless logs are to be kept."""
        for server, label in zip(self.servers, labels(self._sides)):
            keep = os.environ.get("FEDERATION_LOGS")
            if keep and os.path.exists(server.log_path):
                os.makedirs(keep, exist_ok=True)
                shutil.copy(server.log_path, os.path.join(keep, "%s-%s.log" % (label, server.name.split(":")[1])))
            server.close()
        self._folder.cleanup()
