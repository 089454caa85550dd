// The panes that show the picture, one for each export, and what is pointed at in them.

const GAP = 14;
const CAPTION = 44;
const BESIDE = 0.8; // exports stand side by side unless the picture would be smaller than this share of the largest
const DRAG = 5; // pixels of the screen from where a click is a box
const STEP = 0.02; // of the longer side, for an arrow key

export class Stage {
  #root;
  #does;
  #picture = null;
  #panes = [];
  #pressed = null;
  cursor = null; // {x, y}, once an arrow key has been used
  #corner = null;

  // `does` has the functions hover(place, name of the pane), point(place, label), dragging(box), box(box), moved(place), command(key).
  constructor(root, does) {
    this.#root = root;
    this.#does = does;
    root.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.#fit()).observe(root.parentElement);
  }

  mode = "add";

  get panes() {
    return this.#panes;
  }

  // Pixels of the screen that the picture's longer side takes.
  get side() {
    return Math.max(this.#panes[0].top.width, this.#panes[0].top.height);
  }

  show(picture, names) {
    if (picture !== this.#picture) this.cursor = this.#corner = null;
    this.#picture = picture;
    this.#root.hidden = false;
    this.#root.replaceChildren();
    this.#panes = names.map((name) => this.#pane(name));
    this.#fit();
  }

  dropCorner() {
    const had = this.#corner;
    this.#corner = null;
    return Boolean(had);
  }

  #pane(name) {
    const figure = document.createElement("figure");
    const holder = document.createElement("div");
    holder.className = "frame";
    const [base, top] = [document.createElement("canvas"), document.createElement("canvas")];
    holder.append(base, top);
    const caption = document.createElement("figcaption");
    figure.append(holder, caption);
    this.#root.append(figure);
    const pane = { name, figure, holder, base, top, caption, scale: 1 };
    holder.addEventListener("pointerdown", (event) => this.#press(event, pane));
    holder.addEventListener("pointermove", (event) => this.#move(event, pane));
    holder.addEventListener("pointerup", (event) => this.#release(event, pane));
    holder.addEventListener("pointercancel", () => this.#cancel());
    holder.addEventListener("pointerleave", () => this.#pressed ?? this.#does.hover(null, null));
    return pane;
  }

  // The most columns that show the picture nearly as large as any number of them.
  #fit() {
    if (!this.#picture || !this.#panes.length) return;
    const { width, height } = this.#picture;
    const count = this.#panes.length;
    const [space, tall] = this.#space(count);
    const ways = Array.from({ length: count }, (_, index) => {
      const [columns, rows] = [index + 1, Math.ceil(count / (index + 1))];
      const across = (space - GAP * (columns - 1)) / columns / width;
      const down = ((tall - GAP * (rows - 1)) / rows - CAPTION) / height;
      return { columns, scale: Math.min(across, down) };
    });
    const largest = Math.max(...ways.map((way) => way.scale));
    const best = ways.findLast((way) => way.scale >= BESIDE * largest);
    this.#root.style.gridTemplateColumns = `repeat(${best.columns}, auto)`;
    const ratio = Math.min(2, devicePixelRatio || 1);
    for (const pane of this.#panes) {
      const [across, down] = [Math.round(width * best.scale), Math.round(height * best.scale)];
      for (const canvas of [pane.base, pane.top]) {
        canvas.width = Math.round(across * ratio);
        canvas.height = Math.round(down * ratio);
        canvas.style.width = `${across}px`;
        canvas.style.height = `${down}px`;
      }
      pane.caption.style.width = `${across}px`;
      pane.scale = across / width;
      pane.ratio = ratio;
    }
    this.#does.fitted();
  }

  #space(count) {
    const style = getComputedStyle(this.#root.parentElement);
    const inner = (size, before, after) => size - parseFloat(style[before]) - parseFloat(style[after]);
    const { clientWidth, clientHeight } = this.#root.parentElement;
    const across = inner(clientWidth, "paddingLeft", "paddingRight");
    // A phone scrolls: there the panes say how high the stage is.
    if (matchMedia("(max-width: 860px)").matches) return [across, innerHeight * (count > 1 ? 1.1 : 0.62)];
    return [across, inner(clientHeight, "paddingTop", "paddingBottom")];
  }

  // The place in the picture, within it.
  #place(event, pane) {
    const { left, top } = pane.holder.getBoundingClientRect();
    const within = (value, most) => Math.min(Math.max(value, 0), most);
    return {
      x: within((event.clientX - left) / pane.scale, this.#picture.width),
      y: within((event.clientY - top) / pane.scale, this.#picture.height),
    };
  }

  #press(event, pane) {
    if (event.button !== 0 || this.#pressed) return;
    pane.holder.setPointerCapture(event.pointerId);
    this.#pressed = { ...this.#place(event, pane), clientX: event.clientX, clientY: event.clientY, drawn: false };
  }

  #move(event, pane) {
    const start = this.#pressed;
    if (!start) {
      if (event.pointerType !== "touch") this.#does.hover(this.#place(event, pane), pane.name);
      return;
    }
    if (event.pointerType === "touch" && this.mode !== "box") return;
    const far = Math.hypot(event.clientX - start.clientX, event.clientY - start.clientY) > DRAG;
    start.drawn ||= far;
    if (start.drawn) this.#does.dragging(between(start, this.#place(event, pane)));
  }

  #release(event, pane) {
    const start = this.#pressed;
    if (!start) return;
    this.#pressed = null;
    if (start.drawn) this.#does.box(between(start, this.#place(event, pane)));
    else if (this.mode !== "box") this.#does.point(start, event.shiftKey || this.mode === "remove" ? 0 : 1);
  }

  #cancel() {
    this.#pressed = null;
    this.#does.dragging(null);
  }

  // Ends a box that is being drawn; whether there was one.
  stop() {
    const drawn = this.#pressed?.drawn;
    if (drawn) this.#cancel();
    return Boolean(drawn);
  }

  #key(event) {
    if (!this.#picture || event.ctrlKey || event.metaKey || event.altKey) return;
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const { width, height } = this.#picture;
    if (event.key in arrows) {
      const [across, down] = arrows[event.key];
      const step = Math.max(1, Math.round(Math.max(width, height) * STEP)) * (event.shiftKey ? 5 : 1);
      const from = this.cursor ?? { x: Math.round(width / 2), y: Math.round(height / 2) };
      this.cursor = {
        x: Math.min(Math.max(from.x + across * step, 0), width),
        y: Math.min(Math.max(from.y + down * step, 0), height),
      };
      if (this.#corner) this.#does.dragging(between(this.#corner, this.cursor));
      this.#does.moved(this.cursor);
    } else if (!this.cursor) {
      return;
    } else if (event.key === "Enter" || event.key === " ") {
      this.#does.point(this.cursor, event.shiftKey || this.mode === "remove" ? 0 : 1);
    } else if (event.key === "-") {
      this.#does.point(this.cursor, 0);
    } else if (event.key === "b" || event.key === "B") {
      if (this.#corner) this.#does.box(between(this.#corner, this.cursor));
      else this.#does.dragging(between(this.cursor, this.cursor));
      this.#corner = this.#corner ? null : this.cursor;
    } else {
      return;
    }
    event.preventDefault();
  }
}

const between = (one, other) => [
  Math.min(one.x, other.x), Math.min(one.y, other.y), Math.max(one.x, other.x), Math.max(one.y, other.y),
];
