"""Two people chat: every step through matrix-nio, a client SDK from outside the project, and what each of them sees."""

import asyncio
import time
import unittest

import nio

import harness

WAIT_S = 20
POLL_MS = 5_000

_server = None


def setUpModule():
    global _server
    _server = harness.server_of_module()


def good(response):
    """The response, which must not be one of the SDK's error responses."""
    assert not isinstance(response, nio.ErrorResponse), "%s: %s" % (type(response).__name__, response)
    return response


def refused(response, *errcodes):
    assert isinstance(response, nio.ErrorResponse), "succeeded: %s" % response
    assert response.status_code in errcodes, "expected %s: %s" % (" or ".join(errcodes), response)


class Chat(unittest.IsolatedAsyncioTestCase):
    """Alice and Bob, registered anew for each test."""

    async def asyncSetUp(self):
        self.alice = await self.person("alice")
        self.bob = await self.person("bob")

    async def person(self, name):
        name = harness.fresh_name(name)
        client = nio.AsyncClient(_server.url, name)
        self.addAsyncCleanup(client.close)
        good(await client.register(name, self.password(name), device_name="First"))
        self.assertTrue(client.user_id.startswith("@%s:" % name))
        client.name = name
        return client

    @staticmethod
    def password(name):
        return "open sesame " + name

    async def room(self, **options):
        """A room of Alice's that Bob has joined; both have synced."""
        room_id = good(await self.alice.room_create(invite=[self.bob.user_id], **options)).room_id
        good(await self.bob.join(room_id))
        for client in (self.alice, self.bob):
            await self.until(client, lambda response: {self.alice.user_id, self.bob.user_id}
                             <= set(client.rooms[room_id].users) if room_id in client.rooms else False, "both as members")
        return room_id

    async def until(self, client, holds, what):
        """Long-polls until `holds(response)`. Returns that response."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            response = good(await client.sync(timeout=POLL_MS))
            if holds(response):
                return response
        self.fail("%s did not see %s within %d s" % (client.user_id, what, WAIT_S))

    async def sees(self, client, room_id, event_id):
        """The event, as it arrives by long-poll."""
        found = []

        def holds(response):
            room = response.rooms.join.get(room_id)
            found.extend(event for event in room.timeline.events if event.event_id == event_id) if room else None
            return bool(found)

        await self.until(client, holds, event_id)
        self.assertEqual(len(found), 1, "the event arrived more than once")
        return found[0]

    async def say(self, client, room_id, body, msgtype="m.text", **more):
        content = {"msgtype": msgtype, "body": body, **more}
        return good(await client.room_send(room_id, "m.room.message", content)).event_id

    async def call(self, client, method, path, body="{}"):
        """A request that the SDK has no method for."""
        headers = {"Authorization": "Bearer " + client.access_token, "Content-Type": "application/json"}
        response = await client.send(method, path, body, headers)
        self.assertEqual(response.status, 200, "%s %s: %s" % (method, path, await response.text()))
        return await response.json()

    # ------------------------------------------------------------ accounts

    async def test_login_devices_and_logout(self):
        whoami = good(await self.alice.whoami())
        self.assertEqual((whoami.user_id, whoami.device_id), (self.alice.user_id, self.alice.device_id))
        self.assertIn("m.login.password", good(await self.alice.login_info()).flows)

        second = nio.AsyncClient(_server.url, self.alice.user_id)
        self.addAsyncCleanup(second.close)
        refused(await second.login("wrong password"), "M_FORBIDDEN")
        good(await second.login(self.password(self.alice.name), device_name="Second"))
        self.assertNotEqual(second.device_id, self.alice.device_id)
        good(await second.update_device(second.device_id, {"display_name": "Renamed"}))
        devices = {device.id: device.display_name for device in good(await self.alice.devices()).devices}
        self.assertEqual(devices, {self.alice.device_id: "First", second.device_id: "Renamed"})

        good(await second.logout())
        second.access_token = second.access_token or "gone"
        devices = [device.id for device in good(await self.alice.devices()).devices]
        self.assertEqual(devices, [self.alice.device_id])

    async def test_a_token_is_worth_nothing_after_logout(self):
        token = self.bob.access_token
        good(await self.bob.logout())
        self.bob.access_token = token
        refused(await self.bob.whoami(), "M_UNKNOWN_TOKEN")
        refused(await self.bob.joined_rooms(), "M_UNKNOWN_TOKEN")

    async def test_a_taken_name_is_refused(self):
        other = nio.AsyncClient(_server.url, self.alice.name)
        self.addAsyncCleanup(other.close)
        refused(await other.register(self.alice.name, "another password"), "M_USER_IN_USE")

    async def test_deleting_a_device_asks_for_the_password(self):
        second = nio.AsyncClient(_server.url, self.alice.user_id)
        self.addAsyncCleanup(second.close)
        good(await second.login(self.password(self.alice.name)))
        asked = await self.alice.delete_devices([second.device_id])
        self.assertIsInstance(asked, nio.DeleteDevicesAuthResponse, asked)
        auth = {"type": "m.login.password", "session": asked.session, "password": self.password(self.alice.name),
                "identifier": {"type": "m.id.user", "user": self.alice.user_id}}
        done = await self.alice.delete_devices([second.device_id], auth)
        self.assertIsInstance(done, nio.DeleteDevicesResponse, done)
        refused(await second.whoami(), "M_UNKNOWN_TOKEN")
        self.assertEqual(good(await self.alice.whoami()).device_id, self.alice.device_id)

    async def test_profiles(self):
        good(await self.alice.set_displayname("Alice Liddell"))
        good(await self.alice.set_avatar("mxc://localhost/alice"))
        profile = good(await self.bob.get_profile(self.alice.user_id))
        self.assertEqual((profile.displayname, profile.avatar_url), ("Alice Liddell", "mxc://localhost/alice"))
        self.assertEqual(good(await self.bob.get_displayname(self.alice.user_id)).displayname, "Alice Liddell")
        self.assertEqual(good(await self.bob.get_avatar(self.alice.user_id)).avatar_url, "mxc://localhost/alice")
        refused(await self.bob.get_profile("@nobody-%s" % self.alice.user_id[1:]), "M_NOT_FOUND")

    async def test_a_new_display_name_reaches_the_rooms(self):
        room_id = await self.room()
        good(await self.alice.set_displayname("Alice of Wonderland"))
        await self.until(self.bob, lambda _: self.bob.rooms[room_id].user_name(self.alice.user_id)
                         == "Alice of Wonderland", "the new display name")

    async def test_presence(self):
        await self.room()
        good(await self.alice.set_presence("unavailable", "down the rabbit hole"))

        def holds(response):
            return any(event.user_id == self.alice.user_id and event.presence == "unavailable"
                       and event.status_msg == "down the rabbit hole" for event in response.presence_events)

        await self.until(self.bob, holds, "Alice's presence")
        presence = good(await self.bob.get_presence(self.alice.user_id))
        self.assertEqual((presence.presence, presence.status_msg), ("unavailable", "down the rabbit hole"))

    async def test_account_data_and_tags(self):
        room_id = await self.room()
        user = "/_matrix/client/v3/user/%s" % harness.q(self.alice.user_id)
        await self.call(self.alice, "PUT", user + "/account_data/org.example.color", '{"color":"green"}')
        self.assertEqual(await self.call(self.alice, "GET", user + "/account_data/org.example.color", None),
                         {"color": "green"})
        await self.call(self.alice, "PUT", "%s/rooms/%s/tags/u.work" % (user, harness.q(room_id)), '{"order":0.25}')
        seen = set()

        def holds(response):
            seen.update(getattr(event, "type", None) for event in response.account_data_events)
            return "org.example.color" in seen and self.alice.rooms[room_id].tags == {"u.work": {"order": 0.25}}

        await self.until(self.alice, holds, "account data and tag")
        await self.call(self.alice, "DELETE", "%s/rooms/%s/tags/u.work" % (user, harness.q(room_id)), None)
        await self.until(self.alice, lambda _: self.alice.rooms[room_id].tags == {}, "the tag's removal")

    async def test_push_rules(self):
        good(await self.alice.set_pushrule("global", nio.PushRuleKind.content, "hatter", pattern="hatter",
                                           actions=[nio.PushNotify(), nio.PushSetTweak("highlight", True)]))

        def rule_of(response):
            for event in response.account_data_events:
                if isinstance(event, nio.PushRulesEvent):
                    return {rule.id: rule for rule in event.global_rules.content}.get("hatter")
            return None

        response = await self.until(self.alice, lambda response: rule_of(response) is not None, "the push rule")
        self.assertEqual(rule_of(response).pattern, "hatter")
        good(await self.alice.enable_pushrule("global", nio.PushRuleKind.content, "hatter", False))
        await self.until(self.alice, lambda response: rule_of(response) is not None
                         and rule_of(response).enabled is False, "the rule switched off")
        good(await self.alice.delete_pushrule("global", nio.PushRuleKind.content, "hatter"))
        refused(await self.alice.delete_pushrule("global", nio.PushRuleKind.content, "hatter"), "M_NOT_FOUND")

    async def test_openid_token(self):
        token = good(await self.alice.get_openid_token(self.alice.user_id))
        self.assertEqual(token.token_type, "Bearer")
        self.assertGreater(token.expires_in, 0)

    # --------------------------------------------------------------- rooms

    async def test_invitation_shows_what_it_is_to(self):
        room_id = good(await self.alice.room_create(name="Tea party", topic="Riddles",
                                                    invite=[self.bob.user_id])).room_id
        await self.until(self.bob, lambda _: room_id in self.bob.invited_rooms, "the invitation")
        invited = self.bob.invited_rooms[room_id]
        self.assertEqual((invited.name, invited.inviter), ("Tea party", self.alice.user_id))
        good(await self.bob.join(room_id))
        await self.until(self.bob, lambda _: room_id in self.bob.rooms, "the room")
        room = self.bob.rooms[room_id]
        self.assertEqual((room.name, room.topic), ("Tea party", "Riddles"))
        self.assertEqual(room.room_version, "12")
        self.assertEqual(good(await self.bob.joined_rooms()).rooms, [room_id])
        members = {member.user_id for member in good(await self.bob.joined_members(room_id)).members}
        self.assertEqual(members, {self.alice.user_id, self.bob.user_id})

    async def test_a_room_that_one_is_not_in_stays_closed(self):
        room_id = good(await self.alice.room_create()).room_id
        refused(await self.bob.join(room_id), "M_FORBIDDEN")
        refused(await self.bob.room_send(room_id, "m.room.message", {"msgtype": "m.text", "body": "hi"}),
                "M_FORBIDDEN")
        refused(await self.bob.room_messages(room_id), "M_FORBIDDEN")
        refused(await self.bob.room_get_state(room_id), "M_FORBIDDEN")

    async def test_leave_kick_ban_and_unban(self):
        room_id = await self.room()
        good(await self.bob.room_leave(room_id))
        await self.until(self.bob, lambda response: room_id in response.rooms.leave, "the room among the left ones")
        refused(await self.bob.join(room_id), "M_FORBIDDEN")

        good(await self.alice.room_invite(room_id, self.bob.user_id))
        good(await self.bob.join(room_id))
        good(await self.alice.room_kick(room_id, self.bob.user_id, "too loud"))
        response = await self.until(self.bob, lambda response: room_id in response.rooms.leave, "the kick")
        kick = [event for event in response.rooms.leave[room_id].timeline.events
                if isinstance(event, nio.RoomMemberEvent) and event.state_key == self.bob.user_id][-1]
        self.assertEqual((kick.sender, kick.membership, kick.content.get("reason")),
                         (self.alice.user_id, "leave", "too loud"))

        good(await self.alice.room_ban(room_id, self.bob.user_id))
        refused(await self.alice.room_invite(room_id, self.bob.user_id), "M_FORBIDDEN", "M_BAD_STATE")
        refused(await self.bob.join(room_id), "M_FORBIDDEN", "M_BAD_STATE")
        good(await self.alice.room_unban(room_id, self.bob.user_id))
        good(await self.alice.room_invite(room_id, self.bob.user_id))
        good(await self.bob.join(room_id))
        self.assertEqual(good(await self.bob.joined_rooms()).rooms, [room_id])

    async def test_the_ordinary_member_may_not_rule(self):
        room_id = await self.room()
        refused(await self.bob.room_kick(room_id, self.alice.user_id), "M_FORBIDDEN")
        refused(await self.bob.room_put_state(room_id, "m.room.name", {"name": "Mine"}), "M_FORBIDDEN")
        self.assertIsInstance(await self.bob.room_get_state_event(room_id, "m.room.name"),
                              nio.RoomGetStateEventError)

    async def test_forgetting_a_room(self):
        room_id = await self.room()
        good(await self.bob.room_leave(room_id))
        good(await self.bob.room_forget(room_id))
        refused(await self.bob.room_messages(room_id), "M_FORBIDDEN")
        everything = await self.call(self.bob, "GET", "/_matrix/client/v3/sync?timeout=0&filter="
                                     + harness.q('{"room":{"include_leave":true}}'), None)
        self.assertNotIn(room_id, everything.get("rooms", {}).get("leave", {}))

    async def test_knocking(self):
        room_id = good(await self.alice.room_create()).room_id
        good(await self.alice.room_enable_knocking(room_id))
        good(await self.bob.room_knock(room_id, "let me in"))
        state = good(await self.alice.room_get_state_event(room_id, "m.room.member", self.bob.user_id))
        self.assertEqual((state.content["membership"], state.content["reason"]), ("knock", "let me in"))
        good(await self.alice.room_invite(room_id, self.bob.user_id))
        good(await self.bob.join(room_id))

    async def test_aliases_and_the_public_directory(self):
        word = harness.fresh_name("garden")
        alias = "#%s:%s" % (word, self.alice.user_id.split(":", 1)[1])
        room_id = good(await self.alice.room_create(
            visibility=nio.RoomVisibility.public, preset=nio.RoomPreset.public_chat, alias=word, name="Garden " + word,
            topic="Roses")).room_id
        self.assertEqual(good(await self.bob.room_resolve_alias(alias)).room_id, room_id)
        self.assertEqual(good(await self.bob.room_get_visibility(room_id)).visibility, "public")
        listed = good(await self.bob.list_public_rooms(filter_generic_search_term=word)).public_rooms
        self.assertEqual([room.room_id for room in listed], [room_id])
        self.assertEqual((listed[0].name, listed[0].topic, listed[0].num_joined_members, listed[0].canonical_alias),
                         ("Garden " + word, "Roses", 1, alias))
        self.assertEqual(good(await self.bob.join(alias)).room_id, room_id)

        other = "#%s-other:%s" % (word, self.alice.user_id.split(":", 1)[1])
        good(await self.alice.room_put_alias(other, room_id))
        good(await self.alice.room_delete_alias(other))
        refused(await self.bob.room_resolve_alias(other), "M_NOT_FOUND")

    async def test_space_hierarchy(self):
        server = self.alice.user_id.split(":", 1)[1]
        child = good(await self.alice.room_create(name="Child", preset=nio.RoomPreset.public_chat)).room_id
        space = good(await self.alice.room_create(name="Space", space=True)).room_id
        good(await self.alice.room_put_state(space, "m.space.child", {"via": [server]}, child))
        rooms = good(await self.alice.space_get_hierarchy(space)).rooms
        self.assertEqual([room["room_id"] for room in rooms], [space, child])
        self.assertEqual([event["state_key"] for event in rooms[0]["children_state"]], [child])
        self.assertEqual((rooms[0]["room_type"], rooms[1]["name"]), ("m.space", "Child"))

    async def test_room_upgrade(self):
        room_id = await self.room(name="Old house", room_version="10")
        upgraded = await self.call(self.alice, "POST", "/_matrix/client/v3/rooms/%s/upgrade" % harness.q(room_id),
                                   '{"new_version":"12"}')
        replacement = upgraded["replacement_room"]
        response = await self.until(self.bob, lambda response: any(
            isinstance(event, nio.RoomUpgradeEvent) for event in self.timeline(response, room_id)), "the tombstone")
        tombstone = [event for event in self.timeline(response, room_id)
                     if isinstance(event, nio.RoomUpgradeEvent)][-1]
        self.assertEqual(tombstone.replacement_room, replacement)
        create = good(await self.alice.room_get_state_event(replacement, "m.room.create")).content
        self.assertEqual((create["room_version"], create["predecessor"]["room_id"]), ("12", room_id))
        name = good(await self.alice.room_get_state_event(replacement, "m.room.name")).content
        self.assertEqual(name, {"name": "Old house"})

    async def test_room_upgrade_as_the_sdk_does_it(self):
        room_id = await self.room(name="Old hut", room_version="10")
        upgraded = good(await self.alice.room_upgrade(room_id, "11"))
        tombstone = good(await self.alice.room_get_state_event(room_id, "m.room.tombstone")).content
        self.assertEqual(tombstone["replacement_room"], upgraded.room_id)
        name = good(await self.alice.room_get_state_event(upgraded.room_id, "m.room.name")).content
        self.assertEqual(name, {"name": "Old hut"})

    @staticmethod
    def timeline(response, room_id):
        room = response.rooms.join.get(room_id)
        return room.timeline.events if room else []

    # -------------------------------------------------------------- events

    async def test_messages_arrive_at_a_waiting_client(self):
        room_id = await self.room()
        waiting = asyncio.create_task(self.until(
            self.bob, lambda response: self.timeline(response, room_id), "a message"))
        event_id = await self.say(self.alice, room_id, "Why is a raven like a writing desk?")
        events = self.timeline(await waiting, room_id)
        self.assertEqual([(event.event_id, event.sender, event.body) for event in events],
                         [(event_id, self.alice.user_id, "Why is a raven like a writing desk?")])
        self.assertIsInstance(events[0], nio.RoomMessageText)

        notice = await self.sees(self.alice, room_id, await self.say(self.bob, room_id, "Tea is served", "m.notice"))
        self.assertIsInstance(notice, nio.RoomMessageNotice)
        self.assertEqual((notice.sender, notice.body), (self.bob.user_id, "Tea is served"))

    async def test_a_conversation_arrives_in_order(self):
        room_id = await self.room()
        expected, seen = [], []
        for number in range(20):
            speaker = (self.alice, self.bob)[number % 2]
            expected.append(await self.say(speaker, room_id, "line %d" % number))

        def holds(response):
            seen.extend(event.event_id for event in self.timeline(response, room_id)
                        if isinstance(event, nio.RoomMessageText))
            return len(seen) >= len(expected) or response.rooms.join[room_id].timeline.limited

        await self.until(self.bob, holds, "the conversation")
        if len(seen) < len(expected):
            # The server cut the timeline to its newest events, as it may; the rest is behind `prev_batch`.
            self.assertEqual(seen, expected[-len(seen):])
        else:
            self.assertEqual(seen, expected)

    async def test_the_same_transaction_is_sent_once(self):
        room_id = await self.room()
        content = {"msgtype": "m.text", "body": "Once only"}
        first = good(await self.alice.room_send(room_id, "m.room.message", content, tx_id="same")).event_id
        again = good(await self.alice.room_send(room_id, "m.room.message", content, tx_id="same")).event_id
        self.assertEqual(first, again)
        marker = await self.say(self.alice, room_id, "after")
        ids = [event.event_id for event in good(await self.bob.room_messages(room_id, limit=5)).chunk]
        self.assertEqual(ids[:2], [marker, first])
        self.assertEqual(ids.count(first), 1)

    async def test_pagination_backwards_and_context(self):
        room_id = await self.room()
        sent = [await self.say(self.alice, room_id, "page line %d" % number) for number in range(35)]
        seen, start = [], None
        for _ in range(20):
            page = good(await self.bob.room_messages(room_id, start=start, limit=10))
            self.assertLessEqual(len(page.chunk), 10)
            seen += page.chunk
            start = page.end
            if not page.end:
                break
        messages = [event for event in seen if isinstance(event, nio.RoomMessageText)]
        self.assertEqual([event.event_id for event in messages], sent[::-1])
        self.assertEqual(len({event.event_id for event in seen}), len(seen), "an event on two pages")
        self.assertIsInstance(seen[-1], nio.RoomCreateEvent)

        context = good(await self.bob.room_context(room_id, sent[10], limit=4))
        self.assertEqual(context.event.body, "page line 10")
        self.assertEqual([event.event_id for event in context.events_before], sent[9:7:-1])
        self.assertEqual([event.event_id for event in context.events_after], sent[11:13])
        back = good(await self.bob.room_messages(room_id, start=context.start, limit=3))
        self.assertEqual([event.event_id for event in back.chunk], sent[7:4:-1])
        forth = good(await self.bob.room_messages(room_id, start=context.end, limit=3,
                                                  direction=nio.MessageDirection.front))
        self.assertEqual([event.event_id for event in forth.chunk], sent[13:16])

    async def test_pagination_from_the_gap_of_a_limited_sync(self):
        room_id = await self.room()
        sent = [await self.say(self.alice, room_id, "gap line %d" % number) for number in range(30)]
        response = good(await self.bob.sync(sync_filter={"room": {"timeline": {"limit": 5}}}))
        timeline = response.rooms.join[room_id].timeline
        self.assertTrue(timeline.limited)
        self.assertEqual([event.event_id for event in timeline.events], sent[-5:])
        page = good(await self.bob.room_messages(room_id, start=timeline.prev_batch, limit=10))
        self.assertEqual([event.event_id for event in page.chunk], sent[-6:-16:-1])

    async def test_a_stored_filter(self):
        room_id = await self.room()
        stored = good(await self.bob.upload_filter(room={"timeline": {"types": ["m.room.topic"]}}))
        await self.say(self.alice, room_id, "filtered away")
        good(await self.alice.update_room_topic(room_id, "kept"))
        response = good(await self.bob.sync(timeout=POLL_MS, sync_filter=stored.filter_id))
        self.assertEqual([type(event) for event in self.timeline(response, room_id)], [nio.RoomTopicEvent])

    async def test_typing(self):
        room_id = await self.room()
        good(await self.alice.room_typing(room_id, True, timeout=30_000))
        await self.until(self.bob, lambda _: self.bob.rooms[room_id].typing_users == [self.alice.user_id],
                         "Alice typing")
        good(await self.alice.room_typing(room_id, False))
        await self.until(self.bob, lambda _: self.bob.rooms[room_id].typing_users == [], "that Alice stopped")

    async def test_receipts_and_read_markers(self):
        room_id = await self.room()
        event_id = await self.say(self.alice, room_id, "Have you read this?")
        response = await self.until(self.bob, lambda response: any(
            event.event_id == event_id for event in self.timeline(response, room_id)), "the message")
        unread = response.rooms.join[room_id].unread_notifications
        self.assertEqual(unread.notification_count, 1, "unread in the same response as the event")

        good(await self.bob.room_read_markers(room_id, event_id, event_id))
        await self.until(self.alice, lambda _: self.receipt_of(self.alice, room_id, self.bob.user_id) == event_id,
                         "Bob's receipt")
        await self.until(self.bob, lambda _: self.bob.rooms[room_id].fully_read_marker == event_id
                         and self.bob.rooms[room_id].unread_notifications == 0, "the marker and no unread messages")

        later = await self.say(self.alice, room_id, "And this?")
        good(await self.bob.update_receipt_marker(room_id, later, thread_id="main"))
        await self.until(self.alice, lambda _: self.receipt_of(self.alice, room_id, self.bob.user_id, "main") == later,
                         "Bob's receipt in the main timeline")
        self.assertEqual(self.receipt_of(self.alice, room_id, self.bob.user_id), event_id)

    @staticmethod
    def receipt_of(client, room_id, user_id, thread_id=None):
        room = client.rooms[room_id]
        receipt = (room.threaded_read_receipts.get(user_id, {}).get(thread_id) if thread_id
                   else room.read_receipts.get(user_id))
        return receipt.event_id if receipt else None

    async def test_redaction(self):
        room_id = await self.room()
        event_id = await self.say(self.alice, room_id, "a secret")
        await self.sees(self.bob, room_id, event_id)
        redaction_id = good(await self.alice.room_redact(room_id, event_id, "said too much")).event_id
        redaction = await self.sees(self.bob, room_id, redaction_id)
        self.assertIsInstance(redaction, nio.RedactionEvent)
        self.assertEqual((redaction.redacts, redaction.reason), (event_id, "said too much"))
        event = good(await self.bob.room_get_event(room_id, event_id)).event
        self.assertIsInstance(event, nio.RedactedEvent)
        self.assertEqual((event.redacter, event.reason), (self.alice.user_id, "said too much"))
        self.assertEqual(event.source["content"], {})
        refused(await self.bob.room_redact(room_id, redaction_id), "M_FORBIDDEN")

    async def test_state(self):
        room_id = await self.room(name="First name", topic="First topic")
        good(await self.alice.room_put_state(room_id, "m.room.name", {"name": "Second name"}))
        good(await self.alice.update_room_topic(room_id, "Second topic"))
        good(await self.alice.room_put_state(room_id, "org.example.game", {"move": "e4"}, "board/1"))
        await self.until(self.bob, lambda _: (self.bob.rooms[room_id].name, self.bob.rooms[room_id].topic)
                         == ("Second name", "Second topic"), "name and topic")
        state = good(await self.bob.room_get_state_event(room_id, "org.example.game", "board/1"))
        self.assertEqual(state.content, {"move": "e4"})
        refused(await self.bob.room_get_state_event(room_id, "org.example.game", "board/2"), "M_NOT_FOUND")
        by_type = {event["type"]: event["content"] for event in good(await self.bob.room_get_state(room_id)).events}
        self.assertEqual(by_type["m.room.name"], {"name": "Second name"})
        self.assertEqual(by_type["org.example.game"], {"move": "e4"})

    async def test_reactions_edits_and_threads(self):
        room_id = await self.room()
        root = await self.say(self.alice, room_id, "Shall we talk?")
        reaction = good(await self.bob.room_send(room_id, "m.reaction", {
            "m.relates_to": {"rel_type": "m.annotation", "event_id": root, "key": "+1"}})).event_id
        edit = await self.say(self.alice, room_id, "* Shall we speak?", **{
            "m.new_content": {"msgtype": "m.text", "body": "Shall we speak?"},
            "m.relates_to": {"rel_type": "m.replace", "event_id": root}})
        reply = await self.say(self.bob, room_id, "In a thread", **{
            "m.relates_to": {"rel_type": "m.thread", "event_id": root}})
        seen = await self.sees(self.alice, room_id, reaction)
        self.assertEqual((seen.reacts_to, seen.key, seen.sender), (root, "+1", self.bob.user_id))

        related = [event.event_id async for event in self.bob.room_get_event_relations(room_id, root)]
        self.assertEqual(related, [reply, edit, reaction])
        threaded = [event.event_id async for event in self.bob.room_get_event_relations(
            room_id, root, nio.api.RelationshipType.thread, "m.room.message")]
        self.assertEqual(threaded, [reply])
        roots = [event async for event in self.bob.room_get_threads(room_id)]
        self.assertEqual([event.event_id for event in roots], [root])
        bundled = roots[0].source["unsigned"]["m.relations"]
        self.assertEqual((bundled["m.thread"]["count"], bundled["m.thread"]["latest_event"]["event_id"]), (1, reply))
        self.assertEqual(bundled["m.replace"]["event_id"], edit)

    async def test_an_old_token_yields_the_same_events_again(self):
        room_id = await self.room()
        token = self.bob.next_batch
        event_id = await self.say(self.alice, room_id, "Repeat after me")
        first = good(await self.bob.sync(timeout=POLL_MS, since=token))
        again = good(await self.bob.sync(timeout=POLL_MS, since=token))
        for response in (first, again):
            self.assertEqual([event.event_id for event in self.timeline(response, room_id)], [event_id])


if __name__ == "__main__":
    unittest.main()
