// In a browser, in a page or in a worker: files by fetch, onnxruntime-web.

import { EngineError, ImageError, oneLine } from "./errors.js";
import { loadTokenizer } from "./tokenizer.js";

export * from "./common.js";

/** @type {typeof import("./index.d.ts").load} */
export async function load(source, options = {}) {
  const base = new URL(source, globalThis.document?.baseURI ?? globalThis.location?.href);
  if (!base.pathname.endsWith("/")) base.pathname += "/";
  return loadTokenizer(
    {
      name: base.href,
      read: (file, onBytes) => download(new URL(file, base), onBytes),
      engine: async () => options.ort ?? (await engine()),
      settings: () => ({
        executionProviders: options.executionProviders ?? ["wasm"],
        logSeverityLevel: 3,
        ...options.sessionOptions,
      }),
    },
    options,
  );
}

async function engine() {
  try {
    return await import("onnxruntime-web");
  } catch (error) {
    throw new EngineError(`onnxruntime-web did not load (${oneLine(error)}); npm install onnxruntime-web@1.30.0, or pass the module as {ort}`, { cause: error });
  }
}

/** @param {URL} url @param {(loaded: number) => void} [onBytes] */
async function download(url, onBytes) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`.trim());
  if (onBytes === undefined || answer.body === null) return new Uint8Array(await answer.arrayBuffer());
  const pieces = [];
  let loaded = 0;
  for (const reader = answer.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    pieces.push(value);
    onBytes((loaded += value.length));
  }
  const out = new Uint8Array(loaded);
  let at = 0;
  for (const piece of pieces) {
    out.set(piece, at);
    at += piece.length;
  }
  return out;
}

/** @type {typeof import("./index.d.ts").readImage} */
export async function readImage(file) {
  let bitmap;
  try {
    // Values as they stand in the file, whatever its profile; upright by EXIF, which browsers do by themselves.
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", imageOrientation: "from-image" });
  } catch (error) {
    throw new ImageError(`the file cannot be read as an image (${oneLine(error)}); expected JPEG, PNG, WebP or what else this browser opens`, { cause: error });
  }
  try {
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    if (context === null) throw new ImageError("this browser gives no canvas for an image of this size; scale it down");
    context.fillStyle = "white"; // what is clear is laid over it
    context.fillRect(0, 0, bitmap.width, bitmap.height);
    context.drawImage(bitmap, 0, 0);
    const { data, width, height } = context.getImageData(0, 0, bitmap.width, bitmap.height);
    // A canvas larger than the browser can have draws nothing, and tells so by not even holding the white.
    if (data[3] !== 255) throw new ImageError(`this browser cannot draw an image of ${width} x ${height} pixels; scale it down`);
    return { data, width, height };
  } finally {
    bitmap.close();
  }
}
