// What bench_browser measures in Chromium: node browser.mjs CHROMIUM ADDRESS PICTURES FILE..., JSON on stdout.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";

const { chromium } = createRequire(join(process.cwd(), "package.json"))("playwright-core");
const [executablePath, address, pictures, ...files] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const page = await (await browser.newContext()).newPage();
page.setDefaultTimeout(600000);
const session = await browser.newBrowserCDPSession();
let bytes = { engine: 0, rest: 0 };
page.context().on("response", async (response) => {
  const size = Number((await response.allHeaders().catch(() => ({})))["content-length"] ?? 0);
  bytes[response.url().includes("/engine/") ? "engine" : "rest"] += response.fromServiceWorker() ? 0 : size;
});

const says = (word) => page.waitForFunction((part) => document.getElementById("status").textContent.includes(part), word);

async function firstTokens() {
  const begun = performance.now();
  await page.goto(address);
  await says("Ready");
  const ready = performance.now() - begun;
  await says("example-1");
  return { ready_ms: ready, first_tokens_ms: performance.now() - begun };
}

/** Memory of the tab's process in bytes, as the system counts it. */
async function memory() {
  const { processInfo } = await session.send("SystemInfo.getProcessInfo");
  const sizes = await Promise.all(processInfo.filter(({ type }) => type === "renderer").map(async ({ id }) => {
    const status = await readFile(`/proc/${id}/status`, "utf8").catch(() => "");
    return 1024 * Number(/VmRSS:\s+(\d+)/.exec(status)?.[1] ?? 0);
  }));
  return Math.max(...sizes);
}

async function drop(number) {
  const data = (await readFile(files[number % files.length])).toString("base64");
  await page.evaluate(([text, name]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], name, { type: "image/jpeg" }));
    document.getElementById("drop").dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: transfer }));
  }, [data, `picture${number}.jpg`]);
  await says(`picture${number}.jpg:`);
}

const cold = await firstTokens();
const loaded = { ...bytes };
const warm = await firstTokens();
const threads = await page.locator("#times tr:last-child td").textContent();
const sizes = [];
const times = [];
for (let number = 0; number < Number(pictures); number++) {
  const begun = performance.now();
  await drop(number);
  times.push(performance.now() - begun);
  if (number % 10 === 9) sizes.push(await memory());
}
times.sort((a, b) => a - b);
console.log(JSON.stringify({
  chromium: browser.version(),
  loaded_bytes: loaded,
  cold,
  warm,
  threads: Number(threads),
  pictures: Number(pictures),
  picture_ms: { median: times[Math.floor(times.length / 2)], worst: times.at(-1) },
  parts: await page.locator("#times").innerText(),
  memory_bytes: sizes,
}));
await browser.close();
