// Threads, and what else hangs on an event: edits and reactions.

import assert from "node:assert/strict";
import { Direction, ThreadFilterType } from "matrix-js-sdk";
import { Account, answer, meet, messages, until } from "./people.js";

const ANSWERS = 30;

/** A thread is one place for both, its answers are apart from the room, and all of it is there for a new device. */
export async function conversation({ url }) {
    const [alices, bobs] = [await Account.register(url, "alice"), await Account.register(url, "bob")];
    const [alice, bob] = [await alices.device(), await bobs.device()];
    const roomId = await meet(alice, bob);
    const { event_id: root } = await alice.sendTextMessage(roomId, "who has the map?");
    const { event_id: other } = await alice.sendTextMessage(roomId, "something else");
    const said = [];
    for (let number = 0; number < ANSWERS; number++) {
        said.push(`answer ${number}`);
        await answer([bob, alice][number % 2], roomId, root, said.at(-1));
    }
    for (const client of [alice, bob]) {
        const thread = await until("the thread", () => client.getRoom(roomId).getThread(root));
        await until("all answers", () => thread.length === ANSWERS && thread.replyToEvent?.getContent().body === said.at(-1));
        const inRoom = messages(client.getRoom(roomId).getLiveTimeline().getEvents());
        assert.deepEqual(inRoom, ["who has the map?", "something else"]);
    }

    const late = await bobs.device({ initialSyncLimit: 2 });
    const room = late.getRoom(roomId);
    await room.createThreadsTimelineSets();
    await room.fetchRoomThreads();
    assert.deepEqual(room.getThreads().map((thread) => thread.id), [root]);
    const thread = room.getThread(root);
    assert.equal(thread.length, ANSWERS);
    assert.equal(thread.hasCurrentUserParticipated, true);
    assert.equal(room.getThread(other), null);
    await until("the thread's newest", () => thread.initialEventsFetched);
    for (let page = 0; await late.paginateEventTimeline(thread.liveTimeline, { backwards: true, limit: 10 }); page++) {
        assert.ok(page < ANSWERS, "the thread has no start");
    }
    assert.deepEqual(messages(thread.liveTimeline.getEvents()), ["who has the map?", ...said]);
}

/** Of several threads the list has those one took part in when asked for them, the one with news first. */
export async function list({ url }) {
    const [alices, bobs] = [await Account.register(url, "alice"), await Account.register(url, "bob")];
    const [alice, bob] = [await alices.login(), await bobs.login()];
    const roomId = await meet(await alices.device(), await bobs.device());
    const roots = [];
    for (const text of ["one", "two", "three"]) {
        roots.push((await alice.sendTextMessage(roomId, text)).event_id);
        await answer(alice, roomId, roots.at(-1), `about ${text}`);
    }
    await answer(bob, roomId, roots[0], "mine");
    // The SDK turns the list round: it has the newest first.
    const listed = async (filter) =>
        (await bob.createThreadListMessagesRequest(roomId, null, 10, Direction.Backward, filter)).chunk.map((event) => event.event_id);
    assert.deepEqual(await listed(ThreadFilterType.All), [roots[1], roots[2], roots[0]]);
    assert.deepEqual(await listed(ThreadFilterType.My), [roots[0]]);
}

/** An edit replaces the text, also for a device that comes later; reactions are counted and taken back. */
export async function aggregations({ url }) {
    const bobs = await Account.register(url, "bob");
    const [alice, bob] = [await (await Account.register(url, "alice")).device(), await bobs.device()];
    const roomId = await meet(alice, bob);
    const { event_id: edited } = await alice.sendTextMessage(roomId, "ten paces nroth");
    await alice.sendEvent(roomId, "m.room.message", {
        "msgtype": "m.text",
        "body": "* ten paces north",
        "m.new_content": { msgtype: "m.text", body: "ten paces north" },
        "m.relates_to": { rel_type: "m.replace", event_id: edited },
    });
    const shown = (client) => client.getRoom(roomId).findEventById(edited)?.getContent().body;
    await until("the edit", () => shown(bob) === "ten paces north");
    const { event_id: reaction } = await bob.sendEvent(roomId, "m.reaction", {
        "m.relates_to": { rel_type: "m.annotation", event_id: edited, key: "👍" },
    });
    const reactions = async () => (await alice.relations(roomId, edited, "m.annotation", "m.reaction")).events;
    assert.deepEqual((await reactions()).map((event) => event.getId()), [reaction]);
    await bob.redactEvent(roomId, reaction);
    assert.deepEqual(await reactions(), []);

    for (let number = 0; number < 5; number++) await alice.sendTextMessage(roomId, `later ${number}`);
    const late = await bobs.device({ initialSyncLimit: 3 });
    assert.equal(shown(late), undefined);
    await late.scrollback(late.getRoom(roomId), 30);
    assert.equal(shown(late), "ten paces north");
}
