// Runs one scenario with clients of the published matrix-js-sdk against a homeserver that runs already:
//
//     node src/main.js SCENARIO URL
//
// tests/acceptance/js_sdk.py runs all of them. The server must be open for registration, with passwords and without rate
// limits. JS_SDK_LOG=1 shows what the SDK does. A scenario that wants the server killed and started again says so on the
// standard output, as one line `restart`, and goes on when it reads a line.

import { createInterface } from "node:readline";
import { format } from "node:util";
import * as badges from "./badges.js";
import * as encryption from "./encryption.js";
import * as history from "./history.js";
import * as media from "./media.js";
import * as reconnect from "./reconnect.js";
import * as rooms from "./rooms.js";
import * as threads from "./threads.js";
import * as webClient from "./web_client.js";

const SCENARIOS = {
    "rooms-at-first": rooms.initial,
    "rooms-afterwards": rooms.incremental,
    "scroll-back": history.scrollBack,
    "gap": history.gap,
    "permalink": history.permalink,
    "badge-of-a-room": badges.room,
    "badge-of-a-thread": badges.thread,
    "badge-by-rules": badges.rules,
    "pictures": media.pictures,
    "guarded-media": media.guarded,
    "avatar": media.avatar,
    "large-file": media.largeFile,
    "thread": threads.conversation,
    "list-of-threads": threads.list,
    "edits-and-reactions": threads.aggregations,
    "encrypted-talk": encryption.bothWays,
    "encrypted-badge": encryption.badge,
    "recovery": encryption.recovery,
    "late-key": encryption.lateKey,
    "reconnect": reconnect.plain,
    "encrypted-reconnect": reconnect.secret,
    "web-chat": webClient.chat,
    "web-picture": webClient.pictureSeen,
};

// What the SDK has to say is wanted only when somebody looks for a fault, and never on the standard output.
const silent = () => {};
for (const method of ["debug", "error", "info", "log", "trace", "warn"]) {
    console[method] = process.env.JS_SDK_LOG ? (...words) => process.stderr.write(`${format(...words)}\n`) : silent;
}
const complain = (...words) => process.stderr.write(`${format(...words)}\n`);

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

async function restart() {
    process.stdout.write("restart\n");
    if ((await answers.next()).done) throw new Error("nobody restarts the server");
}

const [name, url] = process.argv.slice(2);
if (!SCENARIOS[name] || !url) {
    complain(`usage: main.js SCENARIO URL\nscenarios: ${Object.keys(SCENARIOS).join(" ")}`);
    process.exit(2);
}
// What a scenario did not expect must not go unnoticed behind its back.
let status = 0;
process.on("unhandledRejection", (error) => {
    complain("not awaited:", error);
    status = 1;
});
try {
    await SCENARIOS[name]({ url, restart });
} catch (error) {
    complain(error);
    status = 1;
}
// The clients' syncs still run.
process.exit(status);
