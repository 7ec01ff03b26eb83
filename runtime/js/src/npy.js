// Arrays as NumPy writes them: .npy, little-endian and row-major.

/**
 * @typedef {{shape: number[], data: Int32Array | Float32Array | number[] | string[]}} NumpyArray
 */

const MAGIC = "\x93NUMPY";
const MAX_EMPTY = 2 ** 20;

/**
 * Read .npy of float32, of whole numbers or of words. Raises Error, in words to follow the file's name.
 * @param {Uint8Array} bytes
 * @returns {NumpyArray}
 */
export function readNpy(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const latin = new TextDecoder("latin1");
  if (bytes.length < 12 || String.fromCharCode(...bytes.subarray(0, 6)) !== MAGIC) throw new Error("is no .npy array");
  const long = bytes[6] > 1;
  const start = long ? 12 : 10;
  const length = long ? view.getUint32(8, true) : view.getUint16(8, true);
  const header = latin.decode(bytes.subarray(start, start + length));
  const descr = /'descr':\s*'([^']+)'/.exec(header)?.[1] ?? "";
  const sizes = /'shape':\s*\(([\d,\s]*)\)/.exec(header)?.[1];
  if (sizes === undefined || !/'fortran_order':\s*False/.test(header)) throw new Error("is not a row-major array");
  const shape = sizes.split(",").filter((part) => part.trim() !== "").map(Number);
  const count = shape.reduce((product, side) => product * side, 1);
  const width = /^[<|=](?:[iu][1248]|f4|U\d+)$/.test(descr) ? itemSize(descr) : 0;
  if (width === 0 && !/U0$/.test(descr)) throw new Error(`has values of type ${descr || "unknown"}; expected whole numbers, float32 or words`);
  const begin = start + length;
  // Elements of no bytes, and sides beside a side of zero, take no room and yet may be as many as the header says.
  const elements = shape.filter((side) => side > 0).reduce((product, side) => product * side, 1);
  if (elements > Math.max(bytes.length, MAX_EMPTY)) throw new Error(`has more elements than ${bytes.length} bytes can hold: ${elements}`);
  if (bytes.length - begin !== count * width) throw new Error(`has ${bytes.length - begin} bytes of values; expected ${count * width}`);
  if (descr[1] === "U") return { shape, data: words(view, begin, count, width) };
  if (descr[1] === "f") {
    return { shape, data: Float32Array.from({ length: count }, (_, index) => view.getFloat32(begin + 4 * index, true)) };
  }
  return { shape, data: numbers(view, begin, count, width, descr[1] === "i") };
}

/** @param {string} descr */
function itemSize(descr) {
  return descr[1] === "U" ? 4 * Number(descr.slice(2)) : Number(descr.slice(2));
}

/** @param {DataView} view @param {number} begin @param {number} count @param {number} width @param {boolean} signed */
function numbers(view, begin, count, width, signed) {
  return Array.from({ length: count }, (_, index) => {
    const at = begin + index * width;
    if (width === 1) return signed ? view.getInt8(at) : view.getUint8(at);
    if (width === 2) return signed ? view.getInt16(at, true) : view.getUint16(at, true);
    if (width === 4) return signed ? view.getInt32(at, true) : view.getUint32(at, true);
    return Number(signed ? view.getBigInt64(at, true) : view.getBigUint64(at, true));
  });
}

/** @param {DataView} view @param {number} begin @param {number} count @param {number} width */
function words(view, begin, count, width) {
  return Array.from({ length: count }, (_, index) => {
    let word = "";
    for (let at = 0; at < width; at += 4) word += letter(view.getUint32(begin + index * width + at, true));
    return word.replace(/\0+$/, "");
  });
}

/** @param {number} code */
function letter(code) {
  if (code > 0x10ffff) throw new Error(`has a character of number ${code}, which is none`);
  return String.fromCodePoint(code);
}

/**
 * Write .npy.
 * @param {"<i4" | "<i8" | "<U"} type
 * @param {number[]} shape
 * @param {ArrayLike<number> | string[]} values
 */
export function writeNpy(type, shape, values) {
  const letters = type === "<U" ? Array.from(/** @type {string[]} */ (values), (word) => Array.from(word)) : [];
  const longest = Math.max(1, ...letters.map((word) => word.length));
  const descr = type === "<U" ? `<U${longest}` : type;
  const width = itemSize(descr);
  const list = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(", ")})`;
  const text = `{'descr': '${descr}', 'fortran_order': False, 'shape': ${list}, }`;
  const length = Math.ceil((10 + text.length + 1) / 64) * 64 - 10;
  const count = shape.reduce((product, side) => product * side, 1);
  const out = new Uint8Array(10 + length + count * width);
  const view = new DataView(out.buffer);
  const head = `${MAGIC}\x01\x00\x00\x00${text.padEnd(length - 1)}\n`;
  for (let at = 0; at < head.length; at++) out[at] = head.charCodeAt(at);
  view.setUint16(8, length, true);
  const begin = 10 + length;
  for (let index = 0; index < count; index++) {
    const at = begin + index * width;
    if (type === "<U") letters[index].forEach((letter, place) => view.setUint32(at + 4 * place, letter.codePointAt(0) ?? 0, true));
    else if (type === "<i4") view.setInt32(at, /** @type {ArrayLike<number>} */ (values)[index], true);
    else view.setBigInt64(at, BigInt(/** @type {ArrayLike<number>} */ (values)[index]), true);
  }
  return out;
}
