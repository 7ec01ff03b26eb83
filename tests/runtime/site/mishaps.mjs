// What goes wrong on the page of `coda site`, in Chromium: node mishaps.mjs CHROMIUM ADDRESS PHOTOGRAPH PHOTOGRAPH
// Drops before the tokenizer is there, one image after the other, what is no image or too large for a canvas, leaves a
// code empty, and chooses a precision that does not load. Prints what it saw as JSON. The page has two precisions.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { deflateSync } from "node:zlib";

const { chromium } = createRequire(join(process.cwd(), "package.json"))("playwright-core");
const [executablePath, address, ...photographs] = process.argv.slice(2);
const media = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"];
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", ...media] });
const context = await browser.newContext({ serviceWorkers: "block" });
const page = await context.newPage();
page.setDefaultTimeout(120000);
const told = { failures: [] };
page.on("pageerror", (error) => told.failures.push(String(error)));
const text = (id) => page.locator(`#${id}`).textContent();
const see = (id, word) => page.waitForFunction(([name, part]) => document.getElementById(name).textContent.includes(part), [id, word]);

/** Drop files, one after the other without waiting. */
const drop = (...files) => page.evaluate((all) => {
  for (const [data, name] of all) {
    const transfer = new DataTransfer();
    if (name) transfer.items.add(new File([Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))], name));
    else transfer.setData("text/plain", "words");
    document.getElementById("drop").dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: transfer }));
  }
}, files.map(([bytes, name]) => [Buffer.from(bytes ?? "").toString("base64"), name]));

/** A grey PNG. */
function png(width, height) {
  const chunk = (kind, data) => {
    const out = Buffer.alloc(12 + data.length);
    out.writeUInt32BE(data.length);
    out.write(kind, 4, "latin1");
    data.copy(out, 8);
    let sum = 0xffffffff;
    for (const byte of out.subarray(4, 8 + data.length)) {
      sum ^= byte;
      for (let bit = 0; bit < 8; bit++) sum = sum & 1 ? 0xedb88320 ^ (sum >>> 1) : sum >>> 1;
    }
    out.writeUInt32BE(~sum >>> 0, 8 + data.length);
    return out;
  };
  const head = Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0]);
  head.writeUInt32BE(width);
  head.writeUInt32BE(height, 4);
  const rows = deflateSync(Buffer.alloc(height * (1 + width)));
  return Buffer.concat([Buffer.from("\x89PNG\r\n\x1a\n", "latin1"), chunk("IHDR", head), chunk("IDAT", rows), chunk("IEND", Buffer.alloc(0))]);
}

/** Do something, and return what the page complains of. */
async function problem(work) {
  await page.evaluate(() => (document.getElementById("problem").hidden = true));
  await work();
  await page.waitForFunction(() => !document.getElementById("problem").hidden);
  return text("problem");
}

try {
  const [first, second] = await Promise.all(photographs.map((path) => readFile(path)));
  // Before anything is there: the drop counts, and no example takes its place.
  let go;
  const held = new Promise((resolve) => (go = resolve));
  await page.route("**/site.json", async (route) => {
    await held;
    await route.continue();
  });
  await page.goto(address);
  await page.locator("#map").click();
  await drop([first, "early.jpg"]);
  go();
  await see("status", "early.jpg:");
  told.examples = await page.locator("#examples button[aria-pressed=true]").count();
  // One after the other: the last counts, also where an example comes in later.
  await page.evaluate(() => document.querySelector("#examples button").click());
  await drop([first, "one.jpg"], [second, "two.jpg"]);
  await see("status", "two.jpg:");
  await page.waitForTimeout(500);
  told.last = [await text("status"), await page.locator("#examples button[aria-pressed=true]").count()];
  // A token of one image is none of the next.
  await page.locator("#map").press("ArrowRight");
  told.chosen = await text("token-says");
  told.empty = await problem(async () => {
    await page.locator("#code").fill("");
    await page.locator("#code").press("Enter");
  });
  await drop([first, "three.four.jpg"]);
  await see("status", "three.four.jpg:");
  told.next = await text("token-says");
  told.words = await problem(() => drop([null, null]));
  told.no_image = await problem(() => drop(["no image", "no.jpg"]));
  told.large = await problem(() => drop([png(70000, 10), "long.png"]));
  // The camera, twice: what was opened first does not stay on.
  await page.evaluate(() => {
    globalThis.streams = [];
    const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = async (wish) => {
      const stream = await open(wish);
      globalThis.streams.push(stream);
      return stream;
    };
  });
  for (const count of [1, 2]) {
    await page.locator("#camera").click();
    await page.waitForFunction((opened) => globalThis.streams.length === opened && document.getElementById("video").videoWidth > 0, count);
  }
  await page.locator("#stop").click();
  told.cameras = await page.evaluate(() => globalThis.streams.map((stream) => stream.getTracks()[0].readyState));
  // A precision that does not load is no end: the other one does, by the engine that is there.
  const asked = [];
  page.on("request", (request) => asked.push(new URL(request.url()).pathname));
  await page.route("**/encoder.fp32.onnx", (route) => route.abort());
  told.unloaded = await problem(() => page.locator("#precision").selectOption("fp32"));
  told.meanwhile = await problem(() => page.locator("#save").click());
  await page.locator("#precision").selectOption("int8");
  await see("status", "three.four.png:");
  told.engines = asked.filter((path) => path.includes("/engine/")).length;
} catch (error) {
  told.error = String(error);
  told.problem = await text("problem");
}
console.log(JSON.stringify(told));
await browser.close();
