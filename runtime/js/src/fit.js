// Any image to height x width: scaled with Lanczos until both are covered, and the centre cut out. docs/images.md.

import { ImageError } from "./errors.js";
import { resize } from "./lanczos.js";
import { toRgb } from "./pixels.js";

// Times the height or the width; a longer strip is cropped while it is resized.
const LONG_SIDE_LIMIT = 8;

/**
 * Fit an image by the official rule -> height * width * 3 bytes, RGB.
 *
 * @param {import("./index.d.ts").Image} image
 * @param {number} height
 * @param {number} width
 * @param {string} [name] stands for it in messages
 * @returns {Uint8Array | Uint8ClampedArray}
 */
export function fit(image, height, width, name = "the image") {
  const rgb = toRgb(image, name);
  const from = [image.width, image.height];
  const target = [width, height];
  if (from[0] === width && from[1] === height) return rgb;
  const whole = covering(from, target);
  const [left, top] = whole.map((side, axis) => roundHalfToEven((side - target[axis]) / 2));
  if (whole.some((side, axis) => side > LONG_SIDE_LIMIT * target[axis])) {
    const [across, down] = whole.map((side, axis) => from[axis] / side);
    return resize(rgb, from[0], from[1], width, height, [
      left * across, top * down, (left + width) * across, (top + height) * down,
    ]);
  }
  const same = whole[0] === from[0] && whole[1] === from[1];
  const scaled = same ? rgb : resize(rgb, from[0], from[1], whole[0], whole[1]);
  return crop(scaled, whole[0], left, top, width, height);
}

/**
 * Return the smallest size that keeps an image's aspect and covers `target`, both [width, height].
 * @param {number[]} size
 * @param {number[]} target
 */
export function covering(size, target) {
  const tight = target[1] * size[0] > target[0] * size[1] ? 1 : 0;
  return size.map((side) => Math.trunc((target[tight] * side) / size[tight]));
}

/** @param {number} value a whole number or a half, 0 or more */
function roundHalfToEven(value) {
  const low = Math.floor(value);
  return value === low ? low : low + (low % 2);
}

/**
 * @param {Uint8Array | Uint8ClampedArray} data
 * @param {number} stride
 * @param {number} left
 * @param {number} top
 * @param {number} width
 * @param {number} height
 */
function crop(data, stride, left, top, width, height) {
  const out = new Uint8ClampedArray(height * width * 3);
  for (let row = 0; row < height; row++) {
    const from = ((top + row) * stride + left) * 3;
    out.set(data.subarray(from, from + width * 3), row * width * 3);
  }
  return out;
}

/**
 * Return images as one batch, B * height * width * 3 bytes.
 *
 * @param {import("./index.d.ts").Image[]} images
 * @param {number} height
 * @param {number} width
 * @param {number} start the number of the first, for messages
 */
export function batch(images, height, width, start) {
  const out = new Uint8Array(images.length * height * width * 3);
  images.forEach((image, index) => {
    out.set(fit(image, height, width, `images[${start + index}]`), index * height * width * 3);
  });
  return out;
}

/**
 * Raise ImageError unless these are images, one at least.
 * @param {unknown} images
 */
export function checkImages(images) {
  if (!Array.isArray(images)) {
    const one = images !== null && typeof images === "object" && "data" in images;
    const found = one ? "one image" : images === null ? "null" : typeof images;
    throw new ImageError(`images is ${found}; expected an array of images: ${one ? "put it in brackets, [image]" : "[{data, width, height}]"}`);
  }
  if (images.length === 0) throw new ImageError("the batch is empty; pass at least one image");
}
