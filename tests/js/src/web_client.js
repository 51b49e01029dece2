// A web client in a browser: Hydrogen, all of it, in Debian's Chromium, used through its screens as its users do.

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { Account, until } from "./people.js";
import { picture } from "./picture.js";
import { servePage } from "./web_page.js";

const DEADLINE_MS = 60_000;
// How much of what a browser has complained of is told of a failure.
const COMPLAINTS = 10;
const BROWSER = process.env.CHROMIUM ?? "/usr/bin/chromium";
// Nothing is looked up, updated or reported anywhere else.
const QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];
const COLORS = { red: [220, 20, 30], green: [20, 200, 40], blue: [30, 40, 210], yellow: [230, 210, 20] };

/** Somebody who looks at the client in a browser of their own. */
class Person {
    static async create(browser, account) {
        const context = await browser.newContext();
        context.setDefaultTimeout(DEADLINE_MS);
        return new Person(await context.newPage(), account);
    }

    constructor(page, account) {
        Object.assign(this, { page, account, complaints: [] });
        page.on("console", (message) => this.complaints.push(message.text()));
        page.on("pageerror", (error) => this.complaints.push(String(error)));
    }

    async logIn(address) {
        await this.page.goto(address);
        await this.page.fill("#username", this.account.userId);
        await this.page.fill("#password", this.account.password);
        await this.page.click("text=Log In");
        await this.page.waitForSelector(".LeftPanel");
    }

    /** Makes a private, encrypted room and opens it; returns its ID. */
    async createRoom(name) {
        await this.page.click("button.create");
        await this.page.click("text=Create Room");
        await this.page.fill(".CreateRoomView #name", name);
        await this.page.check("#isEncrypted");
        await this.page.click(".CreateRoomView button[type=submit]");
        // On its own way to the new room the client ends at an error of its own: it looks for a room called `true`.
        await until("the room is open", async () => {
            await this.open(name);
            return /room\/!/.test(decodeURIComponent(this.page.url())) && (await this.page.isVisible(".MessageComposer"));
        });
        return decodeURIComponent(this.page.url()).match(/room\/(![^/]+)/)[1];
    }

    tile(name) {
        return this.page.locator(".RoomList li").filter({ hasText: name });
    }

    async open(name) {
        await this.tile(name).click();
    }

    async closeRoom() {
        // The link is there for narrow screens only.
        await this.page.dispatchEvent(".RoomHeader .close-middle", "click");
        await this.page.waitForSelector(".RoomView", { state: "detached" });
    }

    async say(text) {
        await this.page.fill(".MessageComposer textarea", text);
        await this.page.press(".MessageComposer textarea", "Enter");
    }

    async sees(text) {
        await this.page.locator(".Timeline_messageBody").filter({ hasText: text }).waitFor();
    }

    /** Everything that the timeline shows as said. */
    async shown() {
        const time = /\d\d?:\d\d [AP]M$/;
        return (await this.page.locator(".Timeline_messageBody").allInnerTexts()).map((text) => text.replace(time, "").trim());
    }

    async badge(name) {
        const badges = await this.tile(name).locator(".badge:not(.hidden)").allInnerTexts();
        return badges[0] ?? null;
    }

    /** Sends a picture from a file. */
    async sendPicture(name, bytes) {
        await this.page.click(".MessageComposer button.sendFile");
        const [chooser] = await Promise.all([this.page.waitForEvent("filechooser"), this.page.click("text=Send picture")]);
        await chooser.setFiles({ name, mimeType: "image/png", buffer: bytes });
    }

    /** The colors in the middle of the four quarters of the picture in the timeline, and its own size. */
    async seesPicture(name) {
        const image = this.page.locator(`.Timeline_messageBody img[alt="${name}"]`);
        await image.waitFor();
        await until("the picture is loaded", () => image.evaluate((img) => img.complete && img.naturalWidth > 0));
        return image.evaluate(quarters);
    }

    /** The same of the picture in full size, as its own view shows it. */
    async opensPicture(name) {
        await this.page.click(`.Timeline_messageBody a:has(img[alt="${name}"])`);
        const view = this.page.locator(".lightbox .picture:not(.hidden)");
        await view.waitFor();
        const source = await view.evaluate((element) => getComputedStyle(element).backgroundImage.slice(5, -2));
        const image = await this.page.evaluateHandle(async (src) => {
            const img = new Image();
            img.src = src;
            await img.decode();
            return img;
        }, source);
        return image.evaluate(quarters);
    }
}

/** Runs in the page. */
function quarters(img) {
    const [width, height] = [img.naturalWidth, img.naturalHeight];
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.drawImage(img, 0, 0);
    const at = (x, y) => [...context.getImageData(x * width, y * height, 1, 1).data.slice(0, 3)];
    return { width, height, colors: [at(0.25, 0.25), at(0.75, 0.25), at(0.25, 0.75), at(0.75, 0.75)] };
}

function alike(colors, expected) {
    // Thumbnails are JPEGs, which keep a color only about.
    const near = (color, wanted) => color.every((value, index) => Math.abs(value - wanted[index]) <= 12);
    assert.ok(colors.every((color, index) => near(color, expected[index])), `the colors are ${JSON.stringify(colors)}`);
}

/** What the server holds of the room: as a client sees it that cannot decrypt anything. */
async function held(account, roomId) {
    const client = await account.login();
    const { chunk } = await client.createMessagesRequest(roomId, null, 100, "b");
    return chunk;
}

/** Alice and Bob use the client, each in a browser context of their own. */
async function withBrowser(url, scene) {
    const address = await servePage(url);
    const browser = await chromium.launch({ executablePath: BROWSER, args: QUIET });
    const people = [];
    try {
        for (const name of ["alice", "bob"]) people.push(await Person.create(browser, await Account.register(url, name)));
        for (const person of people) await person.logIn(address);
        await scene(...people);
    } catch (error) {
        error.complaints = people.map((person) => person.complaints.slice(-COMPLAINTS));
        await photograph(people);
        throw error;
    } finally {
        await browser.close();
    }
}

/** Keeps what was on the screens, if somebody wants to see it. */
async function photograph(people) {
    const folder = process.env.SCREENSHOTS;
    if (!folder) return;
    await mkdir(folder, { recursive: true });
    for (const [number, { page }] of people.entries()) await page.screenshot({ path: join(folder, `${number}.png`) });
}

/** A room that Alice makes and Bob accepts: both are in it, and have it open. */
async function meetInBrowser(alice, bob, name) {
    const roomId = await alice.createRoom(name);
    await alice.say(`/invite ${bob.account.userId}`);
    await bob.open(name);
    await bob.page.click("text=Accept");
    await bob.page.waitForSelector(".RoomView .MessageComposer");
    await alice.page.locator(".AnnouncementView").filter({ hasText: "joined the room" }).last().waitFor();
    return roomId;
}

/** Log in, an encrypted conversation, unread badges; a reloaded page has all of it, and so has one whose server was killed. */
export async function chat({ url, restart }) {
    await withBrowser(url, async (alice, bob) => {
        const roomId = await meetInBrowser(alice, bob, "The cave");
        await alice.say("dig under the palm");
        await bob.sees("dig under the palm");
        await bob.say("with a spade?");
        await alice.sees("with a spade?");
        const events = await held(alice.account, roomId);
        assert.ok(events.filter((event) => event.type === "m.room.encrypted").length >= 2);
        assert.ok(!events.some((event) => event.type === "m.room.message"), "something was sent in the clear");
        assert.ok(!/palm|spade/.test(JSON.stringify(events)), "the server can read it");

        await bob.closeRoom();
        assert.equal(await bob.badge("The cave"), null);
        await alice.say("with two");
        await until("a badge", async () => (await bob.badge("The cave")) === "1");
        await bob.open("The cave");
        await bob.sees("with two");
        await until("no badge", async () => (await bob.badge("The cave")) === null);

        await bob.page.reload();
        await bob.sees("with two");
        assert.deepEqual((await bob.shown()).slice(-3), ["dig under the palm", "with a spade?", "with two"]);

        await restart();
        await alice.say("is anybody there?");
        await bob.sees("is anybody there?");
        await bob.say("again, yes");
        await alice.sees("again, yes");
        const said = ["dig under the palm", "with a spade?", "with two", "is anybody there?", "again, yes"];
        for (const person of [alice, bob]) assert.deepEqual((await person.shown()).slice(-said.length), said);
    });
}

/** A picture is sent in an encrypted room and seen by the other, small in the timeline and in full; the server cannot see it. */
export async function pictureSeen({ url }) {
    await withBrowser(url, async (alice, bob) => {
        const roomId = await meetInBrowser(alice, bob, "The gallery");
        const { red, green, blue, yellow } = COLORS;
        const expected = [red, green, blue, yellow];
        const quarter = (x, y) => expected[(x < 500 ? 0 : 1) + (y < 400 ? 0 : 2)];
        const bytes = picture(1000, 800, quarter);
        await alice.sendPicture("flag.png", bytes);
        const small = await bob.seesPicture("flag.png");
        alike(small.colors, expected);
        assert.ok(small.width < 1000, `a thumbnail of ${small.width} pixels`);
        const whole = await bob.opensPicture("flag.png");
        assert.deepEqual(whole, { width: 1000, height: 800, colors: expected });
        const events = await held(alice.account, roomId);
        assert.ok(events.some((event) => event.type === "m.room.encrypted"));
        assert.ok(!/m\.image|flag\.png|mxc:/.test(JSON.stringify(events)), "the server can read of it");
    });
}
