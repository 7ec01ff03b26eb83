// The page: what is chosen, what is shown. All computing is the worker's.

import { closeCamera, openCamera, takePicture } from "./camera.js";
import { Client } from "./client.js";
import { drawGain } from "./gain.js";
import { TokenMap } from "./map.js";

const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));
const NEAR = 12;
const PARTS = { open: "open the file", fit: "resize", encoder: "encoder", quantizer: "quantizer", decoder: "decoder" };

/**
 * What is on the page. `pictures` are those of the ids, by number of scales; `round` tells late answers from new, and
 * `wanted` what was asked for last, an image or a file of tokens, from what came before it.
 */
const state = { wanted: 0, name: "picture", ids: null, encoded: null, original: null, scale: 1, pictures: [], psnr: [], times: {}, round: 0 };
let site;
let client;
let tok; // spec, threads, colours
let ready; // settles once the tokenizer is loaded, or cannot be

function say(text) {
  $("problem").hidden = true;
  $("status").textContent = text;
}

function complain(error) {
  $("problem").textContent = error instanceof Error ? error.message : String(error);
  say("");
  $("problem").hidden = false;
}

/** Run something that the user asked for, and tell what goes wrong. */
async function attempt(work) {
  try {
    await work();
  } catch (error) {
    complain(error);
  }
}

// --- loading

/** Wait until a service worker runs; rejects where it will not. @param {ServiceWorker} worker */
function settled(worker) {
  return new Promise((resolve, reject) => {
    const look = () => {
      if (worker.state === "activated") resolve(undefined);
      if (worker.state === "redundant") reject(new Error("it was not installed"));
    };
    worker.addEventListener("statechange", look);
    look();
  });
}

async function keepForOffline() {
  if (!("serviceWorker" in navigator)) return "It is not kept for use without a network: that takes https, or localhost.";
  try {
    const registered = await navigator.serviceWorker.register("sw.js");
    // Not by serviceWorker.ready, which never comes where there is no room for its files, or one is missing.
    await settled(registered.active ?? registered.waiting ?? registered.installing);
    if (navigator.serviceWorker.controller === null) {
      await new Promise((resolve) => {
        navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true });
        setTimeout(resolve, 3000); // a page that was loaded anew by force stays without one
      });
    }
    return navigator.serviceWorker.controller ? "Once loaded, it works without a network." : "Load it once more to keep it for use without a network.";
  } catch {
    return "It is not kept for use without a network: the browser does not allow it here, or has no room.";
  }
}

async function start() {
  const answer = await fetch("site.json").catch(() => null);
  site = answer?.ok ? await answer.json().catch(() => null) : null;
  if (site === null) throw new Error("site.json is missing; copy the whole folder that `coda site` wrote");
  $("variant").textContent = `CODA · ${site.variant}`;
  $("engine").textContent = site.engine.version;
  $("license").textContent = site.license ? `Weights: ${site.license}.` : "";
  fillSettings();
  $("offline").textContent = await keepForOffline();
  client = new Client(showProgress, complain);
  await loadTokenizer();
  showExamples();
}

function fillSettings() {
  const names = { wasm: "processor (WebAssembly)", webgpu: "graphics card (WebGPU)" };
  for (const provider of Object.keys(site.engine.providers)) {
    const option = new Option(names[provider] ?? provider, provider);
    option.disabled = provider === "webgpu" && !("gpu" in navigator);
    $("provider").add(option);
  }
  for (const precision of site.precisions) $("precision").add(new Option(precision, precision));
  $("precision-line").hidden = site.precisions.length < 2;
}

async function loadTokenizer() {
  $("progress").classList.remove("done");
  setEnabled(false);
  try {
    tok = await client.call("load", { site, page: location.href, provider: $("provider").value, precision: $("precision").value });
  } catch (error) {
    for (const id of ["provider", "precision"]) $(id).disabled = false; // another choice may load
    throw error;
  }
  const { spec } = tok;
  $("progress").classList.add("done");
  $("title").textContent = `An image in ${spec.numTokens} tokens`;
  document.title = `An image in ${spec.numTokens} tokens`;
  $("scale").max = spec.scales.length;
  $("code").max = spec.vocabSize - 1;
  for (const id of ["original", "picture"]) [$(id).width, $(id).height] = [spec.width, spec.height];
  $("original-says").textContent = `${spec.width} × ${spec.height}, as the tokenizer sees it`;
  setEnabled(true);
  say("Ready.");
}

const arrived = new Map();
function showProgress({ file, loaded, total }) {
  arrived.set(file, [loaded, total]);
  const sums = [...arrived.values()].reduce(([a, b], [c, d]) => [a + c, b + d], [0, 0]);
  $("progress").value = sums[0] / sums[1];
  say(`Loading ${file} (${(total / 1e6).toFixed(1)} MB)…`);
}

function setEnabled(on) {
  for (const id of ["choose", "camera", "open", "provider", "precision"]) $(id).disabled = !on;
  for (const button of $("examples").children) button.disabled = !on;
}

// --- pictures in

function showExamples() {
  $("examples").replaceChildren(...site.examples.map((address, index) => {
    const image = new Image();
    image.src = address;
    image.alt = `Example ${index + 1}`;
    const button = document.createElement("button");
    button.type = "button";
    button.append(image);
    button.addEventListener("click", () => attempt(() => chooseExample(index)));
    return button;
  }));
}

async function chooseExample(index) {
  const wanted = ++state.wanted;
  const answer = await fetch(site.examples[index]);
  if (!answer.ok) throw new Error(`${site.examples[index]} is missing; copy the whole folder that \`coda site\` wrote`);
  const file = await answer.blob();
  if (wanted !== state.wanted || !(await encode(file, `example-${index + 1}.png`))) return;
  [...$("examples").children].forEach((button, at) => button.setAttribute("aria-pressed", String(at === index)));
}

/** Show an image and its tokens; return whether nothing else was asked for meanwhile. */
async function encode(source, name) {
  const wanted = ++state.wanted;
  await ready;
  if (wanted !== state.wanted) return false;
  say(`Encoding ${name}…`);
  const { ids, original, size, times } = await client.call("encode", { source });
  if (wanted !== state.wanted) return false;
  choose(null);
  $("undo").disabled = true;
  for (const button of $("examples").children) button.setAttribute("aria-pressed", "false");
  Object.assign(state, { name: name.replace(/\.[^.]*$/, ""), encoded: ids.slice(), original });
  put($("original"), original);
  note(times);
  await show(ids, tok.spec.scales.length);
  if (wanted !== state.wanted) return false;
  say(`${name}: ${size[0]} × ${size[1]} pixels, ${ids.length} tokens.`);
  return true;
}

/** Show ids from now on, in the first place those of the first `scale` scales. */
async function show(ids, scale) {
  const { scales } = tok.spec;
  const round = ++state.round;
  Object.assign(state, { ids, pictures: Array(scales.length).fill(null), psnr: Array(scales.length).fill(null) });
  for (const id of ["scale", "save", "save-picture"]) $(id).disabled = false;
  await go(scale);
  if (round === state.round) attempt(() => fillIn(round)); // the other scales, while the page goes on
}

async function fillIn(round) {
  for (let other = tok.spec.scales.length; other >= 1 && round === state.round; other--) await picture(other, round);
}

/** Return the image of the first scales, decoded where it is not there yet. */
async function picture(scale, round = state.round) {
  if (state.pictures[scale - 1] === null) {
    const { ids, original } = state;
    let answer;
    try {
      answer = await client.call("decode", { ids: ids.slice(0, tok.spec.prefixLengths[scale - 1]), original });
    } catch (error) {
      if (round === state.round) throw error; // or else nobody waits for it any more
    }
    if (round !== state.round) return null;
    state.pictures[scale - 1] = answer.image;
    state.psnr[scale - 1] = answer.psnr;
    note(answer.times);
    drawGain($("gain"), state.psnr, state.scale, go);
  }
  return state.pictures[scale - 1];
}

// --- what is shown

async function go(scale) {
  if (scale !== state.scale) choose(null);
  state.scale = scale;
  $("scale").value = scale;
  tell();
  const round = state.round;
  const found = await picture(scale, round);
  if (found === null || state.scale !== scale || round !== state.round) return;
  put($("picture"), found);
  tell();
}

function tell() {
  const { spec } = tok;
  const [rows, columns] = spec.scales[state.scale - 1];
  const count = spec.prefixLengths[state.scale - 1];
  const bits = count * Math.ceil(Math.log2(spec.vocabSize));
  const psnr = state.psnr[state.scale - 1];
  $("scale-says").textContent = `${state.scale} of ${spec.scales.length} scales, ${rows} × ${columns} added last`;
  $("scale").setAttribute("aria-valuetext", `${state.scale} of ${spec.scales.length} scales, ${count} tokens`);
  $("map-says").textContent = `scale ${state.scale}, ${rows} × ${columns}`;
  $("picture-says").textContent = `${count} of ${spec.numTokens} tokens`;
  $("count").textContent = String(count);
  $("count-says").textContent = `of ${spec.numTokens}, ${new Set(state.ids.subarray(0, count)).size} different`;
  $("bytes").textContent = `${Math.ceil(bits / 8).toLocaleString("en")} bytes`;
  $("bytes-says").textContent = `${bits.toLocaleString("en")} bits`;
  $("bpp").textContent = (bits / (spec.width * spec.height)).toFixed(3);
  $("psnr").textContent = state.original === null ? "no original" : psnr === null ? "…" : Number.isFinite(psnr) ? `${psnr.toFixed(2)} dB` : "identical";
  drawMap();
  drawGain($("gain"), state.psnr, state.scale, go);
}

function put(canvas, { data, width, height }) {
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d").putImageData(new ImageData(data, width, height), 0, 0);
}

function note(times) {
  for (const { part, ms } of times) state.times[part] = ms;
  $("times").replaceChildren(...Object.entries(PARTS).filter(([part]) => part in state.times).map(([part, words]) => {
    const row = document.createElement("tr");
    const [head, cell] = [document.createElement("th"), document.createElement("td")];
    head.scope = "row";
    head.textContent = words;
    cell.textContent = `${state.times[part] < 10 ? state.times[part].toFixed(1) : state.times[part].toFixed(0)} ms`;
    row.append(head, cell);
    return row;
  }));
  const threads = document.createElement("tr");
  threads.innerHTML = "<th scope=row>threads</th><td></td>";
  threads.lastChild.textContent = String(tok.threads);
  $("times").append(threads);
}

// --- one token

const map = new TokenMap($("map"), (index) => choose(index), () => $("code").focus());

function at(index) {
  return (tok.spec.prefixLengths[state.scale - 2] ?? 0) + index;
}

function drawMap() {
  const { scales, prefixLengths } = tok.spec;
  const ids = state.ids.subarray(prefixLengths[state.scale - 2] ?? 0, prefixLengths[state.scale - 1]);
  map.draw(ids, scales[state.scale - 1], tok.colours, (index) => state.encoded !== null && state.encoded[at(index)] !== state.ids[at(index)]);
}

function choose(index) {
  if (state.ids === null) return;
  map.chosen = index;
  $("token").hidden = $("near").hidden = index === null;
  if (index === null) {
    $("token-says").textContent = "Choose a square of the token map, by a click or by the arrow keys.";
    return;
  }
  const columns = tok.spec.scales[state.scale - 1][1];
  const id = state.ids[at(index)];
  $("token-says").textContent = `Scale ${state.scale}, row ${Math.floor(index / columns) + 1}, column ${(index % columns) + 1}: code ${id} of ${tok.spec.vocabSize}.`;
  $("code").value = id;
  fill($("swatch"), id);
  drawMap();
  showNear(id);
}

function fill(canvas, id) {
  const context = canvas.getContext("2d");
  context.fillStyle = `rgb(${tok.colours.subarray(id * 3, id * 3 + 3).join(" ")})`;
  context.fillRect(0, 0, canvas.width, canvas.height);
}

async function showNear(id) {
  const codes = await client.call("near", { id, count: NEAR });
  if (map.chosen === null || Number($("code").value) !== id) return;
  $("near").replaceChildren(...codes.map((code) => {
    const [button, swatch] = [document.createElement("button"), document.createElement("canvas")];
    [swatch.width, swatch.height] = [8, 4];
    fill(swatch, code);
    button.type = "button";
    button.append(swatch, String(code));
    button.addEventListener("click", () => attempt(() => change(code)));
    return button;
  }));
}

async function change(code) {
  if (map.chosen === null) return;
  if (!Number.isInteger(code) || code < 0 || code >= tok.spec.vocabSize) {
    throw new Error(`There is no code ${Number.isNaN(code) ? "given" : code}; give a whole number from 0 to ${tok.spec.vocabSize - 1}`);
  }
  const ids = state.ids.slice();
  ids[at(map.chosen)] = code;
  await replace(ids, `Token changed to ${code}.`);
}

async function replace(ids, words) {
  $("undo").disabled = state.encoded === null || ids.every((id, index) => id === state.encoded[index]);
  const chosen = map.chosen;
  const shown = show(ids, state.scale);
  if (chosen !== null) choose(chosen);
  say(words);
  await shown;
}

// --- files out and in

function download(data, name, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([data], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function openTokens(file) {
  const wanted = ++state.wanted;
  await ready;
  const { ids, names, known } = await client.call("open", { bytes: new Uint8Array(await file.arrayBuffer()), name: file.name });
  if (wanted !== state.wanted) return;
  const [first] = ids;
  if (first.length !== tok.spec.numTokens) throw new Error(`${file.name} has ${first.length} ids an image; the page takes all ${tok.spec.numTokens}`);
  Object.assign(state, { name: names[0].replace(/^.*\//, "").replace(/\.[^.]*$/, ""), encoded: first.slice(), original: null });
  $("original").getContext("2d").clearRect(0, 0, $("original").width, $("original").height);
  for (const button of $("examples").children) button.setAttribute("aria-pressed", "false");
  choose(null);
  $("undo").disabled = true;
  await show(first, tok.spec.scales.length);
  if (wanted !== state.wanted) return;
  const more = ids.length > 1 ? ` The file has ${ids.length} images; this is the first.` : "";
  say(`${names[0]}: tokens without their original.${more}${known ? "" : " The file does not say which tokenizer made them."}`);
}

function take(file) {
  if (file) attempt(() => (file.name.endsWith(".npz") ? openTokens(file) : encode(file, file.name)));
}

// --- wiring

$("choose").addEventListener("click", () => $("file").click());
$("open").addEventListener("click", () => $("tokens-file").click());
for (const id of ["file", "tokens-file"]) {
  $(id).addEventListener("change", (event) => {
    take(event.target.files[0]);
    event.target.value = "";
  });
}
for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", over);
    if (name !== "drop") return;
    const [file] = event.dataTransfer.files;
    if (file === undefined) complain("What was dropped is no file; save the image first, and drop its file");
    take(file);
  });
}
addEventListener("paste", (event) => take(event.clipboardData?.files[0]));
$("camera").addEventListener("click", () => attempt(async () => {
  await openCamera($("video"));
  $("viewfinder").hidden = false;
  $("take").focus();
}));
const closeFinder = () => {
  closeCamera($("video"));
  $("viewfinder").hidden = true;
};
$("stop").addEventListener("click", closeFinder);
$("take").addEventListener("click", () => attempt(async () => {
  const image = takePicture($("video"));
  closeFinder();
  await encode(image, "camera.png");
}));
$("scale").addEventListener("input", () => attempt(() => go(Number($("scale").value))));
$("apply").addEventListener("click", () => attempt(() => change($("code").valueAsNumber)));
$("code").addEventListener("keydown", (event) => {
  if (event.key === "Enter") attempt(() => change($("code").valueAsNumber));
});
$("random").addEventListener("click", () => attempt(() => change(Math.floor(Math.random() * tok.spec.vocabSize))));
$("undo").addEventListener("click", () => attempt(() => replace(state.encoded.slice(), "As it was encoded.")));
$("save").addEventListener("click", () => attempt(async () => {
  download(await client.call("save", { ids: state.ids, name: `${state.name}.png` }), "tokens.npz", "application/octet-stream");
}));
$("save-picture").addEventListener("click", () => $("picture").toBlob((blob) => download(blob, `${state.name}.png`, "image/png")));
for (const id of ["provider", "precision"]) {
  $(id).addEventListener("change", () => attempt(async () => {
    state.times = {};
    state.round++; // scales that are still to be decoded would meet no tokenizer, or another
    arrived.clear();
    ready = loadTokenizer();
    await ready;
    if (state.original !== null) await encode(state.original, `${state.name}.png`);
    else if (state.ids !== null) await show(state.ids, state.scale);
  }));
}
ready = start();
attempt(async () => {
  await ready;
  if (state.wanted === 0 && site.examples.length > 0) await chooseExample(0);
});
