// Lanczos as Pillow computes it, byte for byte: weights normalised in double precision and rounded to 22 fractional
// bits, one pass along each axis, rounded to 8 bits in between.

const SUPPORT = 3; // lobes
const BITS = 22; // fractional bits of a weight; 8 are left for the pixel and 2 for sums over 255 and under 0

/** @param {number} x */
function lanczos(x) {
  if (x < -SUPPORT || x >= SUPPORT) return 0;
  return sinc(x) * sinc(x / SUPPORT);
}

/** @param {number} x */
function sinc(x) {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}

/**
 * Return for each of `length` outputs where its inputs begin, and their weights in fixed point.
 *
 * @param {number} size inputs in all
 * @param {number} from where the outputs' stretch of the inputs begins
 * @param {number} to where it ends
 * @param {number} length
 */
function taps(size, from, to, length) {
  const scale = Math.fround(Math.fround(to) - Math.fround(from)) / length; // a box has single precision
  const stretch = Math.max(scale, 1); // the kernel is widened where the image shrinks
  const reach = SUPPORT * stretch;
  const starts = new Int32Array(length);
  /** @type {Int32Array[]} */
  const weights = [];
  for (let index = 0; index < length; index++) {
    const center = Math.fround(from) + (index + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - reach + 0.5));
    const end = Math.min(size, Math.trunc(center + reach + 0.5));
    const exact = new Float64Array(end - start);
    let sum = 0;
    for (let tap = 0; tap < exact.length; tap++) {
      exact[tap] = lanczos((tap + start - center + 0.5) * (1 / stretch));
      sum += exact[tap];
    }
    starts[index] = start;
    weights.push(Int32Array.from(exact, (weight) => {
      const fixed = (sum === 0 ? weight : weight / sum) * 2 ** BITS;
      return Math.trunc(fixed < 0 ? fixed - 0.5 : fixed + 0.5);
    }));
  }
  return { starts, weights };
}

/**
 * Resize RGB bytes.
 *
 * @param {Uint8Array | Uint8ClampedArray} data height * width * 3 bytes
 * @param {number} width
 * @param {number} height
 * @param {number} newWidth
 * @param {number} newHeight
 * @param {[number, number, number, number]} [box] left, top, right, bottom of what is resized; all of it
 * @returns {Uint8ClampedArray} newHeight * newWidth * 3 bytes
 */
export function resize(data, width, height, newWidth, newHeight, box = [0, 0, width, height]) {
  const [left, top, right, bottom] = box.map(Math.fround);
  const across = newWidth !== width || left !== 0 || right !== width ? taps(width, left, right, newWidth) : null;
  const down = newHeight !== height || top !== 0 || bottom !== height ? taps(height, top, bottom, newHeight) : null;
  if (across === null) return down === null ? Uint8ClampedArray.from(data) : alongHeight(data, width, 0, down);
  if (down === null) return alongWidth(data, width, 0, height, across);
  // The width first, whatever Pillow's version does: there are 8 bits between the two.
  // Only the rows that the second pass reads are made by the first.
  const first = down.starts[0];
  const last = down.starts[newHeight - 1] + down.weights[newHeight - 1].length;
  return alongHeight(alongWidth(data, width, first, last, across), newWidth, first, down);
}

/**
 * @param {Uint8Array | Uint8ClampedArray} data
 * @param {number} width
 * @param {number} first
 * @param {number} last
 * @param {ReturnType<typeof taps>} across
 */
function alongWidth(data, width, first, last, { starts, weights }) {
  const out = new Uint8ClampedArray((last - first) * starts.length * 3);
  let to = 0;
  for (let row = first; row < last; row++) {
    for (let x = 0; x < starts.length; x++) {
      let from = (row * width + starts[x]) * 3;
      let red = 1 << (BITS - 1);
      let green = red;
      let blue = red;
      for (const weight of weights[x]) {
        red += data[from] * weight;
        green += data[from + 1] * weight;
        blue += data[from + 2] * weight;
        from += 3;
      }
      out[to++] = red >> BITS;
      out[to++] = green >> BITS;
      out[to++] = blue >> BITS;
    }
  }
  return out;
}

/**
 * @param {Uint8Array | Uint8ClampedArray} data rows from the `offset`-th on
 * @param {number} width
 * @param {number} offset
 * @param {ReturnType<typeof taps>} down
 */
function alongHeight(data, width, offset, { starts, weights }) {
  const row = width * 3;
  const out = new Uint8ClampedArray(starts.length * row);
  const sums = new Int32Array(row);
  for (let y = 0; y < starts.length; y++) {
    sums.fill(1 << (BITS - 1));
    let from = (starts[y] - offset) * row;
    for (const weight of weights[y]) {
      for (let x = 0; x < row; x++) sums[x] += data[from + x] * weight;
      from += row;
    }
    for (let x = 0; x < row; x++) out[y * row + x] = sums[x] >> BITS;
  }
  return out;
}
