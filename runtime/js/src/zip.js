// Archives as NumPy writes them, .npz: written without compression, read with and without.

import { oneLine } from "./errors.js";

const LOCAL = 0x04034b50;
const CENTRAL = 0x02014b50;
const END = 0x06054b50;
// What all entries may unpack to: this, or so many times the archive's own size where it is more.
const MAX_BYTES = 2 ** 28;
const MAX_RATIO = 100;

/**
 * Write a zip archive of stored entries; the same entries give the same bytes.
 * @param {[string, Uint8Array][]} entries
 */
export function writeZip(entries) {
  const names = entries.map(([name]) => new TextEncoder().encode(name));
  const sizes = entries.map(([, data], index) => 30 + names[index].length + data.length);
  const directory = names.reduce((sum, name) => sum + 46 + name.length, 0);
  const bodies = sizes.reduce((sum, size) => sum + size, 0);
  const out = new Uint8Array(bodies + directory + 22);
  const view = new DataView(out.buffer);
  let at = 0;
  let entry = bodies;
  entries.forEach(([, data], index) => {
    const name = names[index];
    const begin = at;
    view.setUint32(at, LOCAL, true);
    describe(view, at + 4, name.length, data);
    out.set(name, at + 30);
    out.set(data, at + 30 + name.length);
    at += sizes[index];
    view.setUint32(entry, CENTRAL, true);
    view.setUint16(entry + 4, 20, true);
    describe(view, entry + 6, name.length, data);
    view.setUint32(entry + 42, begin, true);
    out.set(name, entry + 46);
    entry += 46 + name.length;
  });
  view.setUint32(entry, END, true);
  view.setUint16(entry + 8, entries.length, true);
  view.setUint16(entry + 10, entries.length, true);
  view.setUint32(entry + 12, directory, true);
  view.setUint32(entry + 16, bodies, true);
  return out;
}

/** What both headers of an entry have in common. @param {DataView} view @param {number} at @param {number} name @param {Uint8Array} data */
function describe(view, at, name, data) {
  view.setUint16(at, 20, true); // version 2.0
  view.setUint16(at + 2, 0x0800, true); // names in UTF-8
  view.setUint16(at + 8, (1 << 5) | 1, true); // 1 January 1980: no time of its own
  view.setUint32(at + 10, crc32(data), true);
  view.setUint32(at + 14, data.length, true);
  view.setUint32(at + 18, data.length, true);
  view.setUint16(at + 22, name, true);
}

/**
 * Read a zip archive. Raises Error, in words to follow the file's name.
 * @param {Uint8Array} bytes
 * @returns {Promise<Map<string, Uint8Array>>}
 */
export async function readZip(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let end = bytes.length - 22;
  while (end >= 0 && view.getUint32(end, true) !== END) end--;
  if (end < 0) throw new Error("is no .npz archive, or it is truncated");
  /** @type {Map<string, Uint8Array>} */
  const out = new Map();
  let entry = view.getUint32(end + 16, true);
  let total = 0;
  for (let left = view.getUint16(end + 10, true); left > 0; left--) {
    if (entry + 46 > end || view.getUint32(entry, true) !== CENTRAL) throw new Error("has a damaged list of contents");
    const method = view.getUint16(entry + 10, true);
    const crc = view.getUint32(entry + 16, true);
    const [packed, size] = [view.getUint32(entry + 20, true), view.getUint32(entry + 24, true)];
    const [name, extra, comment] = [28, 30, 32].map((offset) => view.getUint16(entry + offset, true));
    const local = view.getUint32(entry + 42, true);
    const key = new TextDecoder().decode(bytes.subarray(entry + 46, entry + 46 + name));
    total += size;
    if (total > Math.max(MAX_BYTES, MAX_RATIO * bytes.length)) throw new Error(`would unpack to ${total} bytes and more, far over its own ${bytes.length}`);
    if (local + 30 > end) throw new Error(`has an entry ${key} that lies outside`);
    const begin = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    const data = await unpack(bytes.subarray(begin, begin + packed), method, size, key);
    if (crc32(data) !== crc) throw new Error(`has a damaged entry ${key}`);
    out.set(key, data);
    entry += 46 + name + extra + comment;
  }
  return out;
}

/** @param {Uint8Array} data @param {number} method @param {number} size @param {string} key */
async function unpack(data, method, size, key) {
  if (method === 0) return data;
  if (method !== 8) throw new Error(`has ${key} packed by method ${method}; expected none, or deflate`);
  const stream = new Blob([/** @type {BlobPart} */ (data)]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  const out = new Uint8Array(size);
  let at = 0;
  for (const reader = stream.getReader(); ; ) {
    const { done, value } = await reader.read().catch((/** @type {unknown} */ error) => {
      throw new Error(`has a damaged entry ${key} (${oneLine(error)})`, { cause: error });
    });
    if (done) break;
    if (at + value.length > size) {
      await reader.cancel();
      throw new Error(`has ${key} larger than it says`);
    }
    out.set(value, at);
    at += value.length;
  }
  return out.subarray(0, at);
}

/** @type {Uint32Array | undefined} */
let table;

/** @param {Uint8Array} bytes */
function crc32(bytes) {
  table ??= Uint32Array.from({ length: 256 }, (_, byte) => {
    for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? 0xedb88320 ^ (byte >>> 1) : byte >>> 1;
    return byte;
  });
  let sum = 0xffffffff;
  for (const byte of bytes) sum = table[(sum ^ byte) & 255] ^ (sum >>> 8);
  return ~sum >>> 0;
}
