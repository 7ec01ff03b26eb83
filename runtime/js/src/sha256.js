// SHA-256. Browsers offer it to secure pages alone (https, or localhost), and a page of a plain file server checks too.

/**
 * Return the SHA-256 of bytes, 64 lower-case hexadecimal digits.
 * @param {Uint8Array} bytes
 */
export async function sha256(bytes) {
  const subtle = globalThis.crypto?.subtle;
  if (subtle === undefined) return sha256InScript(bytes);
  return hex(new Uint8Array(await subtle.digest("SHA-256", /** @type {BufferSource} */ (bytes))));
}

/** @param {Uint8Array} bytes */
const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

/** The first 32 bits of the fractional part of a root of each of the first primes. @param {number} count @param {number} power */
function fractions(count, power) {
  const out = new Uint32Array(count);
  for (let found = 0, number = 2; found < count; number++) {
    let prime = true;
    for (let factor = 2; factor * factor <= number; factor++) prime &&= number % factor !== 0;
    if (prime) out[found++] = integerRoot(BigInt(number) << BigInt(32 * power), power);
  }
  return out;
}

/** The lowest 32 bits of the integer root. @param {bigint} value @param {number} power */
function integerRoot(value, power) {
  let low = 0n;
  for (let bit = 1n << 40n; bit > 0n; bit >>= 1n) if ((low + bit) ** BigInt(power) <= value) low += bit;
  return Number(low & 0xffffffffn);
}

/** @type {[Uint32Array, Uint32Array] | undefined} */
let constants;

/**
 * Return the same without the browser's help.
 * @param {Uint8Array} bytes
 */
export function sha256InScript(bytes) {
  constants ??= [fractions(8, 2), fractions(64, 3)];
  const state = constants[0].slice();
  const whole = bytes.length & ~63;
  for (let at = 0; at < whole; at += 64) block(state, bytes, at, constants[1]);
  const rest = bytes.length - whole;
  const tail = new Uint8Array(rest < 56 ? 64 : 128);
  tail.set(bytes.subarray(whole));
  tail[rest] = 0x80;
  const view = new DataView(tail.buffer);
  view.setUint32(tail.length - 8, Math.floor(bytes.length / 2 ** 29));
  view.setUint32(tail.length - 4, (bytes.length * 8) >>> 0);
  for (let at = 0; at < tail.length; at += 64) block(state, tail, at, constants[1]);
  return Array.from(state, (word) => word.toString(16).padStart(8, "0")).join("");
}

const words = new Uint32Array(64);

/** @param {Uint32Array} state @param {Uint8Array} bytes @param {number} at @param {Uint32Array} table */
function block(state, bytes, at, table) {
  /** @param {number} x @param {number} n */
  const turn = (x, n) => (x >>> n) | (x << (32 - n));
  for (let i = 0; i < 16; i++, at += 4) {
    words[i] = (bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3];
  }
  for (let i = 16; i < 64; i++) {
    const early = words[i - 15];
    const late = words[i - 2];
    const small0 = turn(early, 7) ^ turn(early, 18) ^ (early >>> 3);
    const small1 = turn(late, 17) ^ turn(late, 19) ^ (late >>> 10);
    words[i] = words[i - 16] + small0 + words[i - 7] + small1;
  }
  let [a, b, c, d, e, f, g, h] = state;
  for (let i = 0; i < 64; i++) {
    const big1 = turn(e, 6) ^ turn(e, 11) ^ turn(e, 25);
    const big0 = turn(a, 2) ^ turn(a, 13) ^ turn(a, 22);
    const first = (h + big1 + ((e & f) ^ (~e & g)) + table[i] + words[i]) | 0;
    const second = (big0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    [h, g, f, e, d, c, b, a] = [g, f, e, (d + first) | 0, c, b, a, (first + second) | 0];
  }
  [a, b, c, d, e, f, g, h].forEach((value, i) => (state[i] += value));
}
