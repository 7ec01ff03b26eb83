// onnxruntime-web, from this folder or from a CDN: both files by their integrity hashes, or not at all.

import { EngineError, oneLine } from "./runtime/common.js";

/**
 * Return the module, ready: the binary given to it, and as many threads as the page may use.
 *
 * @param {{base: string, version: string, providers: Record<string, {module: EngineFile, binary: EngineFile}>}} engine
 * @param {string} provider
 * @param {string} page its address
 * @param {(name: string, total: number) => void} onFile
 * @typedef {{file: string, bytes: number, integrity: string}} EngineFile
 */
export async function loadEngine(engine, provider, page, onFile) {
  const base = new URL(engine.base, page);
  const { module, binary } = engine.providers[provider];
  const code = await get(base, module, onFile);
  const wasm = await get(base, binary, onFile);
  // By a blob: workers of the engine's own, which are its threads, must come from the page's origin.
  const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  const loaded = await import(address);
  const ort = loaded.default ?? loaded;
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  ort.env.logLevel = "error";
  return { ort, threads: ort.env.wasm.numThreads };
}

/** @param {URL} base @param {EngineFile} file @param {(name: string, total: number) => void} onFile */
async function get(base, { file, bytes, integrity }, onFile) {
  onFile(file, bytes);
  try {
    const answer = await fetch(new URL(file, base), { integrity, mode: "cors", credentials: "omit", referrerPolicy: "no-referrer" });
    if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`.trim());
    return await answer.arrayBuffer();
  } catch (error) {
    throw new EngineError(
      `ONNX Runtime Web did not load: ${file} from ${base.host} (${oneLine(error)}). Check the network, or make the page with --vendor, which carries it`,
      { cause: error },
    );
  }
}
