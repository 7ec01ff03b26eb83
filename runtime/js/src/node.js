// In Node: files from a folder, or by fetch from an address; onnxruntime-node.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { EngineError, ImageError, oneLine } from "./errors.js";
import { loadTokenizer } from "./tokenizer.js";

export * from "./common.js";

/** @type {typeof import("./index.d.ts").load} */
export async function load(source, options = {}) {
  const text = String(source);
  const remote = /^https?:/.test(text);
  const folder = text.startsWith("file:") ? fileURLToPath(text) : text;
  const read = remote
    ? (/** @type {string} */ file) => download(new URL(file, text.endsWith("/") ? text : `${text}/`))
    : async (/** @type {string} */ file) => new Uint8Array(await readFile(join(folder, file)));
  return loadTokenizer(
    {
      name: remote ? text : folder,
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
