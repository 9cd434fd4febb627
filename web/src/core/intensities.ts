// The intensities of a deep picture that become black and white (images/intensities.py, where the rule is explained).

import { PageError } from "./errors";

export type Values = Uint8Array | Int8Array | Uint16Array | Int16Array | Uint32Array | Int32Array | Float32Array | Float64Array;

const BIT_DEPTHS = [8, 10, 12, 14, 16];
const FEW_BITS = 3;
const MAX_PADDINGS = 4;
const MAX_METAL = 0.08;
const MAX_DEFECT = 0.001;
const GAP_OF_PADDING = 0.25;
const GAP = 1;
const MIN_VALUES = 8;
const MAX_SPREAD = 0.02;
const MAX_ROUGHNESS = 0.5;
const WIDEST = 8;

/** Values from `low` to `high` that do not count for the range; NaN for pixels that are not finite. */
interface Ignored {
  low: number;
  high: number;
  padding: boolean;
}

/** The intensities that become 0 and 1. */
export interface Range {
  low: number;
  high: number;
  ignored: Ignored[];
}

interface Cut {
  beyond: number;
  gap: number;
  levels: number;
  zero: boolean;
  noisy: boolean;
}

interface Grid {
  values: Values;
  width: number;
  height: number;
  channels: number;
}

export function isFloat(values: Values): boolean {
  return values instanceof Float32Array || values instanceof Float64Array;
}

/** Find the range of a deep picture (height, width, channels). */
export function findRange(grid: Grid, name: string): Range {
  const { values } = grid;
  const ignored: Ignored[] = [];
  let ordered: Values;
  if (isFloat(values) && !values.every(Number.isFinite)) {
    requireConnected(grid, name);
    ignored.push({ low: NaN, high: NaN, padding: true });
    ordered = values.filter(Number.isFinite).sort();
    if (ordered[0] === ordered[ordered.length - 1]) {
      throw new PageError(`${name}: every finite pixel has the same value; there is nothing to segment`);
    }
  } else {
    ordered = values.slice().sort();
    if (isFloat(values) && ordered[0] >= 0 && ordered[ordered.length - 1] <= 1) return { low: 0, high: 1, ignored };
  }
  const { first, last, below, above } = bulk(ordered, grid);
  const [low, high] = [ordered[first], ordered[last - 1]];
  if (first > 0) ignored.push({ low: ordered[0], high: ordered[first - 1], padding: below });
  if (last < ordered.length) ignored.push({ low: ordered[last], high: ordered[ordered.length - 1], padding: above });
  const [from, to] = span(low, high, isFloat(values));
  return { low: from, high: to, ignored };
}

/** Scale intensities to 0..1; values beyond the range become 0 or 1, padding becomes `black`. */
export function scaled(values: Values, range: Range, black: number): Float32Array {
  const width = range.high - range.low;
  const paddings = range.ignored.filter((each) => each.padding);
  return Float32Array.from(values as ArrayLike<number>, (each) => {
    for (const { low, high } of paddings) if (Number.isNaN(low) ? !Number.isFinite(each) : each >= low && each <= high) return black;
    const unit = (each - range.low) / width;
    return range.ignored.length ? Math.min(Math.max(unit, 0), 1) : unit;
  });
}

function span(low: number, high: number, float: boolean): [number, number] {
  if (float) return low >= 0 && high <= 1 ? [0, 1] : [low, high];
  if (low < 0 || high >= 2 ** 16) return [low, high];
  const largest = 2 ** BIT_DEPTHS.find((depth) => high < 2 ** depth)! - 1;
  if (largest >= 2 ** 8 && low < high && high < low + (largest + 1) / 2 ** FEW_BITS) return [low, high];
  return [0, largest];
}

/** Pixels that are not finite must be connected with the rim. */
function requireConnected({ values, width, height, channels }: Grid, name: string): void {
  const bad = new Uint8Array(width * height);
  for (let place = 0; place < bad.length; place++) {
    for (let channel = 0; channel < channels; channel++) if (!Number.isFinite(values[place * channels + channel])) bad[place] = 1;
  }
  const count = bad.reduce((sum, each) => sum + each, 0);
  const stack: number[] = [];
  const leave = (place: number): void => {
    if (bad[place]) {
      bad[place] = 0;
      stack.push(place);
    }
  };
  for (let place = 0; place < bad.length; place++) {
    const [row, column] = [Math.floor(place / width), place % width];
    if (row === 0 || column === 0 || row === height - 1 || column === width - 1) leave(place);
  }
  while (stack.length) {
    const place = stack.pop()!;
    const column = place % width;
    if (column > 0) leave(place - 1);
    if (column < width - 1) leave(place + 1);
    if (place >= width) leave(place - width);
    if (place < width * (height - 1)) leave(place + width);
  }
  if (bad.includes(1) || count === bad.length) {
    throw new PageError(`${name}: ${count} of ${bad.length} pixels are NaN or infinite; replace them first`);
  }
}

/** The part of the sorted values that decides the range, and whether what is below and above it is padding. */
function bulk(ordered: Values, grid: Grid): { first: number; last: number; below: boolean; above: boolean } {
  const size = ordered.length;
  const found: { width: number; first: number; last: number; low: Cut; high: Cut }[] = [];
  const highs = cuts(ordered, true);
  for (const low of cuts(ordered, false)) {
    for (const high of highs) {
      const [first, last] = [low.beyond, size - high.beyond];
      if (first >= last) continue;
      const width = ordered[last - 1] - ordered[first];
      if (Math.min(low.gap, high.gap) >= GAP_OF_PADDING * width) found.push({ width, first, last, low, high });
    }
  }
  found.sort((one, other) => one.width - other.width || one.first - other.first || one.last - other.last);
  for (const { width, first, last, low, high } of found) {
    if (last - first === size) break;
    const needed = MIN_VALUES * Math.max(1, low.levels, high.levels);
    if (distinct(ordered, first, last, needed) < needed) continue;
    const [from, to] = [ordered[first], ordered[last - 1]];
    const below = first > 0 && isPadding(low, (value) => value <= ordered[first - 1], width, grid, from, to);
    const above = last < size && isPadding(high, (value) => value >= ordered[last], width, grid, from, to);
    const count = last - first;
    if (
      (first === 0 || below || isExtreme(low, width, count, null, from, to)) &&
      (last === size || above || isExtreme(high, width, count, grid, from, to))
    ) {
      return { first, last, below, above };
    }
  }
  return { first: 0, last: size, below: false, above: false };
}

function distinct(ordered: Values, first: number, last: number, enough: number): number {
  let count = 1;
  for (let place = first + 1; place < last && count < enough; place++) if (ordered[place] !== ordered[place - 1]) count++;
  return count;
}

/** The gaps at one end beyond which values may be set aside. */
function cuts(ordered: Values, fromTop: boolean): Cut[] {
  const size = ordered.length;
  const at = (place: number): number => ordered[fromTop ? size - 1 - place : place]; // from the end that is looked at
  const found: Cut[] = [{ beyond: 0, gap: Infinity, levels: 0, zero: false, noisy: false }];
  let count = 0;
  for (let levels = 1; levels <= MAX_PADDINGS; levels++) {
    count = endOf(at, size, count);
    if (count === size) break;
    const gap = Math.abs(at(count) - at(count - 1));
    found.push({ beyond: count, gap, levels, zero: !fromTop && at(count - 1) === 0, noisy: false });
  }
  const few = Math.min(Math.trunc(MAX_METAL * size) + 1, size);
  const gaps: { gap: number; place: number }[] = [];
  for (let place = 0; place < few - 1; place++) {
    const gap = Math.abs(at(place + 1) - at(place));
    if (gap) gaps.push({ gap, place });
  }
  gaps.sort((one, other) => other.gap - one.gap);
  for (const { gap, place } of gaps.slice(0, WIDEST)) found.push({ beyond: place + 1, gap, levels: 0, zero: false, noisy: false });
  const noisy = noisyPadding(ordered, fromTop);
  if (noisy) found.push(noisy);
  return found;
}

/** Where the values that equal the one at a place end, by bisection. */
function endOf(at: (place: number) => number, size: number, place: number): number {
  const value = at(place);
  let [low, high] = [place, size];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (at(middle) === value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The cut at the widest gap, if the values beyond it lie close together. */
function noisyPadding(ordered: Values, fromTop: boolean): Cut | null {
  let [gap, place] = [0, 0];
  for (let each = 1; each < ordered.length; each++) {
    const here = ordered[each] - ordered[each - 1];
    if (here > gap) [gap, place] = [here, each];
  }
  const [first, end] = fromTop ? [place, ordered.length] : [0, place];
  if (!gap || ordered[end - 1] - ordered[first] > MAX_SPREAD * gap) return null;
  const zero = !fromTop && ordered[first] <= 0 && 0 <= ordered[end - 1];
  return { beyond: end - first, gap, levels: 1, zero, noisy: true };
}

function isPadding(
  cut: Cut,
  beyond: (value: number) => boolean,
  width: number,
  grid: Grid,
  from: number,
  to: number,
): boolean {
  if (!cut.levels || (cut.zero && cut.gap < GAP * width)) return false;
  let count = 0;
  for (const value of grid.values) if (beyond(value)) count++;
  if (count <= MAX_DEFECT * grid.values.length) return false;
  if (cut.noisy && isNoise(grid, from, to)) return false;
  const line = grid.width * grid.channels;
  for (let place = 0; place < grid.values.length; place++) {
    const [row, column] = [Math.floor(place / line), Math.floor((place % line) / grid.channels)];
    const atRim = row === 0 || row === grid.height - 1 || column === 0 || column === grid.width - 1;
    if (atRim && beyond(grid.values[place])) return true;
  }
  return false;
}

/** Whether values are missing data or defects, or metal; for metal there is a grid. */
function isExtreme(cut: Cut, width: number, rest: number, grid: Grid | null, from: number, to: number): boolean {
  if (cut.gap < GAP * width || cut.beyond > MAX_METAL * rest) return false;
  if (cut.beyond <= MAX_DEFECT * rest) return true;
  return grid === null ? cut.levels > 0 : !isNoise(grid, from, to);
}

/** Whether the values from one to another are noise without shapes. */
function isNoise({ values, width, height, channels }: Grid, from: number, to: number): boolean {
  const kept = (value: number): boolean => value >= from && value <= to;
  let [steps, pairs, sum, squares, count] = [0, 0, 0, 0, 0];
  const line = width * channels;
  for (let row = 0; row < height; row++) {
    for (let place = row * line; place < (row + 1) * line; place++) {
      const value = values[place];
      if (!kept(value)) continue;
      sum += value;
      squares += value * value;
      count++;
      if (place + channels < (row + 1) * line && kept(values[place + channels])) {
        steps += Math.abs(values[place + channels] - value);
        pairs++;
      }
    }
  }
  const mean = sum / count;
  return steps / pairs > MAX_ROUGHNESS * Math.sqrt(Math.max(squares / count - mean * mean, 0));
}
