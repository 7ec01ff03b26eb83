// tokens.npz: ids, the names of their images, and whose tokens they are, as `coda encode` and `coda decode` have it.

import { TokenError, oneLine } from "./errors.js";
import { checkIds } from "./ids.js";
import { readNpy, writeNpy } from "./npy.js";
import { readZip, writeZip } from "./zip.js";

/** @typedef {Pick<import("./index.d.ts").Tokenizer, "spec" | "fingerprints">} Maker */

/**
 * Write tokens.npz for ids of one length that `tok` made.
 *
 * @param {Maker} tok
 * @param {ArrayLike<number>[]} ids
 * @param {string[]} names of the images, one for each
 * @returns {Uint8Array} the file
 */
export function writeTokens(tok, ids, names) {
  const rows = checkIds(ids, tok.spec);
  const length = rows[0].length;
  if (names.length !== rows.length || rows.some((row) => row.length !== length)) {
    throw new TokenError(`there are ${names.length} names for ${rows.length} images; expected a name each, and ids of one length`);
  }
  const { spec } = tok;
  /** @type {number[] | number[][]} */
  const scales = spec.manifest.scales;
  const pairs = Array.isArray(scales[0]);
  const flat = Int32Array.from(rows.flatMap((row) => Array.from(row)));
  return writeZip([
    ["ids.npy", writeNpy("<i4", [rows.length, length], flat)],
    ["names.npy", writeNpy("<U", [names.length], names)],
    ["scales.npy", writeNpy("<i8", pairs ? [scales.length, 2] : [scales.length], scales.flat())],
    ["vocab_size.npy", writeNpy("<i8", [], [spec.vocabSize])],
    ["made_with.npy", writeNpy("<U", [tok.fingerprints.length], tok.fingerprints)],
    ["color.npy", writeNpy("<U", [], ["stored"])],
  ]);
}

/**
 * Read tokens.npz, also compressed. Raises TokenError if it is damaged, or made with another tokenizer than `tok`.
 *
 * @param {Maker} tok
 * @param {Uint8Array} bytes
 * @param {string} [name] stands for the file in messages
 * @returns {Promise<import("./index.d.ts").TokensFile>}
 */
export async function readTokens(tok, bytes, name = "the file") {
  /** @type {Map<string, import("./npy.js").NumpyArray>} */
  const arrays = new Map();
  try {
    for (const [key, data] of await readZip(bytes)) arrays.set(key.replace(/\.npy$/, ""), readNpy(data));
  } catch (error) {
    throw new TokenError(`${name} cannot be read: it ${oneLine(error)}; expected what \`coda encode\` writes`, { cause: error });
  }
  const ids = arrays.get("ids");
  if (ids === undefined || ids.shape.length !== 2) {
    throw new TokenError(`${name} has no ids [N, L], only ${[...arrays.keys()].sort().join(", ") || "nothing"}; expected what \`coda encode\` writes`);
  }
  /** @type {ArrayLike<unknown> | undefined} */
  const madeWith = arrays.get("made_with")?.data;
  if (madeWith !== undefined && !Array.from(madeWith).some((made) => tok.fingerprints.includes(String(made)))) {
    throw new TokenError(`${name} was made with another tokenizer (${String(madeWith[0]).slice(0, 24)}...); decode it with the bundle that it was encoded with`);
  }
  const expected = { scales: tok.spec.manifest.scales.flat(), vocab_size: [tok.spec.vocabSize] };
  for (const [key, value] of Object.entries(expected)) {
    const found = Array.from(/** @type {ArrayLike<unknown>} */ (arrays.get(key)?.data ?? value));
    if (found.join() !== value.join()) {
      throw new TokenError(`${name} has ${key} ${found.join(" ")}, the bundle ${value.join(" ")}; decode it with the bundle that it was encoded with`);
    }
  }
  const [count, length] = ids.shape;
  const flat = /** @type {number[]} */ (ids.data);
  const rows = Array.from({ length: count }, (_, row) => flat.slice(row * length, (row + 1) * length));
  /** @type {ArrayLike<unknown>} */
  const told = arrays.get("names")?.data ?? rows.map((_, row) => String(row).padStart(5, "0"));
  const names = Array.from(told, String);
  if (names.length !== count) throw new TokenError(`${name} has ${names.length} names for ${count} images; encode again`);
  return { ids: checkIds(rows, tok.spec), names, known: madeWith !== undefined };
}
