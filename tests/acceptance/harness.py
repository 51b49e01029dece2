"""The server under test, and a plain HTTP client for what no SDK would send.

The environment says what is tested: HEARTH_BINARY names a binary to start, or HEARTH_URL a server that runs already
(any homeserver with open registration and without rate limits; its log is then not looked at).
"""

import http.client
import itertools
import json
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
import unittest
import urllib.parse

START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 20
ANSWER_TIMEOUT_S = 60
LOG_TAIL_LINES = 30

CONFIGURATION = """\
[server]
name = "localhost"
data_dir = "data"

[listen]
addresses = ["127.0.0.1:{port}"]

[client]
base_url = "http://127.0.0.1:{port}"

[log]
level = "info"
format = "json"

[users]
open_registration = true
login_token_enabled = true

[users.argon2]
memory_kib = 8
iterations = 1

[http.rate_limits]
enabled = false
"""


class ServerFailed(Exception):
    """The server did not start, or did not stop as it should."""


class Server:
    """One Hearth in a folder of its own, which outlives kills and restarts."""

    def __init__(self, binary):
        self.binary = os.path.abspath(binary)
        self._folder = tempfile.TemporaryDirectory(prefix="hearth-acceptance-")
        self.folder = self._folder.name
        self.log_path = os.path.join(self.folder, "server.log")
        self.port = free_port()
        self.url = "http://127.0.0.1:%d" % self.port
        self.process = None
        self.write_configuration(CONFIGURATION.format(port=self.port))

    def write_configuration(self, text):
        with open(os.path.join(self.folder, "hearth.toml"), "w", encoding="utf-8") as file:
            file.write(text)

    def start(self):
        """Starts the server and returns when it answers."""
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [self.binary, "--config", os.path.join(self.folder, "hearth.toml")],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            if self.process.poll() is not None:
                raise ServerFailed("the server ended with %s while starting:\n%s"
                                   % (self.process.returncode, self.log_tail()))
            try:
                if Client(self.url).request("GET", "/_matrix/client/versions").status == 200:
                    return
            except OSError:
                pass
            if time.monotonic() > deadline:
                self.kill()
                raise ServerFailed("no answer within %d s:\n%s" % (START_TIMEOUT_S, self.log_tail()))
            time.sleep(0.02)

    def kill(self):
        """Ends the server as a power cut would, as far as a process can see."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def stop(self):
        """Asks the server to end; it must do so by itself and without complaint."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerFailed("still running %d s after SIGTERM" % STOP_TIMEOUT_S)
        self.process = None
        if code != 0:
            raise ServerFailed("ended with %s after SIGTERM:\n%s" % (code, self.log_tail()))

    def close(self):
        """Ends the server and deletes its folder."""
        self.kill()
        self._folder.cleanup()

    def log_lines(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return log.read().splitlines()

    def log_tail(self):
        return "\n".join(self.log_lines()[-LOG_TAIL_LINES:])

    def faults(self, skip=0):
        """Log lines at level ERROR, and lines that are no log lines, such as a panic's, behind the first `skip` lines."""
        return [line for line in self.log_lines()[skip:] if line.strip() and level_of(line) in (None, "ERROR")]


class ForeignServer:
    """A server that somebody else has started."""

    def __init__(self, url):
        self.url = url.rstrip("/")

    def start(self):
        pass

    def stop(self):
        pass

    def close(self):
        pass

    def faults(self):
        return []


def level_of(line):
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record.get("level") if isinstance(record, dict) else None


def server_under_test():
    """The server that the environment asks for, not started yet."""
    if os.environ.get("HEARTH_URL"):
        return ForeignServer(os.environ["HEARTH_URL"])
    binary = os.environ.get("HEARTH_BINARY")
    if not binary:
        raise ServerFailed("set HEARTH_BINARY or HEARTH_URL, or use scripts/acceptance")
    return Server(binary)


def server_of_module():
    """Starts the server that the environment asks for, for all tests of a module: to be called by its setUpModule. When
    the tests have run it is stopped, and must not have logged an error."""
    server = server_under_test()
    server.start()
    unittest.addModuleCleanup(finish, server)
    return server


def finish(server):
    """Stops a server, which must not have logged an error."""
    faults = server.faults()
    try:
        server.stop()
    finally:
        server.close()
    assert not faults, "logged as an error:\n" + "\n".join(faults)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def q(text):
    """Percent-encodes a path segment."""
    return urllib.parse.quote(text, safe="")


_names = itertools.count(1)


def fresh_name(prefix):
    """A user name that no run against the same server has used."""
    return "%s-%s-%d" % (prefix, secrets.token_hex(4), next(_names))


class Answer:
    """Status, headers and body of a response."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body
        try:
            self.json = json.loads(body)
        except ValueError:
            self.json = None

    @property
    def errcode(self):
        return self.json.get("errcode") if isinstance(self.json, dict) else None

    def __str__(self):
        return "%d %s" % (self.status, self.body[:300].decode("utf-8", "replace"))


class Client:
    """Sends any bytes to any path; one connection for each request."""

    def __init__(self, url, token=None, user_id=None):
        parts = urllib.parse.urlsplit(url)
        self.url, self.host, self.port = url, parts.hostname, parts.port
        self.token, self.user_id = token, user_id

    def request(self, method, path, body=None, token=None, content_type="application/json"):
        """`body`: bytes are sent as they are, anything else as JSON."""
        headers = {}
        token = token or self.token
        if token:
            headers["Authorization"] = "Bearer " + token
        if body is not None:
            headers["Content-Type"] = content_type
            if not isinstance(body, bytes):
                body = json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.host, self.port, timeout=ANSWER_TIMEOUT_S)
        try:
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        except http.client.HTTPException as error:
            raise OSError("no HTTP answer: %r" % error) from error
        finally:
            connection.close()

    def ok(self, method, path, body=None):
        """The JSON of a request that must succeed."""
        answer = self.request(method, path, body)
        assert answer.status == 200, "%s %s: %s" % (method, path, answer)
        return answer.json

    def create_room(self, **options):
        return self.ok("POST", "/_matrix/client/v3/createRoom", options)["room_id"]

    def join(self, room_id):
        self.ok("POST", "/_matrix/client/v3/join/" + q(room_id), {})

    def send(self, room_id, body, transaction_id):
        path = "/_matrix/client/v3/rooms/%s/send/m.room.message/%s" % (q(room_id), q(transaction_id))
        return self.request("PUT", path, {"msgtype": "m.text", "body": body})

    def sync(self, since=None, timeout_ms=0, limit=None):
        query = {"timeout": str(timeout_ms)}
        if since is not None:
            query["since"] = since
        if limit is not None:
            query["filter"] = json.dumps({"room": {"timeline": {"limit": limit}}})
        return self.ok("GET", "/_matrix/client/v3/sync?" + urllib.parse.urlencode(query))

    def whole_timeline(self, room_id, page=100, most_pages=10_000):
        """Every event of the room that this user may see, oldest first."""
        events, start = [], None
        for _ in range(most_pages):
            query = {"dir": "f", "limit": str(page)}
            if start is not None:
                query["from"] = start
            path = "/_matrix/client/v3/rooms/%s/messages?" % q(room_id)
            answer = self.ok("GET", path + urllib.parse.urlencode(query))
            events += answer["chunk"]
            start = answer.get("end")
            if start is None:
                return events
        raise AssertionError("the room's history does not end")


def register(url, prefix="user"):
    """A new user, logged in."""
    client, name = Client(url), fresh_name(prefix)
    body = {"username": name, "password": "correct horse " + name}
    first = client.request("POST", "/_matrix/client/v3/register", body)
    assert first.status == 401 and first.json.get("session"), "registration without auth: %s" % first
    body["auth"] = {"type": "m.login.dummy", "session": first.json["session"]}
    account = client.ok("POST", "/_matrix/client/v3/register", body)
    return Client(url, account["access_token"], account["user_id"])
