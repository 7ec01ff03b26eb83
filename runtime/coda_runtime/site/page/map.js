// The tokens of a scale as squares of colour, one of which is chosen by a click or by the arrow keys.

export class TokenMap {
  /** @type {number | null} */
  chosen = null;
  #shape = [1, 1];

  /** @param {HTMLCanvasElement} canvas @param {(index: number) => void} onChoose @param {() => void} onEdit */
  constructor(canvas, onChoose, onEdit) {
    this.canvas = canvas;
    canvas.addEventListener("click", (event) => {
      const box = canvas.getBoundingClientRect();
      const [rows, columns] = this.#shape;
      const column = Math.min(columns - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * columns)));
      const row = Math.min(rows - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * rows)));
      onChoose(row * columns + column);
    });
    canvas.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && this.chosen !== null) return onEdit();
      const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (move === undefined) return undefined;
      event.preventDefault();
      const [rows, columns] = this.#shape;
      const at = this.chosen ?? 0;
      const row = Math.min(rows - 1, Math.max(0, Math.floor(at / columns) + move[0]));
      const column = Math.min(columns - 1, Math.max(0, (at % columns) + move[1]));
      return onChoose(row * columns + column);
    });
  }

  /**
   * @param {Int32Array} ids of the scale
   * @param {[number, number]} shape rows and columns
   * @param {Uint8Array} colours of the codes
   * @param {(index: number) => boolean} isChanged
   */
  draw(ids, shape, colours, isChanged) {
    this.#shape = shape;
    const [rows, columns] = shape;
    const side = Math.max(1, Math.floor(640 / Math.max(rows, columns)));
    this.canvas.width = columns * side;
    this.canvas.height = rows * side;
    const context = this.canvas.getContext("2d");
    ids.forEach((id, index) => {
      const [x, y] = [(index % columns) * side, Math.floor(index / columns) * side];
      context.fillStyle = `rgb(${colours.subarray(id * 3, id * 3 + 3).join(" ")})`;
      context.fillRect(x, y, side, side);
      if (isChanged(index)) ring(context, x + side / 2, y + side / 2, Math.max(2, side / 6));
    });
    if (this.chosen === null) return;
    const [x, y] = [(this.chosen % columns) * side, Math.floor(this.chosen / columns) * side];
    const line = Math.max(3, Math.min(10, side / 6));
    for (const [colour, inset, width] of [["#000", line / 2, line], ["#fff", line / 2, line / 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.strokeRect(x + inset, y + inset, side - 2 * inset, side - 2 * inset);
    }
  }
}

/** @param {CanvasRenderingContext2D} context @param {number} x @param {number} y @param {number} radius */
function ring(context, x, y, radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fillStyle = "#fff";
  context.fill();
  context.lineWidth = Math.max(1.5, radius / 3);
  context.strokeStyle = "#000";
  context.stroke();
}
