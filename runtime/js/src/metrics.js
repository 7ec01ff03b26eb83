// How alike images are.

import { ImageError } from "./errors.js";
import { toRgb } from "./pixels.js";

/**
 * Return the PSNR of two images of one size in dB; Infinity for identical ones.
 *
 * @param {import("./index.d.ts").Image} a
 * @param {import("./index.d.ts").Image} b
 */
export function psnr(a, b) {
  if (a.width !== b.width || a.height !== b.height) {
    throw new ImageError(`psnr got ${a.width} x ${a.height} and ${b.width} x ${b.height} pixels; expected two images of one size`);
  }
  const [left, right] = [toRgb(a), toRgb(b)];
  let sum = 0;
  for (let at = 0; at < left.length; at++) sum += (left[at] - right[at]) ** 2;
  return sum === 0 ? Infinity : 10 * Math.log10((255 * 255 * left.length) / sum);
}
