// Points and a box in pixels of the picture, with undo, and the command that repeats them.

const tenth = (value) => Math.round(value * 10) / 10;

export class Prompts {
  points = []; // {x, y, label}
  box = null; // [x0, y0, x1, y1]
  version = 0; // counts changes
  #before = [];

  get undoable() {
    return this.#before.length > 0;
  }

  get empty() {
    return !this.points.length && !this.box;
  }

  add(x, y, label) {
    this.#keep();
    this.points.push({ x: tenth(x), y: tenth(y), label });
  }

  draw(x0, y0, x1, y1) {
    this.#keep();
    this.box = [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)].map(tenth);
  }

  clear() {
    if (this.empty) return;
    this.#keep();
    this.points = [];
    this.box = null;
  }

  undo() {
    const last = this.#before.pop();
    if (last) [this.points, this.box] = last;
    this.version++;
  }

  forget() {
    this.points = [];
    this.box = null;
    this.#before = [];
    this.version++;
  }

  // As POST /predict takes them, in the order in which structsam predict gives them.
  get said() {
    const sorted = [...this.points].sort((one, other) => other.label - one.label);
    const points = sorted.map(({ x, y, label }) => [x, y, label]);
    return { points, ...(this.box && { box: this.box }) };
  }

  command(folder, photo, candidate) {
    const { points, box } = this.said;
    const words = ["structsam", "predict", folder, photo];
    if (box) words.push("--box", ...box);
    for (const [x, y, label] of points) words.push(label ? "--point" : "--negative", x, y);
    // The file of --mask would hold all candidates together.
    words.push(...(candidate > 0 ? ["--multimask"] : ["--mask", "mask.png"]), "-o", "overlay.png");
    return words.map(quoted).join(" ");
  }

  #keep() {
    this.version++;
    this.#before.push([[...this.points], this.box]);
  }
}

export function quoted(word) {
  const text = String(word);
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`;
}
