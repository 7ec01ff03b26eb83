// tokens.npz: ids, the names of their images, and whose tokens they are, as `coda encode` and `coda decode` have it.

import { TokenError, oneLine } from "./errors.js";
import { checkIds } from "./ids.js";
import { readNpy, writeNpy } from "./npy.js";
import { readZip, writeZip } from "./zip.js";

// What is read of a file, and as what; anything else in it is passed over.
const KEYS = new Map([
  ["ids", "whole numbers"], ["names", "words"], ["scales", "whole numbers"], ["vocab_size", "whole numbers"], ["made_with", "words"],
]);

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
  if (names?.length !== rows.length || rows.some((row) => row.length !== length)) {
    throw new TokenError(`there are ${names?.length ?? "no"} names for ${rows.length} images; expected a name each, and ids of one length`);
  }
  if (!Array.isArray(names) || names.some((name) => typeof name !== "string")) {
    throw new TokenError("names holds something else than words; expected an array with the name of each image");
  }
  const { spec } = tok;
  const scales = plainScales(spec);
  const flat = Int32Array.from(rows.flatMap((row) => Array.from(row)));
  return writeZip([
    ["ids.npy", writeNpy("<i4", [rows.length, length], flat)],
    ["names.npy", writeNpy("<U", [names.length], names)],
    ["scales.npy", writeNpy("<i8", Array.isArray(scales[0]) ? [scales.length, 2] : [scales.length], scales.flat())],
    ["vocab_size.npy", writeNpy("<i8", [], [spec.vocabSize])],
    ["made_with.npy", writeNpy("<U", [tok.fingerprints.length], tok.fingerprints)],
    ["color.npy", writeNpy("<U", [], ["stored"])],
  ]);
}

/**
 * Return scales as tokens.npz has them: sides where every scale is a square, or else pairs.
 * @param {Maker["spec"]} spec
 * @returns {number[] | number[][]}
 */
function plainScales({ scales }) {
  return scales.every(([height, width]) => height === width) ? scales.map(([side]) => side) : scales;
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
  /** @type {string[]} */
  const entries = [];
  try {
    for (const [file, data] of await readZip(bytes)) {
      const key = file.replace(/\.npy$/, "");
      entries.push(key);
      if (KEYS.has(key)) arrays.set(key, readKey(key, data));
    }
  } catch (error) {
    throw new TokenError(`${name} cannot be read: it ${oneLine(error)}; expected what \`coda encode\` writes`, { cause: error });
  }
  const ids = arrays.get("ids");
  if (ids === undefined) {
    throw new TokenError(`${name} has no ids, only ${entries.sort().join(", ") || "nothing"}; expected what \`coda encode\` writes`);
  }
  if (ids.shape.length !== 2) throw new TokenError(`${name} has ids [${ids.shape.join(", ")}]; expected [N, L]; encode again`);
  /** @type {ArrayLike<unknown> | undefined} */
  const madeWith = arrays.get("made_with")?.data;
  if (madeWith !== undefined && !Array.from(madeWith).some((made) => tok.fingerprints.includes(String(made)))) {
    throw new TokenError(`${name} was made with another tokenizer (${madeWith.length > 0 ? `${String(madeWith[0]).slice(0, 24)}...` : "nothing"}); decode it with the bundle that it was encoded with`);
  }
  const expected = { scales: plainScales(tok.spec).flat(), vocab_size: [tok.spec.vocabSize] };
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

/**
 * Read an entry. Raises Error, in words to follow the file's name.
 * @param {string} key
 * @param {Uint8Array} data
 */
function readKey(key, data) {
  let array;
  try {
    array = readNpy(data);
  } catch (error) {
    throw new Error(`has ${key}.npy, which ${oneLine(error)}`, { cause: error });
  }
  const { data: values } = array;
  const found = values instanceof Float32Array ? "float32" : typeof values[0] === "string" ? "words" : "whole numbers";
  if (values.length > 0 && found !== KEYS.get(key)) throw new Error(`has ${key} of ${found}, where ${KEYS.get(key)} belong`);
  return array;
}
