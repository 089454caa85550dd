// The page: what is shown, what is asked, and what the answers change.

import * as drawing from "./drawing.js";
import { Prompts, quoted } from "./prompts.js";
import { decode } from "./rle.js";
import * as server from "./server.js";
import { Stage } from "./stage.js";

const MASK = 1024; // longest side of masks on the screen
const HOVER = 512;
const CANDIDATES = [0, 1, 2, 3];
const CALLED = ["The one mask of structsam predict", "First candidate of --multimask", "Second candidate of --multimask", "Third candidate of --multimask"];
const find = (id) => document.getElementById(id);

let about; // GET /exports
let picture = null; // {file, name, id, width, height, encoder_ms, image}
let shown = []; // names of exports
let answers = []; // of POST /predict, for these
let candidate = 0; // which of the masks is looked at
let chosen = false; // whether a person chose it
let hovered = null; // {x, y, name of the export}
let hover = null; // {mask there, name}
let dragged = null; // a box that is being drawn
let everything = null; // answers of POST /everything, by export
const prompts = new Prompts();
const plans = new Map(); // by export and block
const stage = new Stage(find("panes"), {
  hover: (place, name) => pointAt(place && { ...place, name }),
  point: (place, label) => change(() => prompts.add(place.x, place.y, label)),
  box: (box) => change(() => prompts.draw(...box)),
  dragging: (box) => {
    dragged = box;
    hovered = null;
    draw();
  },
  moved: (place) => {
    say(`Cursor at ${Math.round(place.x)}, ${Math.round(place.y)}`);
    draw();
    pointAt({ ...place, name: shown[0] });
  },
  fitted: () => {
    drawBases();
    draw();
  },
});

// ---------------------------------------------------------------- asking

// What comes of a request about a picture that is no longer shown.
class Outdated extends Error {}

// Runs a request. An answer takes an error from the screen; an error is shown, unless it is outdated.
async function attempt(work) {
  try {
    const made = await work();
    find("error").hidden = true;
    return made;
  } catch (error) {
    if (error instanceof Outdated) return null;
    if (!(error instanceof server.ServerError)) throw error;
    fail(error.message);
    return null;
  }
}

// A request about a picture. The server keeps a few and may have dropped it: then it gets it again.
async function ofOne(one, work) {
  try {
    return await work(one.id);
  } catch (error) {
    if (error.status !== 404) throw error;
    Object.assign(one, await server.embed(one.file, one.name));
    return work(one.id);
  }
}

// A request about the picture that is shown; outdated if meanwhile another one is.
async function ofPicture(work) {
  const asked = picture;
  try {
    return await ofOne(asked, work);
  } finally {
    if (asked !== picture) throw new Outdated(); // in place of an answer, and of an error too
  }
}

// Runs a request, one at a time: while it is under way, whatever changes is asked once, at its end.
function oneAtATime(ask) {
  let [asking, again] = [false, false];
  return async () => {
    again = true;
    if (asking) return;
    asking = true;
    while (again) {
      again = false;
      await ask();
    }
    asking = false;
  };
}

const refresh = oneAtATime(askPrompts); // waits for no answer to what is hovered over
const refreshHover = oneAtATime(askHover);

function pointAt(place) {
  const next = prompts.empty && !everything ? place : null;
  const same = next && hovered && next.x === hovered.x && next.y === hovered.y && next.name === hovered.name;
  hovered = next;
  if (!same) refreshHover();
}

async function askHover() {
  if (!hovered || !picture) {
    if (prompts.empty) hover = null; // otherwise it stays until the prompt is answered
    draw();
    return;
  }
  const { x, y, name } = hovered;
  const said = { points: [[x, y, 1]], exports: [name], candidates: CANDIDATES.slice(1), side: HOVER };
  const made = await attempt(() => ofPicture((id) => server.post("/predict", { id, ...said })));
  if (!made || !hovered || !prompts.empty) return;
  const { masks } = made.answers[0];
  hover = { name, mask: decode(masks[best(masks)].rle) };
  draw();
}

// As SAM is meant to be used: a single point is ambiguous and has three candidates, other prompts have one mask.
function preferred(masks) {
  return prompts.points.length === 1 && !prompts.box ? 1 + best(masks.slice(1)) : 0;
}

function best(masks) {
  return masks.reduce((most, one, index) => (one.predicted_iou > masks[most].predicted_iou ? index : most), 0);
}

async function askPrompts() {
  if (prompts.empty) return;
  const [version, names] = [prompts.version, shown];
  const said = { ...prompts.said, exports: names, candidates: CANDIDATES, side: Math.min(stage.side, MASK) };
  const made = await attempt(() => ofPicture((id) => server.post("/predict", { id, ...said })));
  if (!made || version !== prompts.version || names !== shown) return;
  hover = null;
  answers = made.answers;
  if (!chosen) candidate = preferred(answers[0].masks);
  showAnswers();
  requestAnimationFrame(() => measure(version));
}

function change(how) {
  performance.mark("prompt");
  how();
  dragged = hovered = everything = null;
  if (prompts.points.length !== 1 || prompts.box) hover = null;
  if (prompts.empty) {
    answers = [];
    chosen = false;
  }
  showAnswers();
  refresh();
}

// How long a prompt took to be on the screen, for whoever looks: benchmarks and the developer's tools.
function measure(version) {
  if (version === prompts.version && performance.getEntriesByName("prompt").length) {
    performance.measure("prompt to mask", "prompt");
    performance.clearMarks("prompt");
  }
}

async function findAll() {
  if (!picture || find("everything").disabled) return;
  const numbers = { points_per_side: "side", pred_iou_thresh: "iou", stability_score_thresh: "stability" };
  const settings = Object.fromEntries(Object.entries(numbers).map(([name, id]) => [name, find(id).valueAsNumber]));
  const side = Math.min(stage.side, MASK);
  const end = progress(3000 * shown.length, "Looking for all masks");
  find("everything").disabled = true;
  const [version, names] = [prompts.version, shown];
  const found = await attempt(async () => {
    const made = [];
    for (const name of names) {
      const said = { export: name, side, ...settings };
      made.push(await ofPicture((id) => server.post("/everything", { id, ...said })));
    }
    return made;
  });
  find("everything").disabled = false;
  end();
  if (!found || version !== prompts.version || names !== shown) return; // meanwhile a person has asked something else
  prompts.clear();
  answers = [];
  hovered = hover = null;
  everything = found.map((one) => {
    const masks = one.masks.sort((first, second) => second.area - first.area).map((mask) => decode(mask.segmentation));
    return { count: masks.length, ms: one.ms, settings, drawn: drawing.all(masks, one.width, one.height) };
  });
  say(`${everything[0].count} masks found`);
  showAnswers();
  draw();
}

// ---------------------------------------------------------------- picture

let loads = 0;
async function load(file, name) {
  const size = file.size / 2 ** 20;
  const most = about.limits.bytes / 2 ** 20;
  if (size > most) {
    fail(`${name} has ${size.toFixed(0)} MiB, expected ${most} MiB at most; make it smaller.`);
    return;
  }
  const expected = about.exports.reduce((sum, one) => sum + one.encoder_ms, 200);
  const count = about.exports.length;
  const end = progress(expected, count > 1 ? `Encoding ${name} with ${count} exports` : `Encoding ${name}`);
  const load = ++loads;
  const made = await attempt(async () => {
    const said = await server.embed(file, name);
    const image = await createImageBitmap(await server.blob(`/pictures/${said.id}`));
    return { file, name, image, ...said };
  });
  end();
  if (!made || load !== loads) return; // another picture was chosen meanwhile
  picture = made;
  prompts.forget();
  plans.clear();
  answers = [];
  hovered = hover = dragged = everything = null;
  candidate = 0;
  chosen = false;
  find("empty").hidden = true;
  document.querySelector("aside").hidden = false;
  find("title").textContent = [name, `${picture.width} × ${picture.height}`, ...picture.notes].join(" · ");
  find("title").title = find("title").textContent;
  say(`${name} is ready, ${picture.width} by ${picture.height} pixels`);
  showPanes();
}

function progress(expected, doing) {
  const [bar, done] = [find("progress"), find("done")];
  const start = performance.now();
  find("doing").textContent = doing;
  const step = () => {
    const share = 1 - Math.exp((-2 * (performance.now() - start)) / expected);
    done.style.transform = `scaleX(${share})`;
    bar.setAttribute("aria-valuenow", Math.round(100 * share));
    bar.hidden = performance.now() - start < 120; // what is quicker needs no bar
  };
  step();
  const timer = setInterval(step, 60);
  return () => {
    clearInterval(timer);
    bar.hidden = true;
  };
}

// ---------------------------------------------------------------- showing

function showPanes() {
  stage.show(picture, shown);
  showAnswers();
  showMerging();
  if (!prompts.empty) refresh();
}

const maskOf = (one) => (one.decoded ??= decode(one.rle)); // once, when it is first looked at
const masks = () => answers.map((answer) => maskOf(answer.masks[candidate]));

function drawBases() {
  for (const pane of stage.panes) {
    const pen = pane.base.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.imageSmoothingQuality = "high";
    const [width, height] = [pane.base.width, pane.base.height];
    pen.drawImage(picture.image, 0, 0, width, height);
    const plan = find("overlay").checked && plans.get(keyOf(pane.name));
    if (!plan) continue;
    if (find("layer").value === "energy") {
      if (plan.energy) drawing.drawEnergy(pen, picture, plan, width, height);
    } else {
      drawing.drawCells(pen, picture, plan, width, height);
    }
  }
}

let queued = false;
function draw() {
  if (queued || !picture) return;
  queued = true;
  requestAnimationFrame(() => {
    queued = false;
    drawTops();
  });
}

function drawTops() {
  const made = masks();
  stage.panes.forEach((pane, index) => {
    const pen = pane.top.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, pane.top.width, pane.top.height);
    const layer = everything ? everything[index]?.drawn : maskLayer(made, index);
    if (layer) pen.drawImage(layer, 0, 0, pane.top.width, pane.top.height);
    pen.setTransform(pane.ratio, 0, 0, pane.ratio, 0, 0);
    drawing.drawPrompts(pen, prompts, pane.scale);
    if (dragged) drawing.frame(pen, dragged, pane.scale);
    if (stage.cursor) drawing.crosshair(pen, stage.cursor, pane.scale);
  });
}

function maskLayer(made, index) {
  const mask = made[index];
  if (!mask) return hover?.name === shown[index] ? drawing.tinted(hover.mask, 0.3) : null;
  const differs = find("difference").checked && index > 0 && made[0].mask.length === mask.mask.length;
  return differs ? drawing.difference(made[0], mask) : drawing.tinted(mask);
}

function showAnswers() {
  showCaptions();
  showCandidates();
  find("undo").disabled = !prompts.undoable;
  find("clear").disabled = prompts.empty && !everything;
  find("save").disabled = !answers.length;
  find("copy").disabled = prompts.empty && !everything;
  find("found").textContent = everything ? `${everything[0].count} masks` : "";
  find("command").textContent = picture ? command() : "";
  draw();
  const one = answers[0]?.masks[candidate];
  if (one) {
    const { width, height } = maskOf(one);
    const share = (100 * one.area) / (width * height);
    say(`Mask covers ${share.toFixed(1)} % of the picture, predicted IoU ${one.predicted_iou.toFixed(2)}`);
  }
}

function showCaptions() {
  stage.panes.forEach((pane, index) => {
    const told = [`encoder ${picture.encoder_ms[pane.name].toFixed(0)} ms`];
    const answer = answers[index];
    if (everything?.[index]) told.push(`${everything[index].count} masks in ${(everything[index].ms / 1000).toFixed(1)} s`);
    if (answer) told.push(`mask ${answer.ms.toFixed(0)} ms`);
    if (answer && index > 0) told.push(`agreement ${answer.masks[candidate].agreement.toFixed(3)}`);
    const part = (kind, text, className = "") => Object.assign(document.createElement(kind), { textContent: text, className });
    const parts = told.map((text) => part("span", text, text.split(" ")[0]));
    pane.caption.replaceChildren(part("b", pane.name), ...parts);
    pane.caption.title = [pane.name, ...told].join(", ");
  });
}

function showCandidates() {
  const labels = document.querySelectorAll("#candidates label");
  find("candidates").disabled = !answers.length;
  labels.forEach((label, index) => {
    const one = answers[0]?.masks[index];
    label.querySelector("span").textContent = one ? one.predicted_iou.toFixed(2) : "–";
    label.querySelector("input").checked = index === candidate;
  });
  setTimeout(drawThumbs); // after the mask, which is waited for
}

function drawThumbs() {
  document.querySelectorAll("#candidates canvas").forEach((canvas, index) => {
    const one = answers[0]?.masks[index];
    drawing.drawThumb(canvas, picture?.image, one && maskOf(one));
  });
}

function command() {
  const { folder } = about.exports.find((one) => one.name === shown[0]);
  if (everything) {
    const { points_per_side, pred_iou_thresh, stability_score_thresh } = everything[0].settings;
    const words = ["structsam", "predict", folder, picture.name, "--everything"];
    words.push("--points-per-side", points_per_side, "--pred-iou-thresh", pred_iou_thresh);
    words.push("--stability-score-thresh", stability_score_thresh, "-o", "overlay.png");
    return words.map(quoted).join(" ");
  }
  return prompts.empty ? "" : prompts.command(folder, picture.name, candidate);
}

// ---------------------------------------------------------------- merging

const keyOf = (name) => `${name} ${find("block").value}`;
let merges = 0;

async function showMerging() {
  const merge = ++merges;
  const [told, block] = [find("merged"), find("block").value];
  if (!find("overlay").checked || !picture || block === "") {
    drawBases();
    told.textContent = find("overlay").checked ? reasons() : "";
    return;
  }
  const end = progress(2000, "Reading what merges");
  for (const name of shown.filter((one) => mergesAt(one, block) && !plans.has(keyOf(one)))) {
    const query = new URLSearchParams({ export: name, block });
    const plan = await attempt(() => ofPicture((id) => server.get(`/plans/${id}?${query}`)));
    if (plan) plans.set(`${name} ${block}`, plan);
    if (merge !== merges) break; // a later call shows what is asked for now
  }
  end();
  if (merge !== merges) return;
  drawBases();
  told.replaceChildren(...shown.flatMap((name) => [tellPlan(name), document.createElement("br")]));
}

const mergesAt = (name, block) =>
  about.exports.find((one) => one.name === name).blocks.some((one) => String(one.block) === block);

const reasons = () => about.exports.map((one) => `${one.name}: ${one.no_blocks}`).join("; ");

function tellPlan(name) {
  const plan = plans.get(keyOf(name));
  const lead = shown.length > 1 ? `${name}: ` : "";
  if (!plan) return `${lead}${about.exports.find((one) => one.name === name).no_blocks ?? "merges nothing here"}.`;
  const number = new Intl.NumberFormat("en");
  const alone = plan.alone.reduce((sum, one) => sum + one, 0);
  const energy = plan.energy ? "" : " Its energy is not known.";
  return (
    `${lead}${number.format(plan.slots)} of ${number.format(plan.tokens)} tokens attend; ` +
    `${number.format(alone)} of the picture are protected and stay sharp.${energy}`
  );
}

// ---------------------------------------------------------------- messages

function fail(message) {
  find("wrong").textContent = message;
  find("error").hidden = false;
}

function say(message) {
  find("live").textContent = message;
}

// ---------------------------------------------------------------- controls

function choose(index) {
  if (!answers.length) return;
  candidate = index;
  chosen = true;
  showAnswers();
}

function escape() {
  if (stage.stop() || stage.dropCorner()) {
    dragged = null;
    draw();
  } else if (prompts.empty && everything) {
    everything = null;
    showAnswers();
  } else {
    change(() => prompts.clear());
  }
}

function toggle(id) {
  find(id).checked = !find(id).checked;
  find(id).dispatchEvent(new Event("change"));
}

const keys = {
  escape,
  z: () => change(() => prompts.undo()),
  e: findAll,
  d: () => shown.length > 1 && toggle("difference"),
  m: () => toggle("overlay"),
  ...Object.fromEntries(CANDIDATES.map((index) => [String(index + 1), () => choose(index)])),
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("select, input[type=number], dialog *");
  const plain = !event.metaKey && !event.altKey && (!event.ctrlKey || event.key === "z");
  const does = keys[event.key.toLowerCase()];
  if (!typing && plain && does && picture) {
    event.preventDefault();
    does();
  }
});

for (const id of ["open", "choose"]) find(id).addEventListener("click", () => find("file").click());
find("file").addEventListener("change", ({ target }) => {
  const [file] = target.files;
  target.value = ""; // the same file can be chosen again
  if (file) loadAndFocus(file);
});

async function loadAndFocus(file) {
  await load(file, file.name);
  find("panes").focus({ preventScroll: true });
}

find("stage").addEventListener("dragover", (event) => {
  event.preventDefault();
  find("stage").classList.add("over");
});
find("stage").addEventListener("dragleave", (event) => {
  if (!find("stage").contains(event.relatedTarget)) find("stage").classList.remove("over");
});
find("stage").addEventListener("drop", (event) => {
  event.preventDefault();
  find("stage").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) loadAndFocus(file);
});

find("keys").addEventListener("click", () => find("help").showModal());
find("dismiss").addEventListener("click", () => (find("error").hidden = true));
find("undo").addEventListener("click", keys.z);
find("clear").addEventListener("click", escape);
find("everything").addEventListener("click", findAll);
find("modes").addEventListener("change", ({ target }) => {
  stage.mode = target.value;
  find("panes").classList.toggle("boxing", target.value === "box");
});
find("candidates").addEventListener("change", ({ target }) => choose(Number(target.value)));
find("difference").addEventListener("change", ({ target }) => {
  find("legend").hidden = !target.checked;
  draw();
});
for (const id of ["overlay", "block", "layer"]) find(id).addEventListener("change", showMerging);

find("save").addEventListener("click", async () => {
  const said = { ...prompts.said, exports: shown.slice(0, 1), candidates: [candidate], format: "png" };
  const of = picture; // whose mask is saved, whatever is shown when it comes
  const made = await attempt(() => ofOne(of, (id) => server.post("/predict", { id, ...said })));
  if (!made) return;
  const link = document.createElement("a");
  link.href = `data:image/png;base64,${made.answers[0].masks[0].png}`;
  link.download = `${of.name.split(/[\\/]/).pop().replace(/\.\w+$/, "")}-mask.png`;
  link.click();
});
find("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(find("command").textContent);
    say("Command copied");
    find("copy").textContent = "Copied";
    setTimeout(() => (find("copy").textContent = "Copy command"), 1500);
  } catch {
    getSelection().selectAllChildren(find("command")); // no permission: ready to be copied by hand
  }
});

// ---------------------------------------------------------------- beginning

function showChoices() {
  const list = find("exports");
  for (const { name, encoder_ms } of about.exports) {
    const label = document.createElement("label");
    const box = Object.assign(document.createElement("input"), { type: "checkbox", value: name, checked: shown.includes(name) });
    const called = Object.assign(document.createElement("span"), { className: "name", textContent: name });
    const time = Object.assign(document.createElement("span"), { className: "faint", textContent: `${encoder_ms.toFixed(0)} ms` });
    label.append(box, called, time);
    list.append(label);
  }
  list.addEventListener("change", ({ target }) => {
    const boxes = [...list.querySelectorAll("input")];
    if (!boxes.some((box) => box.checked)) target.checked = true; // one is always shown
    shown = boxes.filter((box) => box.checked).map((box) => box.value);
    answers = [];
    everything = null;
    if (picture) showPanes();
  });
  find("differs").hidden = about.exports.length < 2;
  const blocks = new Map(about.exports.flatMap((one) => one.blocks.map(({ block, windows }) => [block, windows])));
  for (const [block, windows] of [...blocks].sort(([one], [other]) => one - other)) {
    find("block").add(new Option(`${block}, ${windows > 1 ? `${windows} windows` : "global"}`, block));
  }
  const global = [...blocks].find(([, windows]) => windows === 1);
  if (global) find("block").value = global[0];
  for (const id of ["block", "layer"]) find(id).disabled = !blocks.size;
}

function makeCandidates() {
  const holder = document.querySelector(".thumbs");
  for (const index of CANDIDATES) {
    const label = document.createElement("label");
    const input = Object.assign(document.createElement("input"), { type: "radio", name: "candidate", value: index });
    input.setAttribute("aria-label", CALLED[index]);
    label.title = `${CALLED[index]} (${index + 1})`;
    const thumb = Object.assign(document.createElement("canvas"), { width: 120, height: 120 });
    label.append(input, thumb, document.createElement("span"));
    holder.append(label);
  }
}

async function begin() {
  makeCandidates();
  if (["127.0.0.1", "localhost", "[::1]"].includes(location.hostname)) {
    find("promise").textContent = "It stays on this computer.";
  }
  about = await attempt(() => server.get("/exports"));
  if (!about) return;
  shown = about.exports.map((one) => one.name);
  const boxes = about.exports.some((one) => one.boxes_only);
  if (boxes) find("promise").textContent += " Draw boxes: this model has not learned points.";
  showChoices();
  if (about.photo) {
    const file = await attempt(() => server.blob("/photo"));
    if (file && !loads) await load(file, about.photo);
  }
}

begin();
