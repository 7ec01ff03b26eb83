// What a tokenizer computes: the `spec` object of manifest.json.

import { BundleError } from "./errors.js";

const MAX_SIDE = 8192;
const MAX_TOKENS = 2 ** 22;

/**
 * Read the `spec` object of manifest.json.
 * @param {any} data
 * @returns {Readonly<import("./index.d.ts").Spec>}
 */
export function readSpec(data) {
  const [height, width] = shape(data?.image_size, "image_size");
  if (!Array.isArray(data.scales) || data.scales.length === 0) fail("scales", data.scales, "an ascending list");
  /** @type {[number, number][]} */
  const scales = data.scales.map((/** @type {unknown} */ scale) => shape(scale, "scales"));
  let total = 0;
  const prefixLengths = scales.map(([h, w]) => (total += h * w));
  const downsample = whole(data.downsample, "downsample");
  const [latentHeight, latentWidth] = scales[scales.length - 1];
  if (total !== data.num_tokens || total > MAX_TOKENS) fail("num_tokens", data.num_tokens, `${total}, as the scales make`);
  if (latentHeight * downsample !== height || latentWidth * downsample !== width) {
    fail("image_size", data.image_size, `${latentHeight * downsample} x ${latentWidth * downsample}, the last scale times ${downsample}`);
  }
  // There is one way to prepare an image here; any other would silently give other tokens.
  rule(data, "resize", ["lanczos"]);
  rule(data, "crop", ["center", "centre"]);
  rule(data, "color_order", ["rgb"]);
  return Object.freeze({
    variant: String(data.variant),
    height,
    width,
    downsample,
    latentChannels: whole(data.latent_channels, "latent_channels"),
    latentHeight,
    latentWidth,
    vocabSize: whole(data.vocab_size, "vocab_size"),
    scales,
    numTokens: total,
    prefixLengths,
    manifest: data,
  });
}

/** @param {unknown} value @param {string} key @returns {[number, number]} */
function shape(value, key) {
  if (!Array.isArray(value)) return [whole(value, key), whole(value, key)];
  if (value.length !== 2) fail(key, value, "a side, or [height, width]");
  return [whole(value[0], key), whole(value[1], key)];
}

/** @param {any} value @param {string} key @returns {number} */
function whole(value, key) {
  const most = key === "image_size" || key === "scales" ? MAX_SIDE : 2 ** 28;
  if (!Number.isInteger(value) || value < 1 || value > most) fail(key, value, `a whole number from 1 to ${most}`);
  return value;
}

/** @param {any} data @param {string} key @param {string[]} words */
function rule(data, key, words) {
  const found = data[key];
  if (found !== undefined && !words.some((word) => String(found).toLowerCase().includes(word))) {
    fail(key, found, `${words[0]}, which is all that this runtime knows: upgrade it`);
  }
}

/** @param {string} key @param {unknown} found @param {string} expected @returns {never} */
function fail(key, found, expected) {
  throw new BundleError(`manifest.json: spec.${key} is ${JSON.stringify(found)}, expected ${expected}; export the bundle again`);
}
