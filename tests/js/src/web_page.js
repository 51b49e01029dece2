// Serves the web client on loopback.

import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const HERE = fileURLToPath(new URL("..", import.meta.url));
const HYDROGEN = join(HERE, "node_modules", "hydrogen-view-sdk");
const FOLDERS = {
    assets: join(HYDROGEN, "asset-build", "assets"),
    olm: join(HERE, "node_modules", "@matrix-org", "olm"),
};
const TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".woff2": "font/woff2",
};

/** The page's script with the packages that it stands on, as one module. */
async function bundle() {
    const options = { bundle: true, format: "esm", target: "es2022", write: false, logLevel: "silent" };
    // The end-to-end library is loaded by the client itself; it only looks for these when it runs under Node.
    const external = ["fs", "path", "crypto"];
    const { outputFiles } = await build({ ...options, external, entryPoints: [join(HERE, "web", "page.js")] });
    return outputFiles[0].contents;
}

/** Serves the client, which offers a login at this homeserver; returns the page's URL. */
export async function servePage(homeserver) {
    const made = new Map([
        ["/page.js", await bundle()],
        ["/config.json", JSON.stringify({ defaultHomeServer: homeserver })],
        ["/sw.js", await readFile(join(HYDROGEN, "lib-build", "sw.js"))],
        ["/index.html", await readFile(join(HERE, "web", "index.html"))],
    ]);
    const server = createServer(async (request, response) => {
        const asked = new URL(request.url, "http://localhost").pathname;
        const pathname = asked === "/" ? "/index.html" : asked;
        const [, folder, ...rest] = normalize(pathname).split(sep);
        try {
            const known = made.get(pathname);
            const bytes = known ?? (await readFile(join(FOLDERS[folder], ...rest)));
            const type = TYPES[extname(pathname)] ?? "application/octet-stream";
            response.writeHead(200, { "Content-Type": type }).end(bytes);
        } catch {
            response.writeHead(404).end();
        }
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return `http://127.0.0.1:${server.address().port}/`;
}
