// Users and their devices: clients of matrix-js-sdk with everything in memory, which sync in the background.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { ClientEvent, EventTimeline, SyncState, createClient } from "matrix-js-sdk";

// How long something may take that has to happen. Generous, as the machine may be busy; nothing waits so long unless it is
// broken.
const DEADLINE_MS = 60_000;
const POLL_MS = 20;
// How long a sync waits for news. Short, so that a client can be stopped soon.
const SYNC_TIMEOUT_MS = 2_000;

/** Polls until `check` returns something true, and returns that. `what` says what never came. */
export async function until(what, check) {
    const deadline = Date.now() + DEADLINE_MS;
    for (;;) {
        const found = await check();
        if (found) return found;
        if (Date.now() > deadline) throw new Error(`not within ${DEADLINE_MS / 1000} s: ${what}`);
        await delay(POLL_MS);
    }
}

/** A user, registered anew. */
export class Account {
    static async register(url, name) {
        const username = `${name}-${randomBytes(6).toString("hex")}`;
        const password = `the password of ${username}`;
        const data = { username, password, inhibit_login: true };
        const client = createClient({ baseUrl: url });
        const asked = await client.registerRequest(data).then(
            () => assert.fail("registered without authentication"),
            (error) => error,
        );
        assert.equal(asked.httpStatus, 401, String(asked));
        const auth = { type: "m.login.dummy", session: asked.data.session };
        const { user_id: userId } = await client.registerRequest({ ...data, auth });
        return new Account(url, userId, password);
    }

    constructor(url, userId, password) {
        Object.assign(this, { url, userId, password });
    }

    /** The password, as it confirms a request: what the SDK wants as `authUploadDeviceSigningKeys` and the like. */
    authenticate = async (makeRequest) => {
        const identifier = { type: "m.id.user", user: this.userId };
        try {
            return await makeRequest(null);
        } catch (error) {
            if (error.httpStatus !== 401) throw error;
            const session = error.data.session;
            return makeRequest({ type: "m.login.password", identifier, password: this.password, session });
        }
    };

    /** A new device, logged in; it does not sync yet. `options` are those of createClient. */
    async login(options = {}) {
        const login = await createClient({ baseUrl: this.url }).loginRequest({
            type: "m.login.password",
            identifier: { type: "m.id.user", user: this.userId },
            password: this.password,
        });
        return createClient({
            baseUrl: this.url,
            userId: login.user_id,
            deviceId: login.device_id,
            accessToken: login.access_token,
            timelineSupport: true,
            ...options,
        });
    }

    /** A new device that has done its first sync. `options` are those of startClient. */
    async device(options = {}) {
        const client = await this.login();
        await start(client, options);
        return client;
    }

    /** A new device that encrypts, and has done its first sync. `options` are those of createClient. */
    async encryptingDevice(options = {}) {
        const client = await this.login(options);
        await client.initRustCrypto({ useIndexedDB: false });
        await start(client);
        return client;
    }
}

/** Lets a client sync, as Element Web does: members when they are needed, threads and what is not sent yet apart. */
export async function start(client, options = {}) {
    const synced = new Promise((resolve) => {
        const listener = (state) => {
            if (state !== SyncState.Prepared && state !== SyncState.Syncing) return;
            client.off(ClientEvent.Sync, listener);
            resolve();
        };
        client.on(ClientEvent.Sync, listener);
    });
    await client.startClient({
        initialSyncLimit: 20,
        lazyLoadMembers: true,
        threadSupport: true,
        pendingEventOrdering: "detached",
        pollTimeout: SYNC_TIMEOUT_MS,
        ...options,
    });
    await within("a first sync", synced);
}

async function within(what, promise) {
    const cancel = new AbortController();
    const late = delay(DEADLINE_MS, null, { signal: cancel.signal }).then(() => {
        throw new Error(`not within ${DEADLINE_MS / 1000} s: ${what}`);
    });
    late.catch(() => {});
    try {
        return await Promise.race([promise, late]);
    } finally {
        cancel.abort();
    }
}

/** Waits until the client has the room as one that its user has this membership in. */
export function inRoom(client, roomId, membership = "join") {
    return until(`${client.getUserId()} has ${membership} in ${roomId}`, () => {
        const room = client.getRoom(roomId);
        return room?.getMyMembership() === membership && room;
    });
}

/** A room of the two, made by the first; both clients know it. `options` are those of createRoom. */
export async function meet(first, second, options = {}) {
    const invite = [second.getUserId()];
    const { room_id: roomId } = await first.createRoom({ preset: "private_chat", invite, ...options });
    await inRoom(second, roomId, "invite");
    await second.joinRoom(roomId);
    for (const client of [first, second]) {
        const room = await inRoom(client, roomId);
        await until("both are in the room", () => room.getJoinedMemberCount() === 2);
    }
    return roomId;
}

/** The texts of the messages that the client has of the room's main timeline without a gap, oldest first. */
export function texts(client, roomId) {
    return messages(events(client, roomId));
}

/** What the client has of the room's main timeline without a gap, oldest first. */
export function events(client, roomId) {
    const found = [];
    let timeline = client.getRoom(roomId).getLiveTimeline();
    while (timeline) {
        found.unshift(...timeline.getEvents());
        timeline = timeline.getNeighbouringTimeline(EventTimeline.BACKWARDS);
    }
    return found;
}

/** The texts of the messages among these events. */
export function messages(events) {
    return events.filter((event) => event.getType() === "m.room.message").map((event) => event.getContent().body);
}

/** Waits until the last message that the client has in the room is this one. */
export function reads(client, roomId, text) {
    return until(`${client.getUserId()} reads ${JSON.stringify(text)}`, () => {
        const room = client.getRoom(roomId);
        const last = room && messages(room.getLiveTimeline().getEvents()).at(-1);
        return last === text;
    });
}

/** Sends an answer in a thread, and returns its ID. */
export async function answer(client, roomId, root, text, extra = {}) {
    const relation = { rel_type: "m.thread", event_id: root };
    const content = { "msgtype": "m.text", "body": text, "m.relates_to": relation, ...extra };
    return (await client.sendEvent(roomId, "m.room.message", content)).event_id;
}
