// The list of rooms: all of it with the first sync, and what changes afterwards.

import assert from "node:assert/strict";
import { Account, inRoom, messages, meet, reads, start, until } from "./people.js";

const ROOMS = 12;
const TIMELINE = 5;

/** A client that logs in sees the rooms that are there, with names, members, last messages and tags. */
export async function initial({ url }) {
    const bobs = await Account.register(url, "bob");
    const [alice, first] = [await (await Account.register(url, "alice")).device(), await bobs.device()];
    const expected = new Map();
    for (let number = 0; number < ROOMS; number++) {
        const name = `Room ${number}`;
        const roomId = await meet(alice, first, { name, topic: `About ${number}` });
        for (let text = 0; text <= number; text++) await alice.sendTextMessage(roomId, `${name}, ${text}`);
        expected.set(roomId, { name, last: `${name}, ${number}`, sent: number + 1 });
    }
    const [tagged, left] = [...expected.keys()];
    await first.setRoomTag(tagged, "m.favourite", { order: 0.25 });
    await first.leave(left);
    expected.delete(left);
    const { room_id: invited } = await alice.createRoom({ name: "Come in", invite: [bobs.userId] });
    await inRoom(first, invited, "invite");

    const second = await bobs.login();
    await start(second, { initialSyncLimit: TIMELINE });
    const rooms = second.getRooms();
    assert.deepEqual(new Set(rooms.map((room) => room.roomId)), new Set([...expected.keys(), invited]));
    for (const [roomId, { name, last, sent }] of expected) {
        const room = second.getRoom(roomId);
        assert.equal(room.getMyMembership(), "join");
        assert.equal(room.name, name);
        assert.equal(room.getJoinedMemberCount(), 2);
        const said = messages(room.getLiveTimeline().getEvents());
        assert.equal(said.at(-1), last);
        assert.equal(said.length, Math.min(sent, TIMELINE), `of ${name}`);
        const topic = room.currentState.getStateEvents("m.room.topic", "").getContent().topic;
        assert.equal(topic, name.replace("Room", "About"));
    }
    assert.deepEqual(second.getRoom(tagged).tags, { "m.favourite": { order: 0.25 } });
    const invite = second.getRoom(invited);
    assert.deepEqual([invite.getMyMembership(), invite.name], ["invite", "Come in"]);
    assert.equal(invite.getMember(bobs.userId).events.member.getSender(), alice.getUserId());
}

/** A client that syncs sees invites, joins, new names, members that come and go, tags, and rooms that it leaves. */
export async function incremental({ url }) {
    const bobs = await Account.register(url, "bob");
    const [alice, bob, tablet] = [await (await Account.register(url, "alice")).device(), await bobs.device(), await bobs.device()];
    const carol = await (await Account.register(url, "carol")).device();
    assert.deepEqual(bob.getRooms(), []);

    const roomId = await meet(alice, bob, { name: "First name" });
    const room = bob.getRoom(roomId);
    assert.equal(room.name, "First name");
    await inRoom(tablet, roomId);
    await alice.setRoomName(roomId, "Second name");
    await until("the new name", () => room.name === "Second name");

    await alice.invite(roomId, carol.getUserId());
    await until("Carol is invited", () => room.getInvitedMemberCount() === 1);
    await carol.joinRoom(roomId);
    await until("Carol has joined", () => room.getJoinedMemberCount() === 3 && room.getInvitedMemberCount() === 0);
    await carol.sendTextMessage(roomId, "good evening");
    await reads(bob, roomId, "good evening");
    assert.equal(room.getLiveTimeline().getEvents().at(-1).sender?.membership, "join", "the sender's membership is there");
    await alice.kick(roomId, carol.getUserId(), "late");
    await until("Carol is gone", () => room.getJoinedMemberCount() === 2);
    await inRoom(carol, roomId, "leave");

    await bob.setRoomTag(roomId, "m.lowpriority", { order: 0.5 });
    await until("the tag, on the other device", () => tablet.getRoom(roomId).tags["m.lowpriority"]?.order === 0.5);
    await bob.deleteRoomTag(roomId, "m.lowpriority");
    await until("the tag is gone", () => !("m.lowpriority" in tablet.getRoom(roomId).tags));

    await tablet.leave(roomId);
    await inRoom(bob, roomId, "leave");
    await bob.forget(roomId);
    const third = await bobs.device();
    assert.equal(third.getRoom(roomId), null, "a forgotten room is in the list");
}
