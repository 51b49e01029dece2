// Unread badges, as the server counts them: for the room and each thread, after receipts, redactions and leaves.

import assert from "node:assert/strict";
import { NotificationCountType, ReceiptType } from "matrix-js-sdk";
import { Account, answer, inRoom, meet, reads, until } from "./people.js";

const { Total, Highlight } = NotificationCountType;

/** The counts of a room without its threads, and of one thread: [notifications, highlights]. */
function counts(client, roomId, threadId = null) {
    const room = client.getRoom(roomId);
    const count = (type) =>
        threadId ? room.getThreadUnreadNotificationCount(threadId, type) : room.getRoomUnreadNotificationCount(type);
    return [count(Total), count(Highlight)];
}

async function badge(client, roomId, expected, threadId = null) {
    let seen;
    const where = threadId ? "the thread" : "the room";
    const check = () => {
        seen = counts(client, roomId, threadId);
        return seen[0] === expected[0] && seen[1] === expected[1];
    };
    await until(`${where} counts ${expected}`, check).catch((error) => {
        throw new Error(`${error.message}; it counts ${seen}`);
    });
}

async function mention(client, roomId, userId, text) {
    const content = { "msgtype": "m.text", "body": text, "m.mentions": { user_ids: [userId] } };
    return (await client.sendEvent(roomId, "m.room.message", content)).event_id;
}

function event(client, roomId, eventId) {
    return until(`the event ${eventId}`, () => client.getRoom(roomId).findEventById(eventId));
}

/** Messages and mentions are counted, a read receipt sets the counts back on the user's other device too. */
export async function room({ url }) {
    const bobs = await Account.register(url, "bob");
    const alice = await (await Account.register(url, "alice")).device();
    const [phone, laptop] = [await bobs.device(), await bobs.device()];
    const roomId = await meet(alice, phone);
    await inRoom(laptop, roomId);
    await badge(laptop, roomId, [0, 0]);

    const { event_id: first } = await alice.sendTextMessage(roomId, "one");
    await alice.sendTextMessage(roomId, "two");
    await badge(laptop, roomId, [2, 0]);
    const called = await mention(alice, roomId, bobs.userId, "Bob, three");
    await badge(laptop, roomId, [3, 1]);
    const fresh = await bobs.device();
    assert.deepEqual(counts(fresh, roomId), [3, 1], "of a first sync");

    await phone.sendReadReceipt(await event(phone, roomId, first));
    await badge(laptop, roomId, [2, 1]);
    await alice.redactEvent(roomId, called);
    await badge(laptop, roomId, [1, 0]);
    const last = await mention(alice, roomId, bobs.userId, "Bob, four");
    await badge(laptop, roomId, [2, 1]);
    await phone.sendReadReceipt(await event(phone, roomId, last), ReceiptType.ReadPrivate);
    await badge(laptop, roomId, [0, 0]);
    const receipt = () => alice.getRoom(roomId).getEventReadUpTo(bobs.userId);
    assert.notEqual(receipt(), last, "a private receipt was told to somebody else");

    await alice.sendTextMessage(roomId, "five");
    await badge(laptop, roomId, [1, 0]);
    await phone.sendTextMessage(roomId, "whoever answers has read");
    await badge(laptop, roomId, [0, 0]);
    assert.deepEqual(counts(await bobs.device(), roomId), [0, 0], "of a first sync");
}

/** A thread is counted apart from its room, and read apart. */
export async function thread({ url }) {
    const [alices, bobs] = [await Account.register(url, "alice"), await Account.register(url, "bob")];
    const [alice, phone, laptop] = [await alices.device(), await bobs.device(), await bobs.device()];
    const roomId = await meet(alice, phone);
    const { event_id: root } = await alice.sendTextMessage(roomId, "a root");
    await answer(alice, roomId, root, "a first answer");
    const second = await answer(alice, roomId, root, "a second answer");
    await answer(alice, roomId, root, "Bob, a third", { "m.mentions": { user_ids: [bobs.userId] } });
    await inRoom(laptop, roomId);
    await badge(laptop, roomId, [1, 0]);
    await badge(laptop, roomId, [3, 1], root);

    await phone.sendReadReceipt(await event(phone, roomId, root));
    await badge(laptop, roomId, [0, 0]);
    await badge(laptop, roomId, [3, 1], root);
    const answered = await until("the answer, in its thread", () => phone.getRoom(roomId).getThread(root)?.findEventById(second));
    await phone.sendReadReceipt(answered);
    await badge(laptop, roomId, [1, 1], root);

    const { event_id: after } = await alice.sendTextMessage(roomId, "after it");
    await badge(laptop, roomId, [1, 0]);
    await phone.sendReadReceipt(await event(phone, roomId, after), ReceiptType.Read, true);
    await badge(laptop, roomId, [0, 0]);
    await badge(laptop, roomId, [0, 0], root);
}

/** A keyword is a highlight, a muted room counts nothing, and neither does what was said before one left. */
export async function rules({ url }) {
    const bobs = await Account.register(url, "bob");
    const [alice, bob] = [await (await Account.register(url, "alice")).device(), await bobs.device()];
    const roomId = await meet(alice, bob);
    await bob.addPushRule("global", "content", "treasure", {
        pattern: "treasure",
        actions: ["notify", { set_tweak: "highlight" }],
    });
    await alice.sendTextMessage(roomId, "here is no TREASURE.");
    await alice.sendTextMessage(roomId, "many treasures, all apart");
    await badge(bob, roomId, [2, 1]);

    const muted = await meet(alice, bob);
    const rule = { conditions: [{ kind: "event_match", key: "room_id", pattern: muted }], actions: [] };
    await bob.addPushRule("global", "override", muted, rule);
    await alice.sendTextMessage(muted, "nobody hears of this treasure");
    await reads(bob, muted, "nobody hears of this treasure");
    assert.deepEqual(counts(bob, muted), [0, 0], "of a muted room");

    await bob.leave(roomId);
    await inRoom(bob, roomId, "leave");
    await alice.invite(roomId, bobs.userId);
    await inRoom(bob, roomId, "invite");
    await bob.joinRoom(roomId);
    await inRoom(bob, roomId);
    const again = await bobs.device();
    assert.deepEqual(counts(again, roomId), [0, 0], "of what was said before the leave");
}
