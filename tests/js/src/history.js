// Scrolling back: to the start of a room, over the gap after some hours offline, and around a linked event.

import assert from "node:assert/strict";
import { EventTimeline } from "matrix-js-sdk";
import { Account, events, meet, messages, reads, start, texts } from "./people.js";

const MESSAGES = 70;
const PAGE = 15;
const TIMELINE = 8;
// More pages than any room here has.
const MOST_PAGES = 40;

const numbered = (prefix, count) => Array.from({ length: count }, (_, number) => `${prefix} ${number}`);

async function say(client, roomId, sayings) {
    const sent = [];
    for (const text of sayings) sent.push((await client.sendTextMessage(roomId, text)).event_id);
    return sent;
}

/** Pages back until the room begins. */
async function scrollToStart(client, roomId) {
    for (let page = 0; events(client, roomId)[0].getType() !== "m.room.create"; page++) {
        assert.ok(page < MOST_PAGES, "the room has no start");
        await client.scrollback(client.getRoom(roomId), PAGE);
    }
}

/** Every message once and in order, from the newest few of the first sync to the room's creation. */
export async function scrollBack({ url }) {
    const bobs = await Account.register(url, "bob");
    const alice = await (await Account.register(url, "alice")).device();
    const roomId = await meet(alice, await bobs.device());
    const said = numbered("message", MESSAGES);
    await say(alice, roomId, said);

    const bob = await bobs.login();
    await start(bob, { initialSyncLimit: TIMELINE });
    assert.deepEqual(texts(bob, roomId), said.slice(-TIMELINE));
    await bob.scrollback(bob.getRoom(roomId), PAGE);
    assert.deepEqual(texts(bob, roomId), said.slice(-TIMELINE - PAGE));
    await scrollToStart(bob, roomId);
    assert.deepEqual(texts(bob, roomId), said);
    const shown = events(bob, roomId).map((event) => event.getId());
    assert.equal(new Set(shown).size, shown.length, "an event is there twice");
}

/** What was said while a client was offline is more than one sync gives; scrolling back closes the gap. */
export async function gap({ url }) {
    const alice = await (await Account.register(url, "alice")).device();
    const bob = await (await Account.register(url, "bob")).login();
    await start(bob, { initialSyncLimit: TIMELINE });
    const roomId = await meet(alice, bob);
    const before = numbered("before", 5);
    await say(alice, roomId, before);
    await reads(bob, roomId, before.at(-1));
    assert.deepEqual(texts(bob, roomId), before);
    bob.stopClient();
    const meanwhile = numbered("meanwhile", MESSAGES);
    await say(alice, roomId, meanwhile);

    await start(bob, { initialSyncLimit: TIMELINE });
    await reads(bob, roomId, meanwhile.at(-1));
    const shown = texts(bob, roomId);
    assert.ok(shown.length < MESSAGES, `a sync after so long is limited, and gave ${shown.length}`);
    assert.deepEqual(shown, meanwhile.slice(-shown.length));
    await scrollToStart(bob, roomId);
    assert.deepEqual(texts(bob, roomId), [...before, ...meanwhile]);
}

/** An event far back is opened with what is around it, and read on from there in both directions. */
export async function permalink({ url }) {
    const bobs = await Account.register(url, "bob");
    const alice = await (await Account.register(url, "alice")).device();
    const roomId = await meet(alice, await bobs.device());
    const said = numbered("message", MESSAGES);
    const sent = await say(alice, roomId, said);

    const bob = await bobs.login();
    await start(bob, { initialSyncLimit: TIMELINE });
    const middle = Math.floor(MESSAGES / 2);
    const timelines = bob.getRoom(roomId).getUnfilteredTimelineSet();
    const timeline = await bob.getEventTimeline(timelines, sent[middle]);
    assert.deepEqual(messages(timeline.getEvents()), [said[middle]]);
    await bob.paginateEventTimeline(timeline, { backwards: true, limit: 3 });
    await bob.paginateEventTimeline(timeline, { backwards: false, limit: 3 });
    assert.deepEqual(messages(timeline.getEvents()), said.slice(middle - 3, middle + 4));

    for (let page = 0; timeline.getNeighbouringTimeline(EventTimeline.FORWARDS) === null; page++) {
        assert.ok(page < MOST_PAGES, "reading on never reaches what the sync gave");
        await bob.paginateEventTimeline(timeline, { backwards: false, limit: PAGE });
    }
    for (let page = 0; await bob.paginateEventTimeline(timeline, { backwards: true, limit: PAGE }); page++) {
        assert.ok(page < MOST_PAGES, "the room has no start");
    }
    const newest = timeline.getNeighbouringTimeline(EventTimeline.FORWARDS);
    assert.deepEqual(messages([...timeline.getEvents(), ...newest.getEvents()]), said);
}
