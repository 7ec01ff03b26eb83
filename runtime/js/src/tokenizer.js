// What a user touches: images to ids and back.

import { Bundle } from "./bundle.js";
import { ClosedError, EngineError, BundleError, oneLine } from "./errors.js";
import { embed } from "./embed.js";
import { batch, checkImages } from "./fit.js";
import { checkIds, filled, splitIds } from "./ids.js";
import { readNpy } from "./npy.js";

// Of a run: as many as four images of 256 x 256 have.
const PIXELS_AT_ONCE = 4 * 256 * 256;

/**
 * @typedef {import("onnxruntime-common").InferenceSession} Session
 * @typedef {typeof import("onnxruntime-common")} Engine
 * @typedef {{
 *   name: string,
 *   read: import("./bundle.js").Read,
 *   engine: () => Promise<Engine>,
 *   settings: (precision: string) => import("onnxruntime-common").InferenceSession.SessionOptions,
 * }} Surroundings what differs between a browser and Node
 */

export class Tokenizer {
  #bundle;
  #engine;
  #sessions;
  /** @type {Float32Array | undefined} */
  #table;
  /** @type {Promise<unknown>} */
  #last = Promise.resolve();
  #closed = false;
  /** @type {(timing: import("./index.d.ts").Timing) => void} */
  #onTiming;

  /**
   * @param {Bundle} bundle
   * @param {Engine} engine
   * @param {{encoder: Session, quantizer: Session, decoder: Session}} sessions
   * @param {string} precision
   * @param {import("./index.d.ts").LoadOptions} options
   */
  constructor(bundle, engine, sessions, precision, options) {
    this.#bundle = bundle;
    this.#engine = engine;
    this.#sessions = sessions;
    this.#onTiming = options.onTiming ?? (() => undefined);
    this.spec = bundle.spec;
    this.precision = precision;
    this.fingerprints = bundle.fingerprints;
    const pixels = this.spec.height * this.spec.width;
    this.imagesPerRun = Math.max(1, Math.floor(PIXELS_AT_ONCE / pixels));
  }

  /**
   * Turn images into ids.
   * @param {import("./index.d.ts").Image[]} images of any sizes
   * @returns {Promise<Int32Array[]>} an image's ids each
   */
  async encode(images) {
    checkImages(images);
    const all = Array.from(images); // the caller may empty the array meanwhile; what it lacks is undefined here
    return this.#inTurn(async () => {
      /** @type {Int32Array[]} */
      const out = [];
      for (let start = 0; start < all.length; start += this.imagesPerRun) {
        out.push(...await this.#encodeSome(all.slice(start, start + this.imagesPerRun), start));
      }
      return out;
    });
  }

  /** @param {import("./index.d.ts").Image[]} images @param {number} start */
  async #encodeSome(images, start) {
    const { height, width, numTokens } = this.spec;
    const begun = performance.now();
    const pixels = batch(images, height, width, start);
    this.#onTiming({ part: "fit", ms: performance.now() - begun, images: images.length });
    const image = new this.#engine.Tensor("uint8", pixels, [images.length, height, width, 3]);
    const { latent } = await this.#run("encoder", { image }, images.length);
    const { ids } = await this.#run("quantizer", { latent }, images.length);
    const flat = this.#data(ids, Int32Array, images.length * numTokens, "quantizer");
    latent.dispose();
    return images.map((_, row) => flat.slice(row * numTokens, (row + 1) * numTokens));
  }

  /**
   * Turn ids back into images; a prefix of whole scales gives the image that these know of.
   * @param {ArrayLike<number>[]} ids
   * @returns {Promise<import("./index.d.ts").DecodedImage[]>} RGBA, as ImageData
   */
  async decode(ids) {
    const rows = checkIds(ids, this.spec);
    return this.#inTurn(async () => {
      /** @type {import("./index.d.ts").DecodedImage[]} */
      const out = [];
      for (let start = 0; start < rows.length; start += this.imagesPerRun) {
        out.push(...await this.#decodeSome(rows.slice(start, start + this.imagesPerRun)));
      }
      return out;
    });
  }

  /** @param {Int32Array[]} rows */
  async #decodeSome(rows) {
    const { height, width, numTokens } = this.spec;
    const ids = new this.#engine.Tensor("int32", filled(rows, this.spec), [rows.length, numTokens]);
    const { image } = await this.#run("decoder", { ids }, rows.length);
    const size = height * width;
    const rgb = this.#data(image, Uint8Array, rows.length * size * 3, "decoder");
    return rows.map((_, row) => {
      const data = new Uint8ClampedArray(size * 4).fill(255);
      for (let pixel = 0, from = row * size * 3; pixel < size; pixel++, from += 3) {
        data.set(rgb.subarray(from, from + 3), pixel * 4);
      }
      return { data, width, height };
    });
  }

  /**
   * Return what each image looks like from its ids.
   * @param {import("./index.d.ts").Image[]} images
   */
  async reconstruct(images) {
    return this.decode(await this.encode(images));
  }

  /**
   * Return an image's ids scale by scale, coarse to fine; each is a view, row by row.
   * @param {Int32Array} ids
   */
  split(ids) {
    return splitIds(checkIds([ids], this.spec)[0], this.spec);
  }

  /**
   * Return ids' quantised latents, latentChannels * latentHeight * latentWidth values each.
   * @param {ArrayLike<number>[]} ids
   * @returns {Promise<Float32Array[]>}
   */
  async embed(ids) {
    const rows = checkIds(ids, this.spec);
    const table = await this.codebook();
    return rows.map((row) => embed(row, table, this.spec));
  }

  /** Return the value of every code, vocabSize * latentChannels numbers. */
  async codebook() {
    this.#checkOpen();
    if (this.#table === undefined) {
      const artifact = this.#bundle.find("codebook", "npy", "fp32");
      const { shape, data } = this.#array(artifact.file, await this.#bundle.load(artifact));
      const expected = [this.spec.vocabSize, this.spec.latentChannels];
      if (shape.join() !== expected.join() || !(data instanceof Float32Array)) {
        throw new BundleError(`${this.#bundle.name}: the codebook is [${shape}], expected float32 [${expected}]; export the bundle again`);
      }
      this.#table = data;
    }
    return this.#table;
  }

  /** @param {string} file @param {Uint8Array} bytes */
  #array(file, bytes) {
    try {
      return readNpy(bytes);
    } catch (error) {
      throw new BundleError(`${this.#bundle.name}: ${file} ${oneLine(error)}; export the bundle again`, { cause: error });
    }
  }

  /** Free the engines, after the runs that are under way. May be called twice. */
  async close() {
    if (this.#closed) return;
    this.#closed = true;
    await this.#last;
    await Promise.all(Object.values(this.#sessions).map((session) => session.release()));
  }

  /**
   * Run one after the other: a session takes one call at a time.
   * @template T
   * @param {() => Promise<T>} work
   * @returns {Promise<T>}
   */
  #inTurn(work) {
    this.#checkOpen();
    const run = this.#last.then(work);
    this.#last = run.catch(() => undefined);
    return run;
  }

  #checkOpen() {
    if (this.#closed) throw new ClosedError("the tokenizer was closed; load the bundle again");
  }

  /**
   * @param {"encoder" | "quantizer" | "decoder"} part
   * @param {import("onnxruntime-common").InferenceSession.FeedsType} feeds
   * @param {number} images
   */
  async #run(part, feeds, images) {
    const begun = performance.now();
    try {
      const out = /** @type {Record<string, import("onnxruntime-common").Tensor>} */ (await this.#sessions[part].run(feeds));
      this.#onTiming({ part, ms: performance.now() - begun, images });
      return out;
    } catch (error) {
      throw new EngineError(`ONNX Runtime failed in the ${part} (${oneLine(error)}); pass fewer or smaller images, or other executionProviders`, { cause: error });
    }
  }

  /**
   * @template {Int32Array | Uint8Array} T
   * @param {import("onnxruntime-common").Tensor | undefined} tensor
   * @param {{new (...args: any[]): T}} kind
   * @param {number} length
   * @param {string} part
   * @returns {T}
   */
  #data(tensor, kind, length, part) {
    const data = tensor?.data;
    if (data instanceof kind && data.length === length) return data;
    const found = data === undefined ? "nothing" : `${data.constructor.name} of ${data.length}`;
    throw new BundleError(`${this.#bundle.name}: the ${part} gave ${found}, expected ${kind.name} of ${length}; export the bundle again`);
  }
}

/**
 * Load a bundle.
 * @param {Surroundings} around
 * @param {import("./index.d.ts").LoadOptions} options
 */
export async function loadTokenizer(around, options) {
  const bundle = await Bundle.open(around.name, around.read);
  const precision = options.precision === undefined || options.precision === "auto" ? bundle.defaultPrecision : options.precision;
  const files = {
    encoder: bundle.find("encoder", "onnx", precision),
    quantizer: bundle.find("quantizer", "onnx", "fp32"),
    decoder: bundle.find("decoder", "onnx", precision),
  };
  const engine = await around.engine();
  /** @type {Record<string, Session>} */
  const sessions = {};
  try {
    for (const [part, artifact] of Object.entries(files)) {
      const { file, bytes: total } = artifact;
      const bytes = await bundle.load(artifact, (loaded) => options.onProgress?.({ file, loaded, total }));
      options.onProgress?.({ file, loaded: total, total });
      sessions[part] = await engine.InferenceSession.create(bytes, around.settings(artifact.precision));
    }
  } catch (error) {
    await Promise.all(Object.values(sessions).map((session) => session.release()));
    if (error instanceof BundleError) throw error;
    throw new EngineError(`ONNX Runtime did not load ${around.name} (${oneLine(error)}); try executionProviders: [${around.name.includes("://") ? '"wasm"' : '"cpu"'}]`, { cause: error });
  }
  return new Tokenizer(bundle, engine, /** @type {any} */ (sessions), precision, options);
}
