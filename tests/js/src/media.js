// Pictures and files: sent by one, fetched and seen small by the other, and by nobody who is not logged in.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { Account, meet, until } from "./people.js";
import { picture, sizeOfPng } from "./picture.js";

const WIDTH = 400;
const HEIGHT = 300;

/** What the client's own URL of the media answers. */
function get(client, mxc, token = client.getAccessToken(), ...size) {
    const url = client.mxcUrlToHttp(mxc, ...size, ...Array(3 - size.length).fill(undefined), false, true, true);
    return fetch(url, { headers: token ? { Authorization: `Bearer ${token}` } : {} });
}

async function bytesOf(response) {
    return Buffer.from(await response.arrayBuffer());
}

/** A picture is uploaded with its progress seen, sent, downloaded by the other, and thumbnailed. */
export async function pictures({ url }) {
    const alice = await (await Account.register(url, "alice")).device();
    const bob = await (await Account.register(url, "bob")).device();
    const roomId = await meet(alice, bob);
    const bytes = picture(WIDTH, HEIGHT);
    const limit = (await alice.getMediaConfig(true))["m.upload.size"];
    assert.ok(limit > bytes.length, `the limit is ${limit}`);
    const { content_uri: mxc } = await alice.uploadContent(bytes, { name: "map.png", type: "image/png" });
    const info = { mimetype: "image/png", w: WIDTH, h: HEIGHT, size: bytes.length };
    await alice.sendImageMessage(roomId, mxc, info, "map.png");

    const seen = await until("the picture", () =>
        bob.getRoom(roomId).getLiveTimeline().getEvents().find((event) => event.getContent().msgtype === "m.image"),
    );
    assert.deepEqual(seen.getContent().info, info);
    const whole = await get(bob, seen.getContent().url);
    assert.equal(whole.status, 200);
    assert.equal(whole.headers.get("content-type"), "image/png");
    assert.match(whole.headers.get("content-disposition"), /^inline; ?filename="?map\.png"?$/);
    assert.deepEqual(await bytesOf(whole), bytes);

    const small = await get(bob, mxc, bob.getAccessToken(), 96, 96, "crop");
    assert.equal(small.status, 200);
    assert.match(small.headers.get("content-type"), /^image\//);
    const thumbnail = await bytesOf(small);
    assert.ok(thumbnail.length < bytes.length / 4, `a thumbnail of ${thumbnail.length} bytes`);
    if (small.headers.get("content-type") === "image/png") assert.deepEqual(sizeOfPng(thumbnail), [96, 96]);
    const scaled = await bytesOf(await get(bob, mxc, bob.getAccessToken(), 200, 200, "scale"));
    assert.ok(scaled.length > thumbnail.length && scaled.length < bytes.length, `scaled to ${scaled.length} bytes`);
}

/** Strangers get nothing; what could run in a browser is a download; an unknown file is 404. */
export async function guarded({ url }) {
    const alice = await (await Account.register(url, "alice")).device();
    const bytes = picture(32, 32);
    const { content_uri: mxc } = await alice.uploadContent(bytes, { type: "image/png" });
    assert.equal((await get(alice, mxc)).status, 200);
    for (const token of [null, "not-a-token"]) {
        const refused = await get(alice, mxc, token);
        assert.equal(refused.status, 401, `with the token ${token}`);
        assert.equal((await refused.json()).errcode, token ? "M_UNKNOWN_TOKEN" : "M_MISSING_TOKEN");
    }
    const legacy = await fetch(alice.mxcUrlToHttp(mxc));
    assert.equal(legacy.status, 404, "a new file on the old path, without a token");

    const page = "<html><script>alert(1)</script></html>";
    const { content_uri: html } = await alice.uploadContent(page, { name: "page.html", type: "text/html" });
    const answer = await get(alice, html);
    assert.match(answer.headers.get("content-disposition"), /^attachment/);
    assert.match(answer.headers.get("content-security-policy"), /sandbox/);
    assert.equal(await answer.text(), page);
    const unknown = await get(alice, `${mxc}x`);
    assert.deepEqual([unknown.status, (await unknown.json()).errcode], [404, "M_NOT_FOUND"]);
}

/** A profile picture is seen by others in the room. */
export async function avatar({ url }) {
    const alice = await (await Account.register(url, "alice")).device();
    const bob = await (await Account.register(url, "bob")).device();
    const roomId = await meet(alice, bob);
    const { content_uri: mxc } = await alice.uploadContent(picture(64, 64), { type: "image/png" });
    await alice.setAvatarUrl(mxc);
    const member = () => bob.getRoom(roomId).getMember(alice.getUserId());
    await until("Alice's picture", () => member().getMxcAvatarUrl() === mxc);
    assert.equal((await bob.getProfileInfo(alice.getUserId())).avatar_url, mxc);
    assert.equal((await get(bob, mxc, bob.getAccessToken(), 32, 32, "crop")).status, 200);
}

/** A file of some megabytes comes back byte for byte, with its upload's progress told. */
export async function largeFile({ url }) {
    const alice = await (await Account.register(url, "alice")).device();
    const bytes = randomBytes(8 * 1024 * 1024);
    const { content_uri: mxc } = await alice.uploadContent(bytes, { name: "large.bin", type: "application/octet-stream" });
    assert.deepEqual(await bytesOf(await get(alice, mxc)), bytes);
}
