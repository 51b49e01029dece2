// Encryption on: what two users say is read by them and by nobody else, the server included.

import assert from "node:assert/strict";
import { MatrixEventEvent } from "matrix-js-sdk";
import { decodeRecoveryKey } from "matrix-js-sdk/lib/crypto-api/index.js";
import { Account, inRoom, meet, messages, until } from "./people.js";

const encrypted = {
    initial_state: [
        { type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } },
    ],
};

/** A room of the two in which both will encrypt. */
export async function meetInSecret(alice, bob) {
    const roomId = await meet(alice, bob, encrypted);
    for (const client of [alice, bob]) {
        await until("the room is encrypted", () => client.getCrypto().isEncryptionEnabledInRoom(roomId));
    }
    return roomId;
}

/** What a client has decrypted in the room, oldest first. */
export function decrypted(client, roomId) {
    const events = client.getRoom(roomId).getLiveTimeline().getEvents();
    return messages(events.filter((event) => event.isEncrypted() && !event.isDecryptionFailure()));
}

/** Sends a text, and checks that the server holds ciphertext. */
async function say(client, roomId, text) {
    const { event_id: eventId } = await client.sendTextMessage(roomId, text);
    const held = await client.fetchRoomEvent(roomId, eventId);
    assert.equal(held.type, "m.room.encrypted");
    assert.ok(!JSON.stringify(held).includes(text), "the server can read it");
    return eventId;
}

function reads(client, roomId, text) {
    return until(`${client.getUserId()} decrypts ${JSON.stringify(text)}`, () => decrypted(client, roomId).includes(text));
}

/** Both read what the other says, also on a device that Bob has added meanwhile; it cannot read what was before it. */
export async function bothWays({ url }) {
    const bobs = await Account.register(url, "bob");
    const alice = await (await Account.register(url, "alice")).encryptingDevice();
    const bob = await bobs.encryptingDevice();
    const roomId = await meetInSecret(alice, bob);
    const first = await say(alice, roomId, "the first secret");
    await reads(bob, roomId, "the first secret");
    await say(bob, roomId, "the answer");
    await reads(alice, roomId, "the answer");

    const laptop = await bobs.encryptingDevice();
    await inRoom(laptop, roomId);
    await until("Alice knows the laptop", async () => {
        const devices = await alice.getCrypto().getUserDeviceInfo([bobs.userId]);
        return devices.get(bobs.userId)?.has(laptop.getDeviceId());
    });
    await say(alice, roomId, "for both devices");
    for (const client of [bob, laptop]) await reads(client, roomId, "for both devices");
    const unreadable = laptop.getRoom(roomId).findEventById(first);
    await until("it is tried", () => unreadable.isDecryptionFailure());
    assert.deepEqual(decrypted(laptop, roomId).filter((text) => text === "the first secret"), []);
}

/** A mention in an encrypted room is a highlight once the client has read it; until then the server counts a message. */
export async function badge({ url }) {
    const bobs = await Account.register(url, "bob");
    const [alice, bob] = [await (await Account.register(url, "alice")).encryptingDevice(), await bobs.encryptingDevice()];
    const roomId = await meetInSecret(alice, bob);
    const content = { "msgtype": "m.text", "body": "Bob, look", "m.mentions": { user_ids: [bobs.userId] } };
    const { event_id: eventId } = await alice.sendEvent(roomId, "m.room.message", content);
    await reads(bob, roomId, "Bob, look");
    const room = bob.getRoom(roomId);
    await until("the counts", () => room.getUnreadNotificationCount("total") === 1 && room.getUnreadNotificationCount("highlight") === 1);
    await bob.sendReadReceipt(room.findEventById(eventId));
    const laptop = await bobs.device();
    assert.equal(laptop.getRoom(roomId).getUnreadNotificationCount("total"), 0);
}

/** A client with secret storage, and the key that opens it. */
class Vault {
    callbacks = {
        getSecretStorageKey: async ({ keys }) => this.key && [Object.keys(keys)[0], this.key],
        cacheSecretStorageKey: (_id, _info, key) => (this.key = key),
    };
}

/** Waits until a client sees its own device signed by its user's identity, which it trusts. */
function verified(client) {
    return until("the device is signed", async () => {
        const status = await client.getCrypto().getDeviceVerificationStatus(client.getUserId(), client.getDeviceId());
        return status.crossSigningVerified;
    });
}

/** Cross-signing, secret storage and a backup are set up; a new device opens them with the recovery key and reads what
 * the lost one could. */
export async function recovery({ url }) {
    const account = await Account.register(url, "alice");
    const bob = await (await Account.register(url, "bob")).encryptingDevice();
    const vault = new Vault();
    const lost = await account.encryptingDevice({ cryptoCallbacks: vault.callbacks });
    const roomId = await meetInSecret(lost, bob);
    await say(bob, roomId, "before the backup");
    await reads(lost, roomId, "before the backup");

    const crypto = lost.getCrypto();
    await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: account.authenticate });
    await verified(lost);
    const recoveryKey = await crypto.createRecoveryKeyFromPassphrase();
    await crypto.bootstrapSecretStorage({
        createSecretStorageKey: async () => recoveryKey,
        setupNewSecretStorage: true,
        setupNewKeyBackup: true,
    });
    assert.ok(await crypto.isSecretStorageReady());
    await say(lost, roomId, "after the backup");
    await reads(bob, roomId, "after the backup");
    // Not `getKeyBackupInfo`, which answers from the SDK's memory.
    const held = async () => (await lost.http.authedRequest("GET", "/room_keys/version")).count;
    await until("both room keys are in the backup", async () => (await held()) >= 2);
    await until("Bob sees a signed device", async () => {
        const seen = await bob.getCrypto().getDeviceVerificationStatus(account.userId, lost.getDeviceId());
        return seen?.signedByOwner;
    });
    await lost.logout(true);

    const newVault = new Vault();
    const fresh = await account.encryptingDevice({ cryptoCallbacks: newVault.callbacks });
    const room = await inRoom(fresh, roomId);
    const failed = () => room.getLiveTimeline().getEvents().filter((event) => event.isDecryptionFailure()).length;
    await until("neither message is readable", () => failed() === 2);
    assert.deepEqual(decrypted(fresh, roomId), []);

    newVault.key = decodeRecoveryKey(recoveryKey.encodedPrivateKey);
    assert.equal(await fresh.getCrypto().userHasCrossSigningKeys(account.userId, true), true);
    await fresh.getCrypto().bootstrapCrossSigning({});
    await verified(fresh);
    await fresh.getCrypto().loadSessionBackupPrivateKeyFromSecretStorage();
    const restored = await fresh.getCrypto().restoreKeyBackup();
    assert.deepEqual([restored.imported, restored.total], [2, 2]);
    for (const text of ["before the backup", "after the backup"]) await reads(fresh, roomId, text);
    await say(fresh, roomId, "from the new device");
    await reads(bob, roomId, "from the new device");
}

/** A message whose key comes later is decrypted when it comes. */
export async function lateKey({ url }) {
    const bobs = await Account.register(url, "bob");
    const alice = await (await Account.register(url, "alice")).encryptingDevice();
    const bob = await bobs.encryptingDevice();
    const roomId = await meetInSecret(alice, bob);
    await say(alice, roomId, "unreadable for the moment");
    await reads(bob, roomId, "unreadable for the moment");
    const keys = await bob.getCrypto().exportRoomKeysAsJson();

    const laptop = await bobs.encryptingDevice();
    const room = await inRoom(laptop, roomId);
    const event = await until("the ciphertext", () => room.getLiveTimeline().getEvents().find((each) => each.isDecryptionFailure()));
    const read = new Promise((resolve) => event.once(MatrixEventEvent.Decrypted, resolve));
    await laptop.getCrypto().importRoomKeysAsJson(keys);
    await read;
    await reads(laptop, roomId, "unreadable for the moment");
}
