// Runs the tokenizer beside the page, so that the page goes on answering while it computes.

import { loadEngine } from "./engine.js";
import { colours } from "./palette.js";
import { fit, load, psnr, readImage, readTokens, writeTokens } from "./runtime/web.js";

/** @type {import("./runtime/index.d.ts").Tokenizer | undefined} */
let tok;
/** @type {{part: string, ms: number}[]} */
let times = [];
/** By execution provider: loaded a second time, a module and its memory would stay beside the first. */
const engines = new Map();

const calls = {
  async load({ site, page, provider, precision }) {
    await tok?.close();
    tok = undefined;
    if (!engines.has(provider)) {
      engines.set(provider, await loadEngine(site.engine, provider, page, (file, total) => tell({ file, loaded: 0, total })));
    }
    const { ort, threads } = engines.get(provider);
    tok = await load(new URL(site.bundle, page), {
      ort,
      precision,
      executionProviders: [provider],
      onProgress: tell,
      onTiming: (timing) => times.push(timing),
    });
    const table = await tok.codebook();
    return { spec: tok.spec, threads, colours: colours(table, tok.spec.latentChannels) };
  },

  async encode({ source }) {
    const begun = performance.now();
    const image = source instanceof Blob ? await readImage(source) : source;
    const opened = { part: "open", ms: performance.now() - begun };
    times = [];
    const [ids] = await tok.encode([image]);
    const { width, height } = tok.spec;
    const rgb = fit(image, height, width);
    const original = new Uint8ClampedArray(width * height * 4).fill(255);
    for (let pixel = 0; pixel < width * height; pixel++) original.set(rgb.subarray(pixel * 3, pixel * 3 + 3), pixel * 4);
    return { ids, original: { data: original, width, height }, size: [image.width, image.height], times: [opened, ...times] };
  },

  async decode({ ids, original }) {
    times = [];
    const [image] = await tok.decode([ids]);
    return { image, psnr: original ? psnr(original, image) : null, times };
  },

  async near({ id, count }) {
    const table = await tok.codebook();
    const channels = tok.spec.latentChannels;
    const own = table.subarray(id * channels, (id + 1) * channels);
    const distances = Float64Array.from({ length: tok.spec.vocabSize }, (_, code) => {
      let sum = 0;
      for (let c = 0; c < channels; c++) sum += (table[code * channels + c] - own[c]) ** 2;
      return sum;
    });
    return Array.from(distances.keys()).sort((a, b) => distances[a] - distances[b]).slice(1, count + 1);
  },

  save: async ({ ids, name }) => writeTokens(tok, [ids], [name]),
  open: async ({ bytes, name }) => readTokens(tok, bytes, name),
};

/** @param {{file: string, loaded: number, total: number}} progress */
function tell(progress) {
  postMessage({ progress });
}

let last = Promise.resolve();
addEventListener("message", ({ data: { id, call, args } }) => {
  last = last.then(async () => {
    try {
      if (call !== "load" && tok === undefined) throw new Error("The tokenizer is not loaded; choose another way to run it, or load the page again");
      postMessage({ id, value: await calls[call](args) });
    } catch (error) {
      postMessage({ id, error: error instanceof Error ? error.message : String(error) });
    }
  });
});
postMessage({ ready: true });
