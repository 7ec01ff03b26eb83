// PSNR at each scale, as a line; a click on a point goes to its scale.

const SVG = "http://www.w3.org/2000/svg";
const [LEFT, RIGHT, TOP, BOTTOM, WIDTH, HEIGHT] = [44, 14, 12, 40, 460, 220];

/**
 * @param {Element} svg
 * @param {(number | null)[]} values PSNR of each scale, null where it is not there yet
 * @param {number} now the scale that is shown, from 1
 * @param {(scale: number) => void} onChoose
 */
export function drawGain(svg, values, now, onChoose) {
  svg.replaceChildren();
  const known = values.filter((value) => value !== null && Number.isFinite(value));
  if (known.length === 0) {
    add(svg, "text", { x: WIDTH / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "comes with the first image");
    return;
  }
  const low = Math.floor(Math.min(...known) / 2) * 2;
  const high = Math.max(low + 4, Math.ceil(Math.max(...known) / 2) * 2);
  const toX = (/** @type {number} */ index) => LEFT + ((index + 0.5) / values.length) * (WIDTH - LEFT - RIGHT);
  const toY = (/** @type {number} */ value) => HEIGHT - BOTTOM - ((value - low) / (high - low)) * (HEIGHT - BOTTOM - TOP);
  const step = Math.max(2, 2 * Math.ceil((high - low) / 10));
  for (let tick = low; tick <= high; tick += step) {
    add(svg, "line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: toY(tick), y2: toY(tick) });
    add(svg, "text", { x: LEFT - 8, y: toY(tick) + 4.5, "text-anchor": "end" }, String(tick));
  }
  const points = values.flatMap((value, index) => (value === null || !Number.isFinite(value) ? [] : [{ index, value, x: toX(index), y: toY(value) }]));
  add(svg, "polyline", { points: points.map(({ x, y }) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ") });
  values.forEach((_, index) => add(svg, "text", { x: toX(index), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, String(index + 1)));
  add(svg, "text", { class: "axis", x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, "scales decoded");
  for (const { index, value, x, y } of points) {
    const mark = add(svg, "circle", { class: index + 1 === now ? "now" : "c1 series", cx: x, cy: y, r: index + 1 === now ? 6 : 3.5 });
    const hit = add(svg, "circle", { class: "hit", cx: x, cy: y, r: 16 });
    for (const circle of [mark, hit]) circle.addEventListener("click", () => onChoose(index + 1));
    add(hit, "title", {}, `${index + 1} scales: ${value.toFixed(2)} dB`);
  }
}

/** @param {Element} parent @param {string} name @param {Record<string, string | number>} attributes @param {string} [text] */
function add(parent, name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}
