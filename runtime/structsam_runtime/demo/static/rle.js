// COCO's compressed run lengths: off and on in turn, down the columns.

export function decode({ size: [height, width], counts }) {
  const mask = new Uint8Array(height * width); // row by row
  let [row, column] = [0, 0];
  let on = false;
  for (let run of lengths(counts)) {
    while (run > 0) {
      const part = Math.min(run, height - row);
      if (on) for (let at = row * width + column, left = part; left > 0; left--, at += width) mask[at] = 1;
      row += part;
      run -= part;
      if (row === height) [row, column] = [0, column + 1];
    }
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
