// Calls functions of runtime/js for the tests: a line of JSON in, {call: ["fit.js", "fit"], args: [...]}, a line out.
// Bytes travel as {"bytes": base64}, other typed arrays as {"values": [...]}.

import { createInterface } from "node:readline";

const source = new URL("../../../runtime/js/src/", import.meta.url);

function given(value) {
  if (Array.isArray(value)) return value.map(given);
  if (value === null || typeof value !== "object") return value;
  if ("bytes" in value) return new Uint8Array(Buffer.from(value.bytes, "base64"));
  if ("floats" in value) return Float32Array.from(value.floats);
  if ("ids" in value) return Int32Array.from(value.ids);
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, given(item)]));
}

function told(value) {
  if (value instanceof Uint8Array || value instanceof Uint8ClampedArray) {
    return { bytes: Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("base64") };
  }
  if (ArrayBuffer.isView(value)) return { values: [...value] };
  if (Array.isArray(value)) return value.map(told);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, told(item)]));
}

for await (const line of createInterface({ input: process.stdin })) {
  const { call, args } = JSON.parse(line);
  try {
    const module = await import(new URL(call[0], source));
    console.log(JSON.stringify({ value: told(await module[call[1]](...given(args))) }));
  } catch (error) {
    console.log(JSON.stringify({ error: [error.name, error.message] }));
  }
}
