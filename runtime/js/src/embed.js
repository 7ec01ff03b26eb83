// The quantised latent: the values of every scale's codes, upsampled bicubically as PyTorch does it, and summed.

import { splitIds } from "./ids.js";

const A = -0.75; // PyTorch's bicubic; many libraries take -0.5

/**
 * Return the matrix [size][side] that takes `side` points to `size`: align_corners false, the border repeated.
 * @param {number} size
 * @param {number} side
 */
function upsampling(size, side) {
  return Array.from({ length: size }, (_, point) => {
    const row = new Float64Array(side);
    const position = (point + 0.5) * (side / size) - 0.5;
    for (let tap = Math.floor(position) - 1; tap <= Math.floor(position) + 2; tap++) {
      row[Math.min(Math.max(tap, 0), side - 1)] += kernel(Math.abs(position - tap));
    }
    return Float32Array.from(row);
  });
}

/** @param {number} x */
function kernel(x) {
  if (x <= 1) return ((A + 2) * x - (A + 3)) * x * x + 1;
  return x < 2 ? ((A * x - 5 * A) * x + 8 * A) * x - 4 * A : 0;
}

/**
 * Return an image's quantised latent, C * h * w values, channel by channel.
 *
 * @param {Int32Array} ids one or more scales
 * @param {Float32Array} table vocabSize * C values
 * @param {Readonly<import("./index.d.ts").Spec>} spec
 */
export function embed(ids, table, spec) {
  const { latentChannels: channels, latentHeight: height, latentWidth: width } = spec;
  const out = new Float32Array(channels * height * width);
  splitIds(ids, spec).forEach((scale, index) => {
    const [rows, columns] = spec.scales[index];
    const down = upsampling(height, rows);
    const across = upsampling(width, columns);
    const half = new Float64Array(height * columns);
    for (let channel = 0; channel < channels; channel++) {
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < columns; x++) {
          let sum = 0;
          for (let row = 0; row < rows; row++) sum += down[y][row] * table[scale[row * columns + x] * channels + channel];
          half[y * columns + x] = sum;
        }
      }
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          let sum = 0;
          for (let column = 0; column < columns; column++) sum += across[x][column] * half[y * columns + column];
          out[(channel * height + y) * width + x] += sum;
        }
      }
    }
  });
  return out;
}
