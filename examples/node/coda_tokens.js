// Tokens of images in Node, by ONNX Runtime alone: the bundle's encode.fp32.onnx and decoder.fp32.onnx.
//
//   npm ci --ignore-scripts
//   node coda_tokens.js bundle/ encode a.rgb b.rgb > ids.jsonl       an image's ids are one line: [12,7,...]
//   node coda_tokens.js bundle/ decode a.out.rgb b.out.rgb < ids.jsonl
//
// --ignore-scripts: the CPU's library is in the package, and its script fetches CUDA's. An .rgb file is
// height * width * 3 bytes, rows from the top, of the bundle's own size: opening, turning and resizing are the caller's
// (docs/images.md has the rule).

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import ort from "onnxruntime-node";

async function open(bundle, file) {
  const session = await ort.InferenceSession.create(join(bundle, file), { logSeverityLevel: 3 });
  return { session, shape: session.inputMetadata[0].shape }; // the graph tells its own sizes; the first is the batch
}

function readPixels(path, height, width) {
  const pixels = readFileSync(path);
  if (pixels.length !== height * width * 3) {
    throw new Error(`${path} has ${pixels.length} bytes, expected ${height} * ${width} * 3`);
  }
  return pixels;
}

async function encode(bundle, paths) {
  const { session, shape } = await open(bundle, "encode.fp32.onnx");
  const [, height, width] = shape;
  for (const path of paths) {
    // One image is a batch of one; several go in one run as [B, H, W, 3].
    const image = new ort.Tensor("uint8", readPixels(path, height, width), [1, height, width, 3]);
    const { ids } = await session.run({ image });
    console.log(JSON.stringify([...ids.data]));
  }
}

async function decode(bundle, paths) {
  const { session, shape } = await open(bundle, "decoder.fp32.onnx");
  const lines = readFileSync(0, "utf8").split("\n");
  for (const [index, path] of paths.entries()) {
    const given = JSON.parse(lines[index] || "[]");
    // The graph looks them up in a table: whoever takes ids from others holds them to 0 <= id < vocab_size first.
    if (given.length !== shape[1]) throw new Error(`a line has ${given.length} ids, expected ${shape[1]}`);
    const ids = new ort.Tensor("int32", Int32Array.from(given), [1, shape[1]]);
    const { image } = await session.run({ ids });
    writeFileSync(path, image.data);
  }
}

const [bundle, operation, ...paths] = process.argv.slice(2);
const operations = { encode, decode };
if (paths.length === 0 || !Object.hasOwn(operations, operation)) {
  console.error("usage: node coda_tokens.js BUNDLE encode|decode FILE.rgb...");
  process.exitCode = 2;
} else {
  operations[operation](bundle, paths).catch((error) => {
    console.error(`error: ${error.message}`);
    process.exitCode = 1;
  });
}
