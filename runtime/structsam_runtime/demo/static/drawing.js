// What is drawn on a picture: masks, their difference, prompts, merged cells, energy.
// The colours are those of structsam's own drawings, from Okabe and Ito's palette.

export const SKY = [86, 180, 233];
const GREEN = [0, 158, 115];
const VERMILION = [213, 94, 0];
const ON = "rgb(30 200 60)";
const OFF = "rgb(230 40 40)";
// Of energy, from low to high: stops of Matplotlib's inferno.
const HEAT = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];

function canvas(width, height, paint) {
  const made = new OffscreenCanvas(width, height);
  const pen = made.getContext("2d");
  const image = pen.createImageData(width, height);
  paint(image.data);
  pen.putImageData(image, 0, 0);
  return made;
}

function put(data, at, [red, green, blue], alpha) {
  data[4 * at] = red;
  data[4 * at + 1] = green;
  data[4 * at + 2] = blue;
  data[4 * at + 3] = alpha;
}

// Whether a pixel of a mask has one that is not within `reach`; the rim of the picture is no edge.
function isEdge({ width, height, mask }, at, reach) {
  const x = at % width;
  const y = (at - x) / width;
  return (
    (x >= reach && !mask[at - reach]) ||
    (x + reach < width && !mask[at + reach]) ||
    (y >= reach && !mask[at - reach * width]) ||
    (y + reach < height && !mask[at + reach * width])
  );
}

function fill(data, mask, colour, alpha, reach) {
  for (let at = 0; at < mask.mask.length; at++) {
    if (mask.mask[at]) put(data, at, colour, isEdge(mask, at, reach) ? 255 : alpha);
  }
}

const reachOf = ({ width, height }) => Math.max(1, Math.round(Math.max(width, height) / 450));

export function tinted(mask, strength = 0.45) {
  return canvas(mask.width, mask.height, (data) => fill(data, mask, SKY, 255 * strength, reachOf(mask)));
}

// In both masks, only in this one, only in the first one.
export function difference(first, mask) {
  return canvas(mask.width, mask.height, (data) => {
    for (let at = 0; at < mask.mask.length; at++) {
      if (mask.mask[at] && first.mask[at]) put(data, at, SKY, 90);
      else if (mask.mask[at]) put(data, at, GREEN, 235);
      else if (first.mask[at]) put(data, at, VERMILION, 235);
    }
  });
}

// All masks, the largest first, each in a colour of its own.
export function all(masks, width, height) {
  return canvas(width, height, (data) => {
    masks.forEach((mask, index) => fill(data, mask, hue((index * 0.618034) % 1), 115, reachOf(mask)));
  });
}

function hue(turn) {
  const channel = (shift) => {
    const place = (shift + turn * 6) % 6;
    return Math.round(255 * (1 - 0.8 * Math.max(0, Math.min(place, 4 - place, 1))));
  };
  return [channel(5), channel(3), channel(1)];
}

export function drawPrompts(pen, { points, box }, scale) {
  if (box) frame(pen, box, scale);
  for (const { x, y, label } of points) {
    disc(pen, x * scale, y * scale, 8.5, "#fff");
    disc(pen, x * scale, y * scale, 6.5, label ? ON : OFF);
    pen.fillStyle = "#fff"; // a plus or a minus, for those who do not tell green from red
    pen.fillRect(x * scale - 3.5, y * scale - 0.75, 7, 1.5);
    if (label) pen.fillRect(x * scale - 0.75, y * scale - 3.5, 1.5, 7);
  }
}

export function frame(pen, [x0, y0, x1, y1], scale) {
  const sides = [x0 * scale, y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale];
  for (const [style, width] of [["rgb(0 0 0 / 70%)", 4], ["#fff", 2]]) {
    pen.strokeStyle = style;
    pen.lineWidth = width;
    pen.strokeRect(...sides);
  }
}

export function crosshair(pen, { x, y }, scale) {
  for (const [style, width] of [["rgb(0 0 0 / 70%)", 4], ["#fff", 2]]) {
    pen.strokeStyle = style;
    pen.lineWidth = width;
    pen.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      pen.moveTo(x * scale + 5 * dx, y * scale + 5 * dy);
      pen.lineTo(x * scale + 15 * dx, y * scale + 15 * dy);
    }
    pen.stroke();
  }
}

function disc(pen, x, y, radius, colour) {
  pen.fillStyle = colour;
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fill();
}

// Merged tokens show what is left of them: the mean colour of their slot. Protected tokens show the picture.
export function drawCells(pen, picture, plan, width, height) {
  const { rows, columns, slot, alone } = plan;
  const across = (plan.token[0] * width) / picture.width;
  const down = (plan.token[1] * height) / picture.height;
  const colours = means(picture.image, plan);
  for (let at = 0; at < slot.length; at++) {
    if (alone[at]) continue;
    const column = at % columns;
    const row = (at - column) / columns;
    pen.fillStyle = colours.get(slot[at]);
    pen.fillRect(column * across, row * down, across + 0.6, down + 0.6); // no seams
  }
  pen.strokeStyle = "rgb(255 255 255 / 34%)";
  pen.lineWidth = 1;
  pen.beginPath();
  for (let at = 0; at < slot.length; at++) {
    const column = at % columns;
    const row = (at - column) / columns;
    const apart = (other) => slot[at] !== slot[other] && !(alone[at] && alone[other]);
    if (column + 1 < columns && apart(at + 1)) line(pen, (column + 1) * across, row * down, 0, down);
    if (row + 1 < rows && apart(at + columns)) line(pen, column * across, (row + 1) * down, across, 0);
  }
  pen.stroke();
}

function line(pen, x, y, across, down) {
  pen.moveTo(x, y);
  pen.lineTo(x + across, y + down);
}

// The mean colour of every slot, from the picture at one pixel a token, a little darker.
function means(image, { rows, columns, slot }) {
  const small = new OffscreenCanvas(columns, rows);
  const pen = small.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(image, 0, 0, columns, rows);
  const data = pen.getImageData(0, 0, columns, rows).data;
  const sums = new Map();
  slot.forEach((one, at) => {
    const sum = sums.get(one) ?? [0, 0, 0, 0];
    [data[4 * at], data[4 * at + 1], data[4 * at + 2], 1].forEach((value, index) => (sum[index] += value));
    sums.set(one, sum);
  });
  const dim = 0.72;
  return new Map(
    [...sums].map(([one, [red, green, blue, count]]) => [
      one,
      `rgb(${[red, green, blue].map((value) => Math.round((dim * value) / count)).join(" ")})`,
    ]),
  );
}

export function drawEnergy(pen, picture, { rows, columns, energy, token }, width, height) {
  const map = canvas(columns, rows, (data) => energy.forEach((level, at) => put(data, at, heat(level / 255), 255)));
  pen.imageSmoothingEnabled = false;
  const across = (columns * token[0] * width) / picture.width;
  const down = (rows * token[1] * height) / picture.height;
  pen.globalAlpha = 0.85;
  pen.drawImage(map, 0, 0, across, down);
  pen.globalAlpha = 1;
  pen.imageSmoothingEnabled = true;
}

function heat(level) {
  const place = level * (HEAT.length - 1);
  const stop = Math.min(Math.floor(place), HEAT.length - 2);
  return HEAT[stop].map((value, index) => value + (HEAT[stop + 1][index] - value) * (place - stop));
}

// A small square with the picture, dimmed, and a mask in it.
export function drawThumb(target, image, mask) {
  const side = target.width;
  const pen = target.getContext("2d");
  pen.clearRect(0, 0, side, side);
  if (!mask) return;
  const scale = side / Math.max(mask.width, mask.height);
  const [width, height] = [mask.width * scale, mask.height * scale];
  const place = [(side - width) / 2, (side - height) / 2, width, height];
  pen.globalAlpha = 0.35;
  pen.drawImage(image, ...place);
  pen.globalAlpha = 1;
  const [across, down] = [Math.max(1, Math.round(width)), Math.max(1, Math.round(height))];
  pen.drawImage(canvas(across, down, (data) => fill(data, sampled(mask, across, down), SKY, 205, 1)), ...place);
}

function sampled({ width, height, mask }, across, down) {
  const small = new Uint8Array(across * down);
  for (let at = 0; at < small.length; at++) {
    const column = at % across;
    const row = (at - column) / across;
    small[at] = mask[Math.floor(((row + 0.5) * height) / down) * width + Math.floor(((column + 0.5) * width) / across)];
  }
  return { width: across, height: down, mask: small };
}
