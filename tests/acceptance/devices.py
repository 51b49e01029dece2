"""Devices that encrypt: matrix-nio with its encryption (vodozemac), and what a client has to do after each sync."""

import io
import tempfile
import time

import nio
from nio.crypto.attachments import decrypt_attachment

WAIT_S = 60
POLL_MS = 500


def good(response):
    """The response, which must not be one of the SDK's error responses."""
    assert not isinstance(response, nio.ErrorResponse), "%s: %s" % (type(response).__name__, response)
    return response


class Device:
    """One device of a user, with the texts that it could read and the events that it could not."""

    def __init__(self, client):
        self.client = client
        self.read = []
        self.unread = []
        self.files = {}
        client.add_event_callback(self._text, nio.RoomMessageText)
        client.add_event_callback(self._file, nio.RoomEncryptedMedia)
        client.add_event_callback(self._unreadable, nio.MegolmEvent)

    async def _text(self, _room, event):
        if event.decrypted:
            self.read.append(event.body)

    async def _file(self, _room, event):
        self.files[event.body] = event

    async def _unreadable(self, _room, event):
        self.unread.append(event.event_id)

    async def step(self, timeout_ms=POLL_MS):
        """One sync, and what a client does after it."""
        client = self.client
        good(await client.sync(timeout=timeout_ms))
        for response in await client.send_to_device_messages():
            good(response)
        if client.should_upload_keys:
            good(await client.keys_upload())
        if client.should_query_keys:
            good(await client.keys_query())
        if client.should_claim_keys:
            good(await client.keys_claim(client.get_users_for_key_claiming()))

    async def until(self, check, what):
        deadline = time.monotonic() + WAIT_S
        while not check():
            assert time.monotonic() < deadline, "%s: not within %d s: %s" % (self.client.user_id, WAIT_S, what)
            await self.step()

    async def say(self, room, text):
        content = {"msgtype": "m.text", "body": text}
        sent = good(await self.client.room_send(room, "m.room.message", content, ignore_unverified_devices=True))
        return sent.event_id

    async def send_file(self, room, name, data):
        """Uploads the encrypted data and sends where it is and how it is decrypted; returns its URI."""
        uploaded, keys = await self.client.upload(
            lambda *_tries: io.BytesIO(data), "image/png", name, encrypt=True, filesize=len(data))
        uri = good(uploaded).content_uri
        content = {"msgtype": "m.file", "body": name, "file": dict(keys, url=uri, mimetype="image/png")}
        good(await self.client.room_send(room, "m.room.message", content, ignore_unverified_devices=True))
        return uri

    async def receives_file(self, name):
        """Waits for the message with this file; downloads and decrypts it. What the server served, and what is in it."""
        await self.until(lambda: name in self.files, "is sent the file %r; could not read %s" % (name, self.unread))
        event = self.files[name]
        served = good(await self.client.download(event.url))
        return served, decrypt_attachment(served.body, event.key["k"], event.hashes["sha256"], event.iv)

    async def reads(self, text):
        await self.until(lambda: text in self.read, "reads %r; could not read %s" % (text, self.unread))

    async def knows(self, user_id, device_ids):
        """Waits until the user's devices are these, as far as this device knows."""
        def known():
            devices = self.client.device_store[user_id]
            return sorted(device.id for device in devices.values() if not device.deleted) == sorted(device_ids)
        await self.until(known, "the devices of %s are %s" % (user_id, device_ids))


async def log_in(test, server, user_id, folder):
    """A new device of this user, with its keys uploaded; it is closed after the test."""
    config = nio.AsyncClientConfig(encryption_enabled=True, store_sync_tokens=False)
    store = tempfile.mkdtemp(dir=folder)
    client = nio.AsyncClient(server.url, user_id, store_path=store, config=config)
    test.addAsyncCleanup(client.close)
    good(await client.login("correct horse " + user_id[1:].split(":")[0]))
    device = Device(client)
    await device.step()
    test.assertFalse(client.should_upload_keys, "the first sync uploads the keys")
    return device


async def encrypted_room(alice, bob, **options):
    """A room that is encrypted from the start, by Alice, with Bob."""
    encryption = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
    created = good(await alice.client.room_create(
        invite=[bob.client.user_id], initial_state=[encryption], **options))
    room = created.room_id
    await bob.until(lambda: room in bob.client.invited_rooms, "is invited")
    good(await bob.client.join(room))
    for device in (alice, bob):
        rooms = device.client.rooms
        await device.until(
            lambda rooms=rooms: room in rooms and len(rooms[room].users) == 2 and rooms[room].encrypted,
            "sees both in the encrypted room")
    return room
