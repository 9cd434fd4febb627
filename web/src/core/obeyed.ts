// A mask that obeys its prompts (foreground/obeyed.py): a region around a pixel on the wrong side changes sides.

import { type Box, contains, type Labelled } from "./prompts";
import { resizeFloats } from "./resize";
import type { Square } from "./view";

const REACH = 0.06; // of a region, in parts of the side
const EDGE = 40; // pixels by which a difference of 1 in every channel makes a step longer
const SWEEPS = 2;

type Seeds = [row: number, column: number][];

/** The mask (height, width), changed in place where prompts ask for it. */
export function obey(mask: Uint8Array, width: number, height: number, guide: Square, { inside, outside }: Labelled, box: Box | null): void {
  if (box) {
    for (let place = 0; place < mask.length; place++) {
      if (mask[place] && !contains(box, place % width, Math.floor(place / width))) mask[place] = 0;
    }
  }
  let missing = inside.filter((place) => !mask[place]);
  const wrong = outside.filter((place) => mask[place]);
  if (box && !inside.length && !mask.includes(1)) {
    const middle = Math.floor((box.top + box.bottom) / 2) * width + Math.floor((box.left + box.right) / 2);
    if (!outside.includes(middle)) missing = Int32Array.of(middle);
  }
  if (!missing.length && !wrong.length) return;
  for (const [seeds, others, value] of [[missing, outside, 1], [wrong, inside, 0]] as const) {
    if (!seeds.length) continue;
    const region = regionOf(seeds, others, guide, width, height);
    for (let place = 0; place < mask.length; place++) if (region[place] > 0) mask[place] = value;
  }
  if (box) {
    for (let place = 0; place < mask.length; place++) {
      if (mask[place] && !contains(box, place % width, Math.floor(place / width))) mask[place] = 0;
    }
  }
  for (const place of [...missing, ...inside]) mask[place] = 1;
  for (const place of outside) mask[place] = 0;
}

/** Above 0 where it is near to seeds and nearer than to others, (height, width). */
function regionOf(seeds: Int32Array, others: Int32Array, guide: Square, width: number, height: number): Float32Array {
  const { side } = guide;
  const reach = REACH * side;
  const scaled = (places: Int32Array): Seeds =>
    Array.from(places, (place) => [
      Math.floor((Math.floor(place / width) * side) / height),
      Math.floor(((place % width) * side) / width),
    ]);
  const own = scaled(seeds);
  // Nothing farther than the reach counts: paths are never shorter than their pixels.
  const margin = Math.trunc(reach);
  const [first, last] = [[0, 0], [0, 0]];
  for (const axis of [0, 1]) {
    first[axis] = Math.max(own.reduce((one, seed) => Math.min(one, seed[axis]), side) - margin - 2, 0);
    last[axis] = Math.min(own.reduce((one, seed) => Math.max(one, seed[axis]), 0) + margin + 3, side);
  }
  const isNear = ([row, column]: [number, number]): boolean => row >= first[0] && row < last[0] && column >= first[1] && column < last[1];
  const shifted = (all: Seeds): Seeds => all.map(([row, column]) => [row - first[0], column - first[1]]);
  const [high, wide] = [last[0] - first[0], last[1] - first[1]];
  const toOthers = distances(guide, first, high, wide, shifted(scaled(others).filter(isNear)));
  const toOwn = distances(guide, first, high, wide, shifted(own));
  const ahead = new Float32Array(side * side).fill(-reach);
  for (let row = 0; row < high; row++) {
    for (let column = 0; column < wide; column++) {
      const place = row * wide + column;
      ahead[(row + first[0]) * side + column + first[1]] = Math.max(Math.min(reach, toOthers[place]) - toOwn[place], -reach);
    }
  }
  return resizeFloats(ahead, side, side, width, height);
}

/** Length of the shortest path from any seed to every pixel of a part of the guide; infinite without seeds. */
function distances({ side, planes }: Square, first: number[], high: number, wide: number, seeds: Seeds): Float64Array {
  const found = new Float64Array(high * wide).fill(Infinity);
  if (!seeds.length) return found;
  for (const [row, column] of seeds) found[row * wide + column] = 0;
  const between = (row: number, column: number, down: number, right: number): number => {
    const from = (row + first[0]) * side + column + first[1];
    const to = from + down * side + right;
    let sum = 0;
    for (let channel = 0; channel < 3; channel++) sum += Math.abs(planes[channel * side * side + to] - planes[channel * side * side + from]);
    return 1 + (EDGE * sum) / 3;
  };
  const along = new Float64Array(high * wide); // the length of the way from a row's left end
  for (let row = 0; row < high; row++) {
    for (let column = 1; column < wide; column++) along[row * wide + column] = along[row * wide + column - 1] + between(row, column - 1, 0, 1);
  }
  const sweep = (row: number, before: number): void => {
    const [here, there] = [row * wide, before * wide];
    if (before >= 0 && before < high) {
      for (let column = 0; column < wide; column++) {
        found[here + column] = Math.min(found[here + column], found[there + column] + between(Math.min(row, before), column, 1, 0));
      }
    }
    for (let column = 1; column < wide; column++) {
      found[here + column] = Math.min(found[here + column], found[here + column - 1] + along[here + column] - along[here + column - 1]);
    }
    for (let column = wide - 2; column >= 0; column--) {
      found[here + column] = Math.min(found[here + column], found[here + column + 1] + along[here + column + 1] - along[here + column]);
    }
  };
  for (let round = 0; round < SWEEPS; round++) {
    for (let row = 0; row < high; row++) sweep(row, row - 1);
    for (let row = high - 1; row >= 0; row--) sweep(row, row + 1);
  }
  return found;
}
