// Justified rows: photographs side by side that fill the width, all rows about as high as each other.

const MOST = 40; // photographs in a row
export const OPEN = 1.15; // height of a last row that is not full
const SMALL = 0.45; // part of the width that a last row fills at least
const PENALTY = 0.5; // of a last row that fills less

/**
 * Where the rows of photographs end, as even as possible, such as [7, 13, 20].
 * `ratios` are widths divided by heights, `width` that of a row in heights of an ideal row.
 * Unless the rows `goOn` in a later part, the last one need not be full.
 */
export function breakRows(ratios, width, goOn) {
  const cost = [0];
  const from = [0];
  for (let end = 1; end <= ratios.length; end += 1) {
    cost[end] = Infinity;
    let taken = 0;
    for (let start = end - 1; start >= Math.max(0, end - MOST); start -= 1) {
      taken += ratios[start];
      const height = width / taken; // of the row, if it is full
      const isOpen = end === ratios.length && !goOn && height > OPEN;
      const unevenness = isOpen ? (height > 1 / SMALL && start ? PENALTY : 0) : (height - 1 / height) ** 2;
      if (cost[start] + unevenness < cost[end]) {
        cost[end] = cost[start] + unevenness;
        from[end] = start;
      }
      if (height < 0.4) break;
    }
  }
  const ends = [];
  for (let end = ratios.length; end > 0; end = from[end]) ends.unshift(end);
  return ends;
}
