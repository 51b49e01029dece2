// The server is killed while clients sync and talk; they find it again, and nothing that it acknowledged is lost.

import assert from "node:assert/strict";
import { setTimeout as delay } from "node:timers/promises";
import { ClientEvent, EventStatus, NotificationCountType, RoomEvent, SyncState } from "matrix-js-sdk";
import { Account, meet, texts, until } from "./people.js";
import { decrypted, meetInSecret } from "./encryption.js";

const KILLS = 2;
// Fewer than an incremental sync has of a room, which is 10 unless asked for otherwise, so that none is limited.
const SAID_OVER_A_KILL = 8;
// So many that no first sync of these rooms is limited.
const WHOLE = { initialSyncLimit: 100 };
const RETRY_MS = 100;
// A message is sent again at most so often before the test gives it up for good.
const MOST_RETRIES = 200;

/** Sends a text as a client's "resend" button does, with the same transaction ID, until the server takes it. */
async function sayUntilTaken(client, roomId, text) {
    const room = client.getRoom(roomId);
    try {
        return (await client.sendTextMessage(roomId, text)).event_id;
    } catch (error) {
        assert.equal(error.name, "ConnectionError", String(error));
    }
    for (let retry = 0; retry < MOST_RETRIES; retry++) {
        await delay(RETRY_MS);
        const unsent = room.getPendingEvents().find((event) => event.status === EventStatus.NOT_SENT);
        assert.ok(unsent, `${text} is neither sent nor pending`);
        try {
            return (await client.resendEvent(unsent, room)).event_id;
        } catch (error) {
            assert.equal(error.name, "ConnectionError", String(error));
        }
    }
    throw new Error(`never sent: ${text}`);
}

/** What becomes of a client's connection. */
class Connection {
    constructor(client) {
        this.states = [];
        client.on(ClientEvent.Sync, (state) => this.states.push(state));
    }

    /** Waits until the client has found the server again, which it must have lost since the last time. */
    async foundAgain() {
        await until("the sync goes on", () => this.states.includes(SyncState.Reconnecting) && this.states.at(-1) === SyncState.Syncing);
        this.states.length = 0;
    }
}

/** Each message is there once and in order, for the one who reads along, the one who wrote, and a device that comes later. */
export async function plain({ url, restart }) {
    const bobs = await Account.register(url, "bob");
    const alice = await (await Account.register(url, "alice")).device(WHOLE);
    const bob = await bobs.device(WHOLE);
    const roomId = await meet(alice, bob);
    const connections = [new Connection(alice), new Connection(bob)];
    const said = [];
    const arrived = [];
    bob.on(RoomEvent.Timeline, (event, room, toStart) => {
        if (room.roomId === roomId && !toStart && event.getType() === "m.room.message") arrived.push(event.getContent().body);
    });
    for (let kill = 0; kill < KILLS; kill++) {
        let restarted;
        for (let number = 0; number < SAID_OVER_A_KILL; number++) {
            if (number === SAID_OVER_A_KILL / 2) restarted = restart();
            said.push(`${kill}: ${number}`);
            await sayUntilTaken(alice, roomId, said.at(-1));
        }
        await restarted;
        await Promise.all(connections.map((connection) => connection.foundAgain()));
        await until("the last message", () => arrived.at(-1) === said.at(-1));
        assert.deepEqual(arrived, said);
        await until("Alice's own messages", () => texts(alice, roomId).length >= said.length);
        assert.deepEqual(texts(alice, roomId), said);
    }
    const late = await bobs.device(WHOLE);
    assert.deepEqual(texts(late, roomId), said);
    const total = () => bob.getRoom(roomId).getUnreadNotificationCount(NotificationCountType.Total);
    await until("a badge with all of them", () => total() === said.length);
}

/** With encryption on: every message is decrypted, so no room key was lost either. */
export async function secret({ url, restart }) {
    const alice = await (await Account.register(url, "alice")).encryptingDevice();
    const bob = await (await Account.register(url, "bob")).encryptingDevice();
    const roomId = await meetInSecret(alice, bob);
    const said = [];
    for (let kill = 0; kill < KILLS; kill++) {
        // A new key for every few messages, so that keys are on their way when the server dies.
        await alice.getCrypto().forceDiscardSession(roomId);
        const restarted = restart();
        for (let number = 0; number < 3; number++) {
            said.push(`${kill}: ${number}`);
            await sayUntilTaken(alice, roomId, said.at(-1));
        }
        await restarted;
    }
    await until("all is decrypted", () => decrypted(bob, roomId).length >= said.length);
    assert.deepEqual(decrypted(bob, roomId), said);
}
