// Two regions told apart again by colour, evenly lit (foreground/colour.py).

import { gaussian } from "./blur";
import { grown } from "./regions";
import { resizeNearest } from "./resize";
import { SMALL, smaller, type Square } from "./view";

const BLUR = 1;
const RADIUS = 0.5;
const MARGIN = 3;
const ROUNDS = 2;
const SMOOTHING = 1.5;
const VARIANCE = 1e-3;
const DARKEST = 0.02;
const MIN_GROUND = 500;
const MIN_MEMBERS = 20;

/** A label map of two clusters, redrawn by colour; itself unless the disc in the middle holds two. */
export function tellApart(labels: Uint8Array, side: number, view: Square): { labels: Uint8Array; side: number } {
  const coarse = resizeNearest(labels, side, side, SMALL, SMALL);
  const field = disc();
  const clusters = [...new Set(field.map((place) => coarse[place]))].sort((one, other) => one - other);
  if (clusters.length !== 2) return { labels, side };
  const size = SMALL * SMALL;
  const small = smaller(view, SMALL).planes;
  const colours = [0, 1, 2].map((channel) => {
    const blurred = gaussian(Float64Array.from(small.subarray(channel * size, (channel + 1) * size)), SMALL, BLUR);
    return Float64Array.from(field, (place) => blurred[place]);
  });
  const brightness = (cluster: number): number =>
    median([...field.keys()].filter((each) => coarse[field[each]] === cluster).map((each) => (colours[0][each] + colours[1][each] + colours[2][each]) / 3));
  const [dark, light] = clusters.map((each) => ({ each, shade: brightness(each) })).sort((one, other) => one.shade - other.shade).map(({ each }) => each);
  const start = Uint8Array.from(field, (place) => (coarse[place] === dark ? 1 : 0));
  const darker = byColour(colours, start, field);
  const drawn = coarse.slice();
  field.forEach((place, each) => (drawn[place] = darker[each] ? dark : light));
  return { labels: drawn, side: SMALL };
}

function median(values: number[]): number {
  const ordered = values.sort((one, other) => one - other);
  const middle = ordered.length >> 1;
  return ordered.length % 2 ? ordered[middle] : (ordered[middle - 1] + ordered[middle]) / 2;
}

/** Rows and columns from -0.5 to 0.5 of a place. */
function coordinates(place: number): [number, number] {
  return [Math.floor(place / SMALL) / (SMALL - 1) - 0.5, (place % SMALL) / (SMALL - 1) - 0.5];
}

/** The places of the disc that is not corners. */
function disc(): number[] {
  return [...Array(SMALL * SMALL).keys()].filter((place) => {
    const [row, column] = coordinates(place);
    return row ** 2 + column ** 2 < RADIUS ** 2;
  });
}

/** Pixels of a field whose colour, evenly lit, is rather that of a region than that of what else is there. */
function byColour(colours: Float64Array[], start: Uint8Array, field: number[]): Uint8Array {
  const logarithms = colours.map((channel) => channel.map((each) => Math.log(Math.max(each, DARKEST))));
  const even = evenlyLit(logarithms, start, field);
  const spread = (values: Float64Array): Float64Array => {
    const wide = new Float64Array(SMALL * SMALL);
    field.forEach((place, each) => (wide[place] = values[each]));
    const blurred = gaussian(wide, SMALL, SMOOTHING);
    return Float64Array.from(field, (place) => blurred[place]);
  };
  const left = spread(new Float64Array(field.length).fill(1));
  let membership = Float64Array.from(start);
  for (let round = 0; round < ROUNDS; round++) {
    const total = membership.reduce((sum, each) => sum + each, 0);
    if (Math.min(total, field.length - total) < MIN_MEMBERS) break;
    const rest = logLikelihood(even, membership.map((each) => 1 - each));
    const region = logLikelihood(even, membership);
    const shares = rest.map((each, place) => 1 / (1 + Math.exp(Math.min(Math.max(each - region[place], -30), 30))));
    membership = spread(shares).map((each, place) => each / left[place]);
  }
  return Uint8Array.from(membership, (each) => (each > 0.5 ? 1 : 0));
}

/** Logarithms of a field less the quadratic surface of each channel that fits all but a region of it. */
function evenlyLit(colours: Float64Array[], region: Uint8Array, field: number[]): Float64Array[] {
  const wide = new Uint8Array(SMALL * SMALL);
  field.forEach((place, each) => (wide[place] = region[each]));
  const near = grown(wide, SMALL, SMALL, MARGIN);
  const ground = [...field.keys()].filter((each) => !near[field[each]]);
  if (ground.length < MIN_GROUND) return colours;
  const terms = field.map((place) => {
    const [y, x] = coordinates(place);
    return [1, y, x, y ** 2, x ** 2, y * x];
  });
  const normal = terms[0].map((_, one) => terms[0].map((__, other) => ground.reduce((sum, each) => sum + terms[each][one] * terms[each][other], 0)));
  return colours.map((channel) => {
    const right = terms[0].map((_, one) => ground.reduce((sum, each) => sum + terms[each][one] * channel[each], 0));
    const fit = solve(normal, right);
    return channel.map((value, each) => value - terms[each].reduce((sum, term, one) => sum + term * fit[one], 0));
  });
}

/** Solve a small linear system, by elimination with pivots. */
export function solve(matrix: number[][], right: number[]): number[] {
  const rows = matrix.map((row, index) => [...row, right[index]]);
  const size = rows.length;
  for (let pivot = 0; pivot < size; pivot++) {
    let best = pivot;
    for (let row = pivot + 1; row < size; row++) if (Math.abs(rows[row][pivot]) > Math.abs(rows[best][pivot])) best = row;
    [rows[pivot], rows[best]] = [rows[best], rows[pivot]];
    for (let row = pivot + 1; row < size; row++) {
      const factor = rows[row][pivot] / rows[pivot][pivot];
      for (let column = pivot; column <= size; column++) rows[row][column] -= factor * rows[pivot][column];
    }
  }
  const found = new Array<number>(size).fill(0);
  for (let row = size - 1; row >= 0; row--) {
    let value = rows[row][size];
    for (let column = row + 1; column < size; column++) value -= rows[row][column] * found[column];
    found[row] = value / rows[row][row];
  }
  return found;
}

/** Of three colours under the Gaussian of those weighted so, its share of all included; up to a constant. */
function logLikelihood(colours: Float64Array[], weight: Float64Array): Float64Array {
  const total = weight.reduce((sum, each) => sum + each, 0);
  const centred = colours.map((channel) => {
    const mean = channel.reduce((sum, each, place) => sum + each * weight[place], 0) / total;
    return channel.map((each) => each - mean);
  });
  const covariance = centred.map((one, row) =>
    centred.map((other, column) => one.reduce((sum, each, place) => sum + each * other[place] * weight[place], 0) / total + (row === column ? VARIANCE : 0)),
  );
  const columns = [0, 1, 2].map((column) => solve(covariance, [0, 1, 2].map((row) => (row === column ? 1 : 0))));
  const [[a, b, c], [d, e, f], [g, h, i]] = covariance;
  const determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
  const constant = -0.5 * Math.log(determinant) + Math.log(total / weight.length);
  return weight.map((_, place) => {
    let distance = 0;
    for (let row = 0; row < 3; row++) for (let column = 0; column < 3; column++) distance += centred[row][place] * columns[column][row] * centred[column][place];
    return -0.5 * distance + constant;
  });
}
