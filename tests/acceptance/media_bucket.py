"""Content in a bucket: as in a folder, over a service that speaks the protocol of S3 and checks signatures."""

import hashlib
import os
import subprocess
import threading
import time
import unittest

import buckets
import harness

UPLOAD = "/_matrix/media/v3/upload"
MIB = 1 << 20

service = None


def setUpModule():
    global service
    if os.environ.get("HEARTH_URL"):
        raise unittest.SkipTest("a server that runs already has its own place for content")
    service = buckets.Service(harness.free_port())
    unittest.addModuleCleanup(service.stop)


def configuration(server, **changes):
    settings = {"name": buckets.BUCKET, "endpoint": service.url, "region": buckets.REGION,
                "access_key_id": service.key_id, "secret_access_key": service.secret, "prefix": ""}
    settings.update(changes)
    lines = ["%s = \"%s\"" % item for item in settings.items()]
    return harness.CONFIGURATION.format(port=server.port) + "\n[media.bucket]\n" + "\n".join(lines) + "\n"


def name_of(prefix, body):
    digits = hashlib.sha256(body).hexdigest()
    return "%s/content/%s/%s" % (prefix, digits[:2], digits)


def upload(user, body):
    answer = user.request("POST", UPLOAD, body, content_type="application/octet-stream")
    assert answer.status == 200, answer
    return answer.json["content_uri"]


def download(user, uri):
    return user.request("GET", "/_matrix/client/v1/media/download/" + uri.removeprefix("mxc://"))


class Bucket(unittest.TestCase):
    def server(self, prefix, **changes):
        server = harness.Server(os.environ["HEARTH_BINARY"])
        self.addCleanup(server.close)
        server.write_configuration(configuration(server, prefix=prefix, **changes))
        return server

    def refusal(self, server):
        """What a server says that does not start."""
        with self.assertRaises(harness.ServerFailed):
            server.start()
        return server.log_tail()

    def until(self, what, holds):
        deadline = time.monotonic() + 30
        while not holds():
            self.assertLess(time.monotonic(), deadline, what)
            time.sleep(0.05)

    def test_content_is_kept_once_and_survives_restarts(self):
        server = self.server("once")
        server.start()
        ann, bob = harness.register(server.url), harness.register(server.url)
        # Nothing, one request, exactly one part, a byte more, and several parts.
        bodies = [b"", b"small", os.urandom(8 * MIB), os.urandom(8 * MIB + 1), os.urandom(20 * MIB)]
        uris = [(upload(ann, body), upload(bob, body), body) for body in bodies]
        self.assertEqual(service.names("once/content/"), sorted(name_of("once", body) for body in bodies))
        self.assertEqual(service.pending(), [])
        incoming = os.path.join(server.folder, "data", "media", "incoming")
        self.assertEqual(os.listdir(incoming), [])
        self.assertFalse(os.path.exists(os.path.join(server.folder, "data", "media", "content")))
        server.stop()
        server.start()
        for first, second, body in uris:
            for uri in (first, second):
                answer = download(ann, uri)
                self.assertEqual((answer.status, len(answer.body)), (200, len(body)))
                self.assertTrue(answer.body == body)
        # Bytes go with the last item that has them.
        first, second, body = uris[1]
        for uri, left in ((first, 1), (second, 0)):
            self.command(server, "media", "remove", uri)
            self.assertEqual(len(service.names(name_of("once", body))), left)
            self.assertEqual(download(ann, uri).status, 404)
        self.assertEqual(server.faults(), [])
        server.stop()

    def command(self, server, *arguments):
        subprocess.run([server.binary, "--config", os.path.join(server.folder, "hearth.toml"), *arguments],
                       cwd=server.folder, check=True, stdout=subprocess.DEVNULL, timeout=60)

    def test_what_a_kill_leaves_is_removed_and_what_was_acknowledged_stays(self):
        server = self.server("killed")
        server.start()
        ann = harness.register(server.url)
        kept = []
        ended = threading.Event()

        def send():
            while not ended.is_set():
                body = os.urandom(9 * MIB)
                try:
                    answer = ann.request("POST", UPLOAD, body, content_type="text/plain")
                except OSError:
                    return
                if answer.status == 200:
                    kept.append((answer.json["content_uri"], body))

        for _ in range(3):
            before = len(kept)
            ended.clear()
            senders = [threading.Thread(target=send) for _ in range(3)]
            for sender in senders:
                sender.start()
            self.until("uploads end", lambda: len(kept) >= before + 3)
            server.kill()
            ended.set()
            for sender in senders:
                sender.join()
            # As if the kill had come between the bytes and their row.
            orphan = name_of("killed", b"orphan of %d" % before)
            service.put(orphan, b"orphan of %d" % before)
            server.start()
            for uri, body in kept:
                self.assertTrue(download(ann, uri).body == body, uri)
            self.until("what nobody refers to is removed", lambda: orphan not in service.names("killed/content/"))
        names = service.names("killed/content/")
        self.assertLessEqual({name_of("killed", body) for _, body in kept}, set(names))
        # What became durable without its answer having arrived: at most one of each sender, each time.
        self.assertLessEqual(len(names), len(kept) + 9)
        server.stop()

    def test_wrong_settings_are_refused_at_start(self):
        text = self.refusal(self.server("wrong", secret_access_key="no such secret"))
        self.assertIn("the bucket hearth-media cannot be used", text)
        self.assertIn("SignatureDoesNotMatch", text)
        text = self.refusal(self.server("wrong", name="no-such-bucket"))
        self.assertIn("the bucket no-such-bucket cannot be used", text)
        nobody = "http://127.0.0.1:%d" % harness.free_port()
        text = self.refusal(self.server("wrong", endpoint=nobody))
        self.assertIn("the bucket hearth-media cannot be used", text)
        self.assertEqual(service.names("wrong"), [])

    def test_another_servers_content_is_left_alone(self):
        service.put("taken/hearth-server-name", b"other.example")
        text = self.refusal(self.server("taken"))
        self.assertIn("it is other.example's", text)

    def test_a_bucket_that_goes_away_costs_errors_and_nothing_else(self):
        own = buckets.Service(harness.free_port())
        self.addCleanup(own.stop)
        server = self.server("away", endpoint=own.url, access_key_id=own.key_id, secret_access_key=own.secret)
        server.start()
        ann = harness.register(server.url)
        uri = upload(ann, b"while it was there")
        own.stop()
        answer = ann.request("POST", UPLOAD, b"lost", content_type="text/plain")
        self.assertEqual((answer.status, answer.errcode), (500, "M_UNKNOWN"))
        answer = download(ann, uri)
        self.assertEqual((answer.status, answer.errcode), (500, "M_UNKNOWN"))
        room = ann.create_room()
        self.assertEqual(ann.send(room, "still talking", "1").status, 200)
        incoming = os.path.join(server.folder, "data", "media", "incoming")
        self.assertEqual(os.listdir(incoming), [])
        server.stop()
