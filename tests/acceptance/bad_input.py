"""What a careless or hostile client sends: the specification's error code, nothing stored, nothing logged as a fault."""

import json
import unittest

import harness
from harness import q

V3 = "/_matrix/client/v3"
V1 = "/_matrix/client/v1"
NO_ROOM = "!nothinghere:localhost"
# Codes for JSON that is well formed and still not what the endpoint takes.
WRONG_CONTENT = {"M_BAD_JSON", "M_INVALID_PARAM", "M_MISSING_PARAM"}
# Codes for a path whose identifiers name nothing, or nothing that the user may see.
NOT_THERE = {"M_FORBIDDEN", "M_NOT_FOUND", "M_INVALID_PARAM"}

_server = None


def setUpModule():
    global _server
    _server = harness.server_of_module()


class BadInput(unittest.TestCase):
    """Each test has a user with a room and a message, and checks at its end that both are as they were."""

    def setUp(self):
        self.user = harness.register(_server.url, "owner")
        self.stranger = harness.register(_server.url, "stranger")
        self.room = self.user.create_room(name="Untouched")
        self.event = self.user.send(self.room, "the only message", "only").json["event_id"]
        self.me = "%s/user/%s" % (V3, q(self.user.user_id))
        self.in_room = "%s/rooms/%s" % (V3, q(self.room))
        self.before = self.stored()

    def tearDown(self):
        self.assertEqual(self.stored(), self.before, "something was stored")

    def stored(self):
        """What bad requests could have changed."""
        state = self.user.ok("GET", self.in_room + "/state")
        return {
            "timeline": [event["event_id"] for event in self.user.whole_timeline(self.room)],
            "state": sorted(event["event_id"] for event in state),
            "rooms": self.user.ok("GET", V3 + "/joined_rooms")["joined_rooms"],
            "rooms of the stranger": self.stranger.ok("GET", V3 + "/joined_rooms")["joined_rooms"],
            "profile": self.user.ok("GET", "%s/profile/%s" % (V3, q(self.user.user_id))),
            "devices": [device["device_id"] for device in self.user.ok("GET", V3 + "/devices")["devices"]],
            "push rules": self.user.ok("GET", V3 + "/pushrules/"),
            "account data": [event["type"] for event in self.user.sync()["account_data"]["events"]],
            "aliases": self.user.ok("GET", self.in_room + "/aliases")["aliases"],
        }

    def check(self, answer, statuses, errcodes, what):
        with self.subTest(what=what):
            statuses = {statuses} if isinstance(statuses, int) else statuses
            errcodes = {errcodes} if isinstance(errcodes, str) else errcodes
            self.assertIn(answer.status, statuses, str(answer))
            self.assertIn(answer.errcode, errcodes, str(answer))
            self.assertIsInstance(answer.json.get("error"), str, str(answer))

    def with_bodies(self):
        """Every main endpoint that takes a body: method and path."""
        user, room = q(self.user.user_id), self.in_room
        return [
            ("POST", V3 + "/createRoom"),
            ("POST", room + "/invite"),
            ("POST", room + "/kick"),
            ("POST", room + "/ban"),
            ("POST", room + "/unban"),
            ("POST", room + "/upgrade"),
            ("POST", room + "/read_markers"),
            ("PUT", room + "/send/m.room.message/bad"),
            ("PUT", room + "/state/m.room.topic/"),
            ("PUT", room + "/redact/%s/bad" % q(self.event)),
            ("PUT", "%s/typing/%s" % (room, user)),
            ("PUT", self.me + "/account_data/org.example.bad"),
            ("PUT", "%s/rooms/%s/account_data/org.example.bad" % (self.me, q(self.room))),
            ("PUT", "%s/rooms/%s/tags/u.bad" % (self.me, q(self.room))),
            ("POST", self.me + "/filter"),
            ("PUT", "%s/profile/%s/displayname" % (V3, user)),
            ("PUT", "%s/presence/%s/status" % (V3, user)),
            ("PUT", V3 + "/pushrules/global/override/bad"),
            ("PUT", V3 + "/pushrules/global/override/.m.rule.master/enabled"),
            ("PUT", V3 + "/directory/room/" + q("#bad:localhost")),
            ("PUT", V3 + "/directory/list/room/" + q(self.room)),
            ("POST", V3 + "/publicRooms"),
            ("POST", V3 + "/user_directory/search"),
            ("POST", V3 + "/login"),
            ("POST", V3 + "/register"),
            ("POST", V3 + "/refresh"),
            ("POST", V3 + "/account/password"),
            ("POST", V3 + "/delete_devices"),
        ]

    # ---------------------------------------------------------------- JSON

    def test_malformed_json(self):
        for method, path in self.with_bodies():
            for body in (b'{"a":', b"\xff\xfe{}", b'{"a":NaN}', b"{} {}"):
                answer = self.user.request(method, path, body)
                self.check(answer, 400, "M_NOT_JSON", (method, path, body))

    def test_json_that_is_no_object(self):
        for method, path in self.with_bodies():
            for body in (b"[]", b'"text"', b"7", b"null"):
                answer = self.user.request(method, path, body)
                self.check(answer, 400, {"M_BAD_JSON", "M_NOT_JSON"}, (method, path, body))

    def test_fields_of_the_wrong_type(self):
        room, user = self.in_room, q(self.user.user_id)
        cases = [
            ("POST", V3 + "/createRoom", {"name": 7}),
            ("POST", V3 + "/createRoom", {"invite": "@someone:localhost"}),
            ("POST", V3 + "/createRoom", {"invite": ["no user id"]}),
            ("POST", V3 + "/createRoom", {"preset": "no_such_preset"}),
            ("POST", V3 + "/createRoom", {"initial_state": [{"content": {}}]}),
            ("POST", V3 + "/createRoom", {"visibility": True}),
            ("POST", room + "/invite", {}),
            ("POST", room + "/invite", {"user_id": 7}),
            ("POST", room + "/invite", {"user_id": "no user id"}),
            ("POST", room + "/kick", {"user_id": ["@a:localhost"]}),
            ("POST", room + "/ban", {"user_id": None}),
            ("PUT", room + "/state/m.room.member/" + user, {"membership": 1}),
            ("PUT", room + "/state/m.room.member/" + user, {}),
            ("PUT", "%s/typing/%s" % (room, user), {"typing": "yes"}),
            ("PUT", "%s/typing/%s" % (room, user), {}),
            ("PUT", "%s/rooms/%s/tags/u.bad" % (self.me, q(self.room)), {"order": "first"}),
            ("POST", self.me + "/filter", {"room": []}),
            ("POST", self.me + "/filter", {"room": {"timeline": {"limit": "ten"}}}),
            ("PUT", "%s/profile/%s/displayname" % (V3, user), {"displayname": 7}),
            ("PUT", "%s/presence/%s/status" % (V3, user), {"presence": "asleep"}),
            ("PUT", "%s/presence/%s/status" % (V3, user), {}),
            ("PUT", V3 + "/pushrules/global/override/bad", {"actions": "notify"}),
            ("PUT", V3 + "/pushrules/global/override/bad", {"conditions": []}),
            ("PUT", V3 + "/pushrules/global/override/.m.rule.master/enabled", {"enabled": 1}),
            ("PUT", V3 + "/directory/room/" + q("#bad:localhost"), {"room_id": 7}),
            ("POST", V3 + "/publicRooms", {"limit": "ten"}),
            ("POST", V3 + "/user_directory/search", {"search_term": 7}),
            ("POST", V3 + "/user_directory/search", {}),
            ("POST", V3 + "/login", {"type": 7}),
            ("POST", V3 + "/login", {"type": "m.login.password", "identifier": "me", "password": "x"}),
            ("POST", V3 + "/refresh", {"refresh_token": 7}),
            ("POST", V3 + "/delete_devices", {"devices": "all"}),
        ]
        for method, path, body in cases:
            self.check(self.user.request(method, path, body), 400, WRONG_CONTENT, (method, path, body))

    def test_power_levels_that_no_room_can_have(self):
        for levels in ({"users_default": "50"}, {"ban": "much"}, {"users": {"no user id": 50}}, {"events": []}):
            answer = self.user.request("PUT", self.in_room + "/state/m.room.power_levels/", levels)
            # Malformed for the endpoint, and refused by the authorization rules: the specification allows both views.
            self.check(answer, {400, 403}, WRONG_CONTENT | {"M_FORBIDDEN"}, levels)
            answer = self.user.request("POST", V3 + "/createRoom", {"power_level_content_override": levels})
            self.check(answer, 400, WRONG_CONTENT | {"M_INVALID_ROOM_STATE"}, levels)

    def test_deep_nesting(self):
        for depth in (1_000, 20_000, 100_000):
            deep = b'{"a":' * depth + b"1" + b"}" * depth
            lists = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
            for body in (deep, lists):
                for method, path in self.with_bodies():
                    answer = self.user.request(method, path, body)
                    codes = {"M_BAD_JSON", "M_NOT_JSON", "M_TOO_LARGE"}
                    self.check(answer, {400, 413}, codes, (method, path, depth, body[:8]))

    def test_numbers_that_canonical_json_cannot_hold(self):
        numbers = ["9007199254740992", "-9007199254740992", "18446744073709551616", "1" + "0" * 400, "1.5", "-1e-3", "1e400"]
        for number in numbers:
            body = ('{"msgtype":"m.text","body":"n","n":%s}' % number).encode()
            nested = ('{"msgtype":"m.text","body":"n","n":{"list":[0,{"deep":%s}]}}' % number).encode()
            for content in (body, nested):
                for path in ("/send/m.room.message/number", "/state/org.example.number/"):
                    answer = self.user.request("PUT", self.in_room + path, content)
                    # A number that no parser can represent is no JSON either.
                    self.check(answer, 400, {"M_BAD_JSON", "M_NOT_JSON"}, (path, content[:80]))
        levels = b'{"users":{},"ban":9007199254740992}'
        answer = self.user.request("PUT", self.in_room + "/state/m.room.power_levels/", levels)
        self.check(answer, 400, {"M_BAD_JSON", "M_NOT_JSON"}, "power levels")

    def test_the_largest_integers_are_fine_in_account_data_and_events(self):
        other = self.user.create_room()
        content = {"msgtype": "m.text", "body": "n", "high": 2**53 - 1, "low": -(2**53 - 1)}
        path = "%s/rooms/%s/send/m.room.message/edge" % (V3, q(other))
        event_id = self.user.ok("PUT", path, content)["event_id"]
        event = self.user.ok("GET", "%s/rooms/%s/event/%s" % (V3, q(other), q(event_id)))
        self.assertEqual(event["content"], content)
        self.user.ok("POST", "%s/rooms/%s/leave" % (V3, q(other)), {})

    # --------------------------------------------------------------- sizes

    def test_events_that_are_too_large(self):
        for size in (65_536, 70_000, 200_000):
            content = {"msgtype": "m.text", "body": "x" * size}
            answer = self.user.request("PUT", self.in_room + "/send/m.room.message/large%d" % size, content)
            self.check(answer, 413, "M_TOO_LARGE", "message of %d" % size)
            answer = self.user.request("PUT", self.in_room + "/state/org.example.large/", {"x": "y" * size})
            self.check(answer, 413, "M_TOO_LARGE", "state of %d" % size)
        answer = self.user.request("POST", V3 + "/createRoom", {"topic": "x" * 70_000})
        self.check(answer, {400, 413}, {"M_TOO_LARGE"} | WRONG_CONTENT, "a room with a topic of 70,000")

    def test_an_event_below_the_limit_is_stored_whole(self):
        other = self.user.create_room()
        body = "x" * 60_000
        answer = self.user.send(other, body, "nearly")
        self.assertEqual(answer.status, 200, str(answer))
        path = "%s/rooms/%s/event/%s" % (V3, q(other), q(answer.json["event_id"]))
        self.assertEqual(self.user.ok("GET", path)["content"]["body"], body)
        self.user.ok("POST", "%s/rooms/%s/leave" % (V3, q(other)), {})

    def test_a_body_beyond_all_measure(self):
        body = b'{"body":"' + b"x" * 20_000_000 + b'"}'
        for path in ("/send/m.room.message/flood", "/state/org.example.flood/"):
            try:
                answer = self.user.request("PUT", self.in_room + path, body)
            except OSError:
                continue  # The server may hang up instead of reading it all.
            self.check(answer, 413, "M_TOO_LARGE", path)
        self.user.ok("GET", V3 + "/account/whoami")

    def test_identifiers_that_are_too_long(self):
        long = "x" * 300
        codes = {"M_TOO_LARGE"} | WRONG_CONTENT
        requests = [
            ("PUT", "%s/send/%s/long" % (self.in_room, long), {}),
            ("PUT", "%s/state/%s/" % (self.in_room, long), {}),
            ("PUT", "%s/state/org.example.long/%s" % (self.in_room, long), {}),
            ("PUT", "%s/state/org.example.long/%s" % (self.in_room, q("ü" * 150)), {}),
            ("POST", self.in_room + "/invite", {"user_id": "@%s:localhost" % long}),
            ("POST", self.in_room + "/ban", {"user_id": "@%s:localhost" % long}),
            ("PUT", "%s/directory/room/%s" % (V3, q("#%s:localhost" % long)), {"room_id": self.room}),
            ("POST", V3 + "/createRoom", {"room_alias_name": long}),
            ("PUT", "%s/rooms/%s/tags/%s" % (self.me, q(self.room), "u." + long), {}),
        ]
        for method, path, body in requests:
            answer = self.user.request(method, path, body)
            self.check(answer, {400, 413}, codes, (method, path[:120], str(body)[:60]))
        answer = harness.Client(_server.url).request("POST", V3 + "/register", {
            "username": long, "password": "long enough", "auth": {"type": "m.login.dummy"}})
        self.check(answer, {400, 401}, {"M_INVALID_USERNAME", None}, "register")
        answer = self.user.request("GET", "%s/profile/%s" % (V3, q("@%s:localhost" % long)))
        self.check(answer, {400, 403, 404}, NOT_THERE, "profile")

    # ---------------------------------------------------- rooms and users

    def test_rooms_that_do_not_exist(self):
        for room_id in (NO_ROOM, "!", "no room id", "!\u0000:localhost", "!" + "x" * 300, "#no:alias:", "%"):
            room = "%s/rooms/%s" % (V3, q(room_id))
            requests = [
                ("PUT", room + "/send/m.room.message/none", {"msgtype": "m.text", "body": "lost"}),
                ("PUT", room + "/state/m.room.topic/", {"topic": "lost"}),
                ("PUT", room + "/redact/%s/none" % q(self.event), {}),
                ("GET", room + "/state", None),
                ("GET", room + "/state/m.room.topic/", None),
                ("GET", room + "/members", None),
                ("GET", room + "/joined_members", None),
                ("GET", room + "/messages?dir=b", None),
                ("GET", room + "/context/" + q(self.event), None),
                ("GET", room + "/event/" + q(self.event), None),
                ("GET", room + "/aliases", None),
                ("POST", room + "/invite", {"user_id": self.stranger.user_id}),
                ("POST", room + "/join", {}),
                ("POST", room + "/leave", {}),
                ("POST", room + "/kick", {"user_id": self.stranger.user_id}),
                ("POST", room + "/ban", {"user_id": self.stranger.user_id}),
                ("POST", room + "/upgrade", {"new_version": "12"}),
                ("POST", room + "/receipt/m.read/" + q(self.event), {}),
                ("PUT", "%s/typing/%s" % (room, q(self.user.user_id)), {"typing": True, "timeout": 1000}),
                ("GET", "%s/rooms/%s/relations/%s" % (V1, q(room_id), q(self.event)), None),
                ("GET", "%s/rooms/%s/threads" % (V1, q(room_id)), None),
                ("GET", "%s/rooms/%s/hierarchy" % (V1, q(room_id)), None),
                ("GET", "%s/rooms/%s/timestamp_to_event?ts=0&dir=f" % (V1, q(room_id)), None),
            ]
            for method, path, body in requests:
                answer = self.user.request(method, path, body)
                self.check(answer, {400, 403, 404}, NOT_THERE | {"M_UNKNOWN", "M_BAD_JSON"}, (method, path[:120]))

    def test_events_that_do_not_exist(self):
        # Where an event is unknown, a marker or relation to it may be stored by the specification; reading it may not succeed.
        for event_id in ("$nothing", "nothing", "$" + "x" * 300, "$%00", "$\u00fc"):
            for path in ("/event/", "/context/"):
                answer = self.user.request("GET", self.in_room + path + q(event_id))
                self.check(answer, {400, 403, 404}, NOT_THERE, (path, event_id[:40]))
            answer = self.user.request("GET", "%s/rooms/%s/relations/%s" % (V1, q(self.room), q(event_id)))
            self.check(answer, {400, 403, 404}, NOT_THERE, ("relations", event_id[:40]))

    def test_a_stranger_gets_nothing(self):
        requests = [
            ("PUT", self.in_room + "/send/m.room.message/foreign", {"msgtype": "m.text", "body": "intruder"}),
            ("PUT", self.in_room + "/state/m.room.topic/", {"topic": "intruder"}),
            ("PUT", self.in_room + "/redact/%s/foreign" % q(self.event), {}),
            ("GET", self.in_room + "/state", None),
            ("GET", self.in_room + "/state/m.room.create/", None),
            ("GET", self.in_room + "/members", None),
            ("GET", self.in_room + "/joined_members", None),
            ("GET", self.in_room + "/messages?dir=b", None),
            ("GET", self.in_room + "/context/" + q(self.event), None),
            ("GET", self.in_room + "/event/" + q(self.event), None),
            ("GET", self.in_room + "/aliases", None),
            ("GET", "%s/rooms/%s/relations/%s" % (V1, q(self.room), q(self.event)), None),
            ("GET", "%s/rooms/%s/threads" % (V1, q(self.room)), None),
            ("GET", "%s/rooms/%s/hierarchy" % (V1, q(self.room)), None),
            ("POST", V3 + "/join/" + q(self.room), {}),
            ("POST", self.in_room + "/invite", {"user_id": self.stranger.user_id}),
            ("POST", self.in_room + "/kick", {"user_id": self.user.user_id}),
            ("POST", self.in_room + "/ban", {"user_id": self.user.user_id}),
            ("POST", self.in_room + "/upgrade", {"new_version": "12"}),
            ("PUT", "%s/typing/%s" % (self.in_room, q(self.stranger.user_id)), {"typing": True, "timeout": 1000}),
            ("PUT", "%s/typing/%s" % (self.in_room, q(self.user.user_id)), {"typing": True, "timeout": 1000}),
            ("PUT", V3 + "/directory/list/room/" + q(self.room), {"visibility": "public"}),
            ("GET", self.me + "/account_data/m.push_rules", None),
            ("PUT", self.me + "/account_data/org.example.foreign", {"a": 1}),
            ("PUT", "%s/rooms/%s/account_data/org.example.foreign" % (self.me, q(self.room)), {"a": 1}),
            ("GET", "%s/rooms/%s/tags" % (self.me, q(self.room)), None),
            ("PUT", "%s/rooms/%s/tags/u.foreign" % (self.me, q(self.room)), {}),
            ("POST", self.me + "/filter", {}),
            ("POST", self.me + "/openid/request_token", {}),
            ("PUT", "%s/profile/%s/displayname" % (V3, q(self.user.user_id)), {"displayname": "intruder"}),
            ("PUT", "%s/presence/%s/status" % (V3, q(self.user.user_id)), {"presence": "online"}),
        ]
        for method, path, body in requests:
            answer = self.stranger.request(method, path, body)
            self.check(answer, {403, 404}, {"M_FORBIDDEN", "M_NOT_FOUND"}, (method, path))

    def test_tokens_that_are_missing_or_made_up(self):
        reads = [("GET", path) for path in (
            V3 + "/account/whoami", V3 + "/sync", V3 + "/joined_rooms", V3 + "/devices", V3 + "/pushrules/",
            V3 + "/capabilities", self.in_room + "/state", self.in_room + "/messages?dir=b", self.in_room + "/members")]
        open_to_all = (V3 + "/login", V3 + "/register", V3 + "/refresh")
        writes = [(method, path) for method, path in self.with_bodies() if path not in open_to_all]
        # Without a token, a change of password may begin with user-interactive authentication.
        without_token = [(method, path) for method, path in reads + writes if not path.endswith("/account/password")]
        for method, path in without_token:
            body = None if method == "GET" else {}
            answer = harness.Client(_server.url).request(method, path, body)
            self.check(answer, 401, "M_MISSING_TOKEN", (method, path))
        for method, path in reads + writes:
            body = None if method == "GET" else {}
            for token in ("made-up", "syt_" + "x" * 2000):
                answer = harness.Client(_server.url, token).request(method, path, body)
                self.check(answer, 401, "M_UNKNOWN_TOKEN", (method, path, token[:10]))
            answer = harness.Client(_server.url, "two words").request(method, path, body)
            self.check(answer, 401, {"M_UNKNOWN_TOKEN", "M_MISSING_TOKEN"}, (method, path, "two words"))

    # ------------------------------------------------------------- queries

    def test_queries(self):
        messages = self.in_room + "/messages?dir=b"
        for path in (
            messages + "&from=garbage", messages + "&limit=ten", messages + "&limit=-1", messages + "&filter=%7B",
            messages + "&filter=%5B%5D", self.in_room + "/messages?dir=up", self.in_room + "/messages",
            V3 + "/sync?since=garbage", V3 + "/sync?timeout=soon", V3 + "/sync?timeout=-1", V3 + "/sync?filter=%7B",
            V3 + "/sync?filter=%7B%22room%22%3A7%7D", V3 + "/sync?filter=nosuchfilter", V3 + "/sync?full_state=perhaps",
            V3 + "/sync?set_presence=asleep",
            "%s/context/%s?limit=many" % (self.in_room, q(self.event)),
            "%s/rooms/%s/timestamp_to_event?ts=now&dir=f" % (V1, q(self.room)),
            "%s/rooms/%s/threads?include=some" % (V1, q(self.room)),
            "%s/rooms/%s/hierarchy?max_depth=deep" % (V1, q(self.room)),
            V3 + "/publicRooms?limit=ten", V3 + "/register/available", self.me + "/filter/nosuchfilter",
        ):
            answer = self.user.request("GET", path)
            self.check(answer, {400, 404}, WRONG_CONTENT | {"M_UNKNOWN", "M_UNKNOWN_POS", "M_NOT_FOUND", "M_NOT_JSON"}, path)

    def test_huge_limits_are_cut_down(self):
        for path in (self.in_room + "/messages?dir=b&limit=4294967295",
                     "%s/context/%s?limit=4294967295" % (self.in_room, q(self.event)),
                     V3 + "/publicRooms?limit=4294967295"):
            answer = self.user.request("GET", path)
            with self.subTest(path=path):
                self.assertEqual(answer.status, 200, str(answer))

    def test_paths(self):
        answer = self.user.request("GET", V3 + "/no_such_endpoint")
        self.check(answer, 404, "M_UNRECOGNIZED", "unknown path")
        answer = self.user.request("DELETE", V3 + "/sync")
        self.check(answer, 405, "M_UNRECOGNIZED", "unknown method")
        for path in ("/_matrix/client/v3/rooms/%ff%fe/state", "/_matrix/client/v3/rooms/%zz/state", "/_matrix/client/v3/profile/%00"):
            answer = self.user.request("GET", path)
            self.check(answer, {400, 403, 404}, NOT_THERE | {"M_UNRECOGNIZED", "M_UNKNOWN", "M_BAD_JSON"}, path)

    def test_names_that_nobody_may_register(self):
        for name in ("", "UPPER CASE", "with:colon", "with/slash\n", "ü", "@at"):
            body = {"username": name, "password": "long enough", "auth": {"type": "m.login.dummy"}}
            answer = harness.Client(_server.url).request("POST", V3 + "/register", body)
            self.check(answer, 400, {"M_INVALID_USERNAME", "M_BAD_JSON", "M_INVALID_PARAM"}, name)
            answer = harness.Client(_server.url).request("GET", V3 + "/register/available?username=" + q(name))
            self.check(answer, 400, {"M_INVALID_USERNAME", "M_INVALID_PARAM"}, ("available", name))


if __name__ == "__main__":
    unittest.main()
