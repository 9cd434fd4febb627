// What a box says beyond its bounds: where to look closer, and that the object reaches all four sides
// (foreground/boxes.py).

import type { Box } from "./prompts";
import { type Part, resizeFloats } from "./resize";

const MARGIN = 0.5; // of the box's width and height, on each side
const REACHED = 0.5; // of the gap between the mask and each side of its box

/** Rows and columns of a grid (side, side) over the whole picture; the last ones do not belong to it. */
export interface Window extends Box {
  side: number;
}

/** A box and what is around it, on a grid of `side` rows and columns. */
export function windowAround(box: Box, width: number, height: number, side: number): Window {
  const [left, right] = widened(box.left, box.right + 1, width, side);
  const [top, bottom] = widened(box.top, box.bottom + 1, height, side);
  return { left, top, right, bottom, side };
}

/** First cell of a grid and the one after the last, for pixels and the margin around them. */
function widened(first: number, after: number, size: number, side: number): [number, number] {
  const margin = MARGIN * (after - first);
  const [start, stop] = [Math.max(first - margin, 0), Math.min(after + margin, size)];
  return [Math.floor((start * side) / size), Math.ceil((stop * side) / size)];
}

/** Where a window is in a picture of this size. */
export function partOf({ left, top, right, bottom, side }: Window, width: number, height: number): Part {
  const [across, down] = [width / side, height / side];
  return { left: left * across, top: top * down, right: right * across, bottom: bottom * down };
}

/** Features (side, side, channels) where they are nearest to side x side places of a window, into `found`. */
export function enlarged({ left, top, right, bottom, side }: Window, features: Float32Array, found: Float32Array): void {
  const channels = features.length / side ** 2;
  const place = (first: number, after: number, step: number): number => Math.trunc(first + ((step + 0.5) / side) * (after - first));
  for (let row = 0, to = 0; row < side; row++) {
    const line = place(top, bottom, row) * side;
    for (let column = 0; column < side; column++, to += channels) {
      const from = (line + place(left, right, column)) * channels;
      found.set(features.subarray(from, from + channels), to);
    }
  }
}

/** A probability (side, side) of a window's pixels as one of the picture's, 0 outside the window. */
export function placed({ left, top, right, bottom, side }: Window, probability: Float32Array): Float32Array {
  const found = new Float32Array(side * side);
  const [wide, high] = [right - left, bottom - top];
  const small = resizeFloats(probability, side, side, wide, high);
  for (let row = 0; row < high; row++) found.set(small.subarray(row * wide, (row + 1) * wide), (top + row) * side + left);
  return found;
}

/** A probability (height, width), 0 outside the box, whose mask comes nearer to the sides of the box. */
export function reaching(probability: Float32Array, threshold: number, { left, top, right, bottom }: Box, width: number): Float32Array {
  const limit = Math.fround(threshold);
  const [wide, high] = [right - left + 1, bottom - top + 1];
  const part = new Float32Array(wide * high);
  for (let row = 0; row < high; row++) {
    const from = (top + row) * width + left;
    part.set(probability.subarray(from, from + wide), row * wide);
  }
  let [firstRow, lastRow, firstColumn, lastColumn] = [high, -1, wide, -1];
  part.forEach((each, place) => {
    if (each <= limit) return;
    const [row, column] = [Math.floor(place / wide), place % wide];
    [firstRow, lastRow] = [Math.min(firstRow, row), row];
    [firstColumn, lastColumn] = [Math.min(firstColumn, column), Math.max(lastColumn, column)];
  });
  if (lastRow < 0) return probability;
  const stretched = resizeFloats(part, wide, high, wide, high, {
    left: firstColumn * REACHED,
    top: firstRow * REACHED,
    right: wide - (wide - 1 - lastColumn) * REACHED,
    bottom: high - (high - 1 - lastRow) * REACHED,
  });
  const found = new Float32Array(probability.length);
  for (let row = 0; row < high; row++) found.set(stretched.subarray(row * wide, (row + 1) * wide), (top + row) * width + left);
  return found;
}
