// COCO's compressed run lengths: off and on in turn, down the columns.

export function decode({ size: [height, width], counts }) {
  const mask = new Uint8Array(height * width); // row by row
  let place = 0;
  let on = false;
  for (const run of lengths(counts)) {
    if (on) {
      for (let end = place + run, at = place; at < end; at++) {
        mask[(at % height) * width + Math.floor(at / height)] = 1;
      }
    }
    place += run;
    on = !on;
  }
  return { width, height, mask };
}

// Five bits a letter, the lowest first, a sixth where more follow; from the third on, less the run before last.
function lengths(text) {
  const runs = [];
  let at = 0;
  while (at < text.length) {
    let value = 0;
    let shift = 0;
    let letter;
    do {
      letter = text.charCodeAt(at++) - 48;
      value |= (letter & 31) << shift;
      shift += 5;
    } while (letter & 32);
    if (letter & 16 && shift < 32) value |= -1 << shift;
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  return runs;
}
