// Node's ids of raw pixels: node node_ids.mjs BUNDLE PRECISION TOKENS.npz FOLDER WIDTHxHEIGHT:FILE.rgb...
// Writes TOKENS.npz, what the ids give back as FOLDER/0.rgba and so on, and as JSON the embedding's sums.

import { readFile, writeFile } from "node:fs/promises";
import { load, psnr, readTokens, writeTokens } from "coda-runtime";

const [bundle, precision, tokens, folder, ...files] = process.argv.slice(2);
const images = await Promise.all(files.map(async (text) => {
  const [, width, height, path] = /^(\d+)x(\d+):(.+)$/.exec(text);
  return { data: new Uint8Array(await readFile(path)), width: Number(width), height: Number(height) };
}));
const parts = new Set();
const tok = await load(bundle, { precision, onTiming: ({ part }) => parts.add(part) });
const [ids, again] = await Promise.all([tok.encode(images), tok.encode(images.slice(-1))]); // calls may overlap
const file = writeTokens(tok, ids, files.map((_, index) => `${index}.jpg`));
await writeFile(tokens, file);
const read = await readTokens(tok, file);
const back = await tok.decode(read.ids);
for (const [index, { data }] of back.entries()) await writeFile(`${folder}/${index}.rgba`, data);
const coarse = await tok.decode(ids.map((row) => row.slice(0, tok.spec.prefixLengths[3])));
const latents = await tok.embed(ids.slice(0, 2));
console.log(JSON.stringify({
  spec: tok.spec,
  precision: tok.precision,
  parts: [...parts],
  same: again[0].join() === ids.at(-1).join(),
  known: read.known,
  names: read.names,
  first: tok.split(ids[0]).map((scale) => scale.length),
  psnr: images.every(({ width, height }) => width === tok.spec.width && height === tok.spec.height)
    ? images.map((image, index) => psnr(image, back[index])) : [],
  coarse: coarse.map(({ data }) => data[0]),
  latents: latents.map((latent) => [...latent]),
}));
await tok.close();
await tok.close();
const after = await tok.encode(images).catch((error) => error.name);
if (after !== "ClosedError") throw new Error(`a closed tokenizer gave ${after}`);
