// Ids as callers pass them: checked, split into scales, and filled up where a prefix leaves scales out.

import { TokenError } from "./errors.js";

/**
 * Return ids as an Int32Array an image, checked: a whole number of scales, each from 0 to vocabSize - 1.
 *
 * @param {unknown} ids
 * @param {Readonly<import("./index.d.ts").Spec>} spec
 */
export function checkIds(ids, spec) {
  if (!Array.isArray(ids) || typeof ids[0] === "number") {
    throw new TokenError("ids is no array of ids; expected one Int32Array an image, in an array: put a single one in brackets, [ids]");
  }
  if (ids.length === 0) throw new TokenError("the batch is empty; pass at least one image's ids");
  // Not by map, which passes over what an array lacks.
  return Array.from(ids, (row, index) => {
    const name = `ids[${index}]`;
    if (!(Array.isArray(row) || ArrayBuffer.isView(row)) || row instanceof DataView) {
      throw new TokenError(`${name} is ${row === null ? "null" : typeof row}; expected an Int32Array, or an array of numbers`);
    }
    const values = /** @type {number[]} */ (/** @type {unknown} */ (row));
    if (!spec.prefixLengths.includes(values.length)) {
      throw new TokenError(`${name} has ${values.length} ids; expected a whole number of scales: ${spec.prefixLengths.join(", ")}`);
    }
    const wrong = Array.prototype.findIndex.call(values, (id) => !(Number.isInteger(id) && id >= 0 && id < spec.vocabSize));
    if (wrong >= 0) {
      const found = typeof values[wrong] === "number" ? values[wrong] : `${values[wrong]} (${typeof values[wrong]})`;
      throw new TokenError(`${name} has ${found}; expected whole numbers from 0 to ${spec.vocabSize - 1}`);
    }
    return Int32Array.from(values);
  });
}

/**
 * Return an image's ids scale by scale, coarse to fine, as views.
 * @param {Int32Array} ids
 * @param {Readonly<import("./index.d.ts").Spec>} spec
 */
export function splitIds(ids, spec) {
  let from = 0;
  return spec.prefixLengths.filter((length) => length <= ids.length).map((length) => {
    const scale = ids.subarray(from, length);
    from = length;
    return scale;
  });
}

/**
 * Return a batch for the decoder: the null token, vocabSize, stands where a prefix leaves scales out.
 * @param {Int32Array[]} rows
 * @param {Readonly<import("./index.d.ts").Spec>} spec
 */
export function filled(rows, spec) {
  const out = new Int32Array(rows.length * spec.numTokens).fill(spec.vocabSize);
  rows.forEach((row, index) => out.set(row, index * spec.numTokens));
  return out;
}
