// Drives the page of `coda site` in Chromium, by playwright-core, which is in the folder that it is run in:
//   node drive.mjs CHROMIUM ADDRESS OUT FILE...
// Drops each file, drags, clicks, changes a token, downloads tokens.npz and opens it, and loads the page again without a
// network. Prints what it saw as JSON; leaves OUT/NAME.npz for each file, OUT/changed.npz, OUT/picture.png, and pages as
// pictures where SHOTS names the folder for them.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { basename, join } from "node:path";

const { chromium } = createRequire(join(process.cwd(), "package.json"))("playwright-core");
const [executablePath, address, out, ...files] = process.argv.slice(2);
const LIMIT = 240000;

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, acceptDownloads: true });
const page = await context.newPage();
page.setDefaultTimeout(LIMIT);
const told = { console: [], failures: [] };
page.on("console", (message) => ["error", "warning"].includes(message.type()) && told.console.push(message.text()));
page.on("pageerror", (error) => told.failures.push(String(error)));
page.on("requestfailed", (request) => told.failures.push(`${request.url()}: ${request.failure()?.errorText}`));
const text = (id) => page.locator(`#${id}`).textContent();
const pixels = (id) => page.evaluate((name) => document.getElementById(name).toDataURL(), id);

/** Wait until a word is in an element, or the page tells of a problem. */
async function see(id, word) {
  await page.waitForFunction(
    ([name, part]) => document.getElementById(name).textContent.includes(part) || !document.getElementById("problem").hidden,
    [id, word],
  );
  if (await page.locator("#problem").isVisible()) throw new Error(`the page says: ${await text("problem")}`);
}

/** Wait until the picture of every scale is there. */
const settled = () => page.waitForFunction(() => document.querySelectorAll("#gain circle.hit").length === Number(document.getElementById("scale").max));

async function save(name) {
  const [download] = await Promise.all([page.waitForEvent("download"), page.locator("#save").click()]);
  await download.saveAs(join(out, name));
  return download.suggestedFilename();
}

async function drop(file) {
  const bytes = (await readFile(file)).toString("base64");
  await page.evaluate(([data, name]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))], name, { type: "image/jpeg" }));
    document.getElementById("drop").dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: transfer }));
  }, [bytes, basename(file)]);
  await see("status", `${basename(file)}:`);
}

try {
  await page.goto(address);
  await see("status", "example-1");
  told.title = await text("title");
  told.offline = await text("offline");
  for (const file of files) {
    await drop(file);
    told.saved = await save(`${basename(file)}.npz`);
  }
  await settled();
  told.times = await text("times");
  // Dragging shows the coarser pictures.
  const whole = await pixels("picture");
  told.psnr = [await text("psnr")];
  await page.locator("#scale").scrollIntoViewIfNeeded();
  const box = await page.locator("#scale").boundingBox();
  await page.mouse.move(box.x + box.width - 8, box.y + box.height / 2);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * 0.5, box.y + box.height / 2, { steps: 8 });
  await page.mouse.up();
  told.dragged = await text("scale-says");
  await see("psnr", "dB");
  told.coarser = whole !== (await pixels("picture"));
  told.psnr.push(await text("psnr"));
  await page.locator("#scale").press("End");
  await see("scale-says", "10 of 10");
  // A token, by the mouse, then by the keyboard.
  await page.locator("#map").scrollIntoViewIfNeeded();
  await page.locator("#map").click({ position: { x: 60, y: 60 } });
  told.clicked = await text("token-says");
  await page.locator("#map").press("ArrowRight");
  told.moved = await text("token-says");
  const code = Number(await page.locator("#code").inputValue());
  await page.locator("#map").press("Enter");
  await page.locator("#code").fill(String((code + 1234) % 4096));
  await page.locator("#code").press("Enter");
  await see("status", "Token changed");
  await settled();
  told.changed = whole !== (await pixels("picture"));
  told.psnr.push(await text("psnr"));
  await save("changed.npz");
  if (process.env.SHOTS) await shoot();
  // A code that is none is answered with the way out.
  await page.locator("#code").fill("9999999");
  await page.locator("#code").press("Enter");
  await page.waitForFunction(() => !document.getElementById("problem").hidden);
  told.problem = await text("problem");
  await page.locator("#undo").click();
  await see("status", "As it was encoded");
  await settled();
  told.undone = whole === (await pixels("picture"));
  // Back from the file.
  await page.locator("#tokens-file").setInputFiles(join(out, "changed.npz"));
  await see("status", "tokens without their original");
  told.opened = await text("status");
  const [picture] = await Promise.all([page.waitForEvent("download"), page.locator("#save-picture").click()]);
  await picture.saveAs(join(out, "picture.png"));
  const beside = await context.newPage();
  told.beside = (await beside.goto(`${address}beside`)).fromServiceWorker();
  await beside.close();
  told.failures_online = told.failures.length;
  // Without a network, and now with the headers that the service worker adds.
  await context.setOffline(true);
  await page.reload();
  await see("status", "example-1");
  await drop(files[0]);
  await save("offline.npz");
  told.isolated = await page.evaluate(() => crossOriginIsolated);
  told.threads = await page.locator("#times tr:last-child td").textContent();
  told.heap = await page.evaluate(() => performance.memory?.usedJSHeapSize);
} catch (error) {
  told.error = String(error);
  await page.screenshot({ path: join(out, "failed.png"), fullPage: true }).catch(() => undefined);
}
console.log(JSON.stringify(told));
await browser.close();

async function shoot() {
  for (const width of [1280, 768, 390]) {
    for (const colorScheme of ["light", "dark"]) {
      await page.setViewportSize({ width, height: 900 });
      await page.emulateMedia({ colorScheme });
      await page.screenshot({ path: join(process.env.SHOTS, `${width}-${colorScheme}.png`), fullPage: true });
      told.overflow ??= [];
      told.overflow.push(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth));
    }
  }
  await page.setViewportSize({ width: 1280, height: 900 });
}
