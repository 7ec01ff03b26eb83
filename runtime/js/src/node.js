// In Node: files from a folder, or by fetch from an address; onnxruntime-node.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { BundleError, EngineError, ImageError, oneLine } from "./errors.js";
import { loadTokenizer } from "./tokenizer.js";

export * from "./common.js";

/** @type {typeof import("./index.d.ts").load} */
export async function load(source, options = {}) {
  const text = String(source);
  const remote = /^https?:/i.test(text);
  const folder = remote ? text : folderOf(text);
  const read = remote
    ? async (/** @type {string} */ file) => download(within(text, file))
    : async (/** @type {string} */ file) => new Uint8Array(await readFile(join(folder, file)));
  return loadTokenizer(
    {
      name: folder,
      read,
      engine: async () => options.ort ?? (await engine()),
      settings: (precision) => ({
        executionProviders: options.executionProviders ?? ["cpu"],
        logSeverityLevel: 3,
        // Without it sums of 8 bits overflow, in silence, on x86 processors that have no VNNI.
        ...(precision === "int8" ? { extra: { session: { x64quantprecision: "1" } } } : {}),
        ...options.sessionOptions,
      }),
    },
    options,
  );
}

async function engine() {
  try {
    const module = await import("onnxruntime-node");
    return module.default ?? module;
  } catch (error) {
    throw new EngineError(
      `onnxruntime-node did not load (${oneLine(error)}); npm install --ignore-scripts onnxruntime-node@1.30.0, or pass onnxruntime-web as {ort}`,
      { cause: error },
    );
  }
}

/** @param {string} text a path, or a file's address */
function folderOf(text) {
  if (!/^file:/i.test(text)) return text;
  try {
    return fileURLToPath(text);
  } catch (error) {
    throw new BundleError(`${text} is the address of no folder here (${oneLine(error)}); pass its path`, { cause: error });
  }
}

/** @param {string} address @param {string} file */
function within(address, file) {
  const base = new URL(address);
  if (!base.pathname.endsWith("/")) base.pathname += "/";
  return new URL(file, base);
}

/** @param {URL} url */
async function download(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`.trim());
  return new Uint8Array(await answer.arrayBuffer());
}

/** @type {typeof import("./index.d.ts").readImage} */
export async function readImage() {
  throw new ImageError("Node opens no image files: decode them by a library, turn them by upright(image, exifOrientation(bytes)), and pass {data, width, height}");
}
