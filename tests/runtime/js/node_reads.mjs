// What Node reads of tokens.npz, and its errors: node node_reads.mjs BUNDLE TOKENS.npz

import { readFile } from "node:fs/promises";
import { load, readTokens } from "coda-runtime";

const [bundle, tokens] = process.argv.slice(2);
const bytes = new Uint8Array(await readFile(tokens));
const tok = await load(bundle);
const file = await readTokens(tok, bytes);

async function failed(work) {
  try {
    await work();
    return "nothing";
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
}

const emptied = [{ data: new Uint8Array(3), width: 1, height: 1 }];
const encoding = tok.encode(emptied);
emptied.length = 0; // what was passed is encoded

console.log(JSON.stringify({
  encoded: (await encoding).length,
  ids: file.ids.map((row) => [...row]),
  names: file.names,
  known: file.known,
  errors: [
    await failed(() => tok.decode([[1, 2, 3]])),
    await failed(() => tok.decode([new Int32Array(680).fill(4096)])),
    await failed(() => tok.decode(new Int32Array(680))),
    await failed(() => tok.encode([])),
    await failed(() => tok.encode(new Array(1))),
    await failed(() => tok.encode({ data: new Uint8Array(3), width: 1, height: 1 })),
    await failed(() => readTokens(tok, new Uint8Array(100), "it")),
    await failed(() => readTokens({ spec: tok.spec, fingerprints: ["codebook:0"] }, bytes, "it")),
    await failed(() => load(bundle, { precision: "bf16" })),
    await failed(() => load("/nowhere")),
  ],
}));
