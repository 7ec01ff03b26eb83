// Colours for codes: the three main directions of the value table become lightness, green to red and blue to yellow,
// so that codes that look alike mean alike. As the report of `coda demo` has them.

/**
 * Return RGB bytes for every code.
 * @param {Float32Array} table V * C values
 * @param {number} channels C
 */
export function colours(table, channels) {
  const count = table.length / channels;
  const mean = new Float64Array(channels);
  for (let at = 0; at < table.length; at++) mean[at % channels] += table[at] / count;
  const axes = mainDirections(covariance(table, channels, mean), Math.min(3, channels));
  const points = axes.map((axis) => Float64Array.from({ length: count }, (_, code) => {
    let sum = 0;
    for (let c = 0; c < channels; c++) sum += (table[code * channels + c] - mean[c]) * axis[c];
    return sum;
  }));
  const unit = points.map((values) => {
    const sorted = values.slice().sort();
    // A few far codes would leave the rest all one colour.
    const [low, high] = [0.03, 0.97].map((share) => sorted[Math.round(share * (count - 1))]);
    return values.map((value) => (high > low ? Math.min(1, Math.max(0, (value - low) / (high - low))) : 0.5));
  });
  const out = new Uint8Array(count * 3);
  for (let code = 0; code < count; code++) {
    const [l, a, b] = [0, 1, 2].map((axis) => unit[axis]?.[code] ?? 0.5);
    out.set(fromOklab(0.32 + 0.6 * l, -0.14 + 0.28 * a, -0.14 + 0.28 * b), code * 3);
  }
  return out;
}

/** @param {Float32Array} table @param {number} channels @param {Float64Array} mean */
function covariance(table, channels, mean) {
  const out = Array.from({ length: channels }, () => new Float64Array(channels));
  for (let at = 0; at < table.length; at += channels) {
    for (let i = 0; i < channels; i++) {
      const left = table[at + i] - mean[i];
      for (let j = 0; j <= i; j++) out[i][j] += left * (table[at + j] - mean[j]);
    }
  }
  for (let i = 0; i < channels; i++) for (let j = 0; j < i; j++) out[j][i] = out[i][j];
  return out;
}

/** The eigenvectors of the largest eigenvalues, by power iteration. @param {Float64Array[]} matrix @param {number} wanted */
function mainDirections(matrix, wanted) {
  const size = matrix.length;
  /** @type {Float64Array[]} */
  const out = [];
  for (let index = 0; index < wanted; index++) {
    let vector = Float64Array.from({ length: size }, (_, i) => 1 + 0.37 * ((i * 7 + index * 3) % size));
    for (let round = 0; round < 300; round++) {
      const next = Float64Array.from(matrix, (row) => row.reduce((sum, value, i) => sum + value * vector[i], 0));
      for (const found of out) {
        const share = found.reduce((sum, value, i) => sum + value * next[i], 0);
        next.forEach((_, i) => (next[i] -= share * found[i]));
      }
      const length = Math.hypot(...next) || 1;
      vector = next.map((value) => value / length);
    }
    const largest = vector.reduce((best, value) => (Math.abs(value) > Math.abs(best) ? value : best), 0);
    out.push(largest < 0 ? vector.map((value) => -value) : vector);
  }
  return out;
}

/** @param {number} l @param {number} a @param {number} b */
function fromOklab(l, a, b) {
  const cone = [l + 0.3963377774 * a + 0.2158037573 * b, l - 0.1055613458 * a - 0.0638541728 * b, l - 0.0894841775 * a - 1.291485548 * b];
  const [x, y, z] = cone.map((value) => value ** 3);
  const linear = [
    4.0767416621 * x - 3.3077115913 * y + 0.2309699292 * z,
    -1.2684380046 * x + 2.6097574011 * y - 0.3413193965 * z,
    -0.0041960863 * x - 0.7034186147 * y + 1.7076147010 * z,
  ];
  return linear.map((value) => {
    const inside = Math.min(1, Math.max(0, value));
    return Math.round(255 * (inside <= 0.0031308 ? 12.92 * inside : 1.055 * inside ** (1 / 2.4) - 0.055));
  });
}
