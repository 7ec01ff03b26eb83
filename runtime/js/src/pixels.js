// Pixels to RGB, and upright. docs/images.md has the rule with its cases.

import { ImageError } from "./errors.js";

// EXIF's types of whole numbers in 16 and 32 bits.
const LONG = new Set([4, 9]);
const WHOLE = new Set([3, 8, ...LONG]);

/**
 * Return RGB bytes: grey is repeated, and what is clear is laid over white.
 *
 * @param {import("./index.d.ts").Image} image
 * @param {string} [name] stands for it in messages
 * @returns {Uint8Array | Uint8ClampedArray} height * width * 3 bytes; the image's own where they are RGB already
 */
export function toRgb(image, name = "the image") {
  const channels = channelsOf(image, name);
  const { data } = image;
  if (channels === 3) return data;
  const count = image.width * image.height;
  const out = new Uint8ClampedArray(count * 3);
  const colours = channels > 2 ? 3 : 1;
  for (let pixel = 0; pixel < count; pixel++) {
    const from = pixel * channels;
    const alpha = channels === 4 || channels === 2 ? data[from + colours] : 255;
    for (let channel = 0; channel < 3; channel++) {
      const value = data[from + (colours === 3 ? channel : 0)];
      // The nearest byte; 255 is odd, so that no half comes up.
      out[pixel * 3 + channel] = alpha === 255 ? value : Math.round((value * alpha + 255 * (255 - alpha)) / 255);
    }
  }
  return out;
}

/**
 * Turn an image upright that EXIF says is stored otherwise.
 *
 * @param {import("./index.d.ts").Image} image
 * @param {number} orientation 1 to 8, as EXIF has it; any other is 1
 * @returns {import("./index.d.ts").Image}
 */
export function upright(image, orientation) {
  const channels = channelsOf(image, "the image");
  if (!Number.isInteger(orientation) || orientation < 2 || orientation > 8) return image;
  const { data, width, height } = image;
  const [newWidth, newHeight] = orientation >= 5 ? [height, width] : [width, height];
  const out = new Uint8ClampedArray(data.length);
  for (let y = 0; y < newHeight; y++) {
    for (let x = 0; x < newWidth; x++) {
      // Where the pixel at (x, y) is stored: 5 to 8 exchange rows and columns.
      let [column, row] = orientation >= 5 ? [y, x] : [x, y];
      if ([2, 3, 7, 8].includes(orientation)) column = width - 1 - column;
      if ([3, 4, 6, 7].includes(orientation)) row = height - 1 - row;
      const from = (row * width + column) * channels;
      const to = (y * newWidth + x) * channels;
      for (let channel = 0; channel < channels; channel++) out[to + channel] = data[from + channel];
    }
  }
  return { data: out, width: newWidth, height: newHeight };
}

/**
 * Return the orientation that a JPEG's EXIF tells, 1 to 8; 1 where it has none, or a damaged one.
 * @param {Uint8Array} bytes of the file
 */
export function exifOrientation(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  try {
    if (view.getUint16(0) !== 0xffd8) return 1;
    for (let at = 2; view.getUint8(at) === 0xff; ) {
      const marker = view.getUint8(at + 1);
      if (marker === 0xff) {
        at++; // any number of them may stand before a marker
        continue;
      }
      if (marker === 0xda || marker === 0xd9) return 1;
      const isExif = marker === 0xe1 && view.getUint32(at + 4) === 0x45786966 && view.getUint16(at + 8) === 0;
      if (isExif) return orientationOf(view, at + 10);
      at += 2 + view.getUint16(at + 2);
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // it ends before it should
  }
  return 1;
}

/** @param {DataView} view @param {number} start of the TIFF header */
function orientationOf(view, start) {
  const order = view.getUint16(start);
  const little = order === 0x4949;
  if ((!little && order !== 0x4d4d) || view.getUint16(start + 2, little) !== 42) return 1;
  const entries = start + view.getUint32(start + 4, little);
  const count = view.getUint16(entries, little);
  for (let index = 0; index < count; index++) {
    const entry = entries + 2 + index * 12;
    if (view.getUint16(entry, little) !== 0x0112) continue;
    const type = view.getUint16(entry + 2, little);
    if (!WHOLE.has(type) || view.getUint32(entry + 4, little) === 0) return 1;
    const value = LONG.has(type) ? view.getUint32(entry + 8, little) : view.getUint16(entry + 8, little);
    return value >= 1 && value <= 8 ? value : 1;
  }
  return 1;
}

/** @param {import("./index.d.ts").Image} image @param {string} name */
function channelsOf(image, name) {
  const { data, width, height } = image ?? {};
  const isSide = (/** @type {unknown} */ side) => Number.isInteger(side) && Number(side) > 0;
  if (!(data instanceof Uint8Array || data instanceof Uint8ClampedArray) || !isSide(width) || !isSide(height)) {
    const found = data === undefined ? "no data" : `${data?.constructor?.name} and ${width} x ${height}`;
    throw new ImageError(`${name} has ${found}; expected {data, width, height}, data a Uint8Array or Uint8ClampedArray, as ImageData`);
  }
  const channels = data.length / (width * height);
  if (![1, 2, 3, 4].includes(channels)) {
    throw new ImageError(
      `${name} has ${data.length} bytes for ${width} x ${height} pixels; expected 3 (RGB) or 4 (RGBA) a pixel, or 1 (grey) or 2 (grey and alpha)`,
    );
  }
  return channels;
}
