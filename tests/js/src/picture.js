// Pictures, made here: no file is needed.

import { randomBytes } from "node:crypto";
import { crc32, deflateSync } from "node:zlib";

function chunk(type, data) {
    const body = Buffer.concat([Buffer.from(type, "latin1"), data]);
    const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
    length.writeUInt32BE(data.length);
    sum.writeUInt32BE(crc32(body));
    return Buffer.concat([length, body, sum]);
}

/** A PNG of this size, 8 bits of red, green and blue: what `color` says of a pixel, or any. */
export function picture(width, height, color = () => randomBytes(3)) {
    const header = Buffer.alloc(13);
    header.writeUInt32BE(width, 0);
    header.writeUInt32BE(height, 4);
    header.set([8, 2, 0, 0, 0], 8);
    const rows = Array.from({ length: height }, (_, y) => {
        const row = Buffer.alloc(1 + 3 * width);
        for (let x = 0; x < width; x++) row.set(color(x, y), 1 + 3 * x);
        return row;
    });
    return Buffer.concat([
        Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]),
        chunk("IHDR", header),
        chunk("IDAT", deflateSync(Buffer.concat(rows))),
        chunk("IEND", Buffer.alloc(0)),
    ]);
}

/** Width and height, as a PNG's header says. */
export function sizeOfPng(bytes) {
    return [bytes.readUInt32BE(16), bytes.readUInt32BE(20)];
}
