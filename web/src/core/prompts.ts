// What a person shows on an image, and the channels of the prior (foreground/prompts.py).

import type { Part } from "./resize";

const DISC = 0.03; // radius of a point, in parts of the side
export const CHANNELS_SIDE = 96; // pixels of the channels' sides

/** A place on the image, in pixels counted from 0 at the top left. */
export interface Place {
  x: number;
  y: number;
}

/** A pixel of the object, or one that is not of it. */
export interface Point extends Place {
  kind: "point";
  inside: boolean;
}

/** A line drawn with a round brush, through the centres of pixels. */
export interface Stroke {
  kind: "stroke";
  path: Place[];
  radius: number;
  inside: boolean;
}

/** Pixels of the image; the right column and the bottom row belong to it. */
export interface Box {
  left: number;
  top: number;
  right: number;
  bottom: number;
}

/** What is shown. Of two marks on one pixel the later one holds. */
export interface Prompts {
  marks: (Point | Stroke)[];
  box: Box | null;
}

/** Pixels of which prompts say what they are: their places, row by row. */
export interface Labelled {
  inside: Int32Array;
  outside: Int32Array;
}

export const NONE: Prompts = { marks: [], box: null };

export function isEmpty({ marks, box }: Prompts): boolean {
  return !marks.length && !box;
}

const [INSIDE, OUTSIDE] = [1, 2];

/** Pixels of points and strokes. What a box leaves out is not of the object, whatever was shown there before. */
export function labelled(prompts: Prompts, width: number, height: number): Labelled {
  const map = new Uint8Array(width * height);
  for (const mark of prompts.marks) {
    const value = mark.inside ? INSIDE : OUTSIDE;
    if (mark.kind === "point") map[mark.y * width + mark.x] = value;
    else paint(mark, map, width, height, value);
  }
  const [inside, outside]: [number[], number[]] = [[], []];
  const { box } = prompts;
  for (let place = 0; place < map.length; place++) {
    if (map[place] === OUTSIDE) outside.push(place);
    else if (map[place] === INSIDE && (!box || contains(box, place % width, Math.floor(place / width)))) inside.push(place);
  }
  return { inside: Int32Array.from(inside), outside: Int32Array.from(outside) };
}

export function contains(box: Box, x: number, y: number): boolean {
  return box.left <= x && x <= box.right && box.top <= y && y <= box.bottom;
}

/** Paint the pixels whose centres are within the radius of a stroke's line. */
function paint({ path, radius }: Stroke, map: Uint8Array, width: number, height: number, value: number): void {
  path.forEach((end, index) => {
    const start = path[Math.max(index - 1, 0)];
    const [dx, dy] = [end.x - start.x, end.y - start.y];
    const length = dx * dx + dy * dy;
    const first = Math.max(Math.floor(Math.min(start.y, end.y) - radius), 0);
    const last = Math.min(Math.ceil(Math.max(start.y, end.y) + radius), height - 1);
    const left = Math.max(Math.floor(Math.min(start.x, end.x) - radius), 0);
    const right = Math.min(Math.ceil(Math.max(start.x, end.x) + radius), width - 1);
    for (let y = first; y <= last; y++) {
      for (let x = left; x <= right; x++) {
        const along = length ? Math.min(Math.max(((x - start.x) * dx + (y - start.y) * dy) / length, 0), 1) : 0;
        if ((start.x + along * dx - x) ** 2 + (start.y + along * dy - y) ** 2 <= radius ** 2) map[y * width + x] = value;
      }
    }
  });
}

/**
 * The channels (3, 96, 96) of a picture or a part of it: discs around positive pixels, discs around negative pixels, 1
 * inside the box.
 */
export function channelsOf(
  { inside, outside }: Labelled,
  box: Box | null,
  width: number,
  height: number,
  { left, top, right, bottom }: Part = { left: 0, top: 0, right: width, bottom: height },
): Float32Array {
  const side = CHANNELS_SIDE;
  const found = new Float32Array(3 * side * side);
  const [across, down] = [right - left, bottom - top];
  [inside, outside].forEach((places, channel) => {
    const exact = Array.from(places, (place): [number, number] => [
      (Math.floor(place / width) + 0.5 - top) * (side / down),
      ((place % width) + 0.5 - left) * (side / across),
    ]).filter((ahead) => ahead.every((each) => each >= 0 && each < side));
    // Pixels of a stroke that fall into one of the channel are one disc.
    const coarse = new Set(exact.map(([row, column]) => Math.floor(row) * side + Math.floor(column)));
    const centres =
      exact.length <= coarse.size
        ? exact.map(([row, column]): [number, number] => [row - 0.5, column - 0.5])
        : [...coarse].map((place): [number, number] => [Math.floor(place / side), place % side]);
    for (const [row, column] of centres) disc(found.subarray(channel * side * side, (channel + 1) * side * side), row, column);
  });
  if (box) {
    const [rows, columns] = [span(box.top - top, box.bottom - top, down, side), span(box.left - left, box.right - left, across, side)];
    for (let row = rows[0]; row < rows[1]; row++) {
      const line = (2 * side + row) * side;
      found.fill(1, line + columns[0], line + columns[1]);
    }
  }
  return found;
}

function disc(channel: Float32Array, row: number, column: number): void {
  const side = CHANNELS_SIDE;
  const radius = Math.max(DISC * side, 1);
  for (let line = Math.max(Math.ceil(row - radius), 0); line <= Math.min(row + radius, side - 1); line++) {
    for (let place = Math.max(Math.ceil(column - radius), 0); place <= Math.min(column + radius, side - 1); place++) {
      if ((line - row) ** 2 + (place - column) ** 2 <= radius ** 2) channel[line * side + place] = 1;
    }
  }
}

/** A probability (high, wide) of an image (height, width), 0 outside the box. */
export function within(box: Box | null, probability: Float32Array, wide: number, high: number, width: number, height: number): Float32Array {
  if (!box) return probability;
  const [rows, columns] = [span(box.top, box.bottom, height, high), span(box.left, box.right, width, wide)];
  const kept = new Float32Array(probability.length);
  for (let row = rows[0]; row < rows[1]; row++) {
    const line = row * wide;
    kept.set(probability.subarray(line + columns[0], line + columns[1]), line + columns[0]);
  }
  return kept;
}

/** What pixels `first` to `last` of `size` touch, of `wanted` in the same place. */
function span(first: number, last: number, size: number, wanted: number): [number, number] {
  return [Math.floor((first * wanted) / size), Math.ceil(((last + 1) * wanted) / size)];
}
