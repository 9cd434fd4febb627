// What the network takes of a picture, and the square that its regions are drawn on (images/read.py, foreground/view.py
// and foreground/frame.py).

import type { Picture } from "./picture";
import { filled, grown } from "./regions";
import { type Part, resizeBytes, resizeFloats, resizeNearest } from "./resize";

export const BORDERS = 257; // pixels of the square on which borders are drawn
export const SMALL = 129; // pixels of the square on which colours are compared
const COLOURED = 0.03;
const BLOCK = 8;
const BLACK = 0.12;
const MIN_FRAME = 0.02;
const MARGIN = 2;

/** A square picture, (3, side, side), blue, green, red, in 0..1. */
export interface Square {
  side: number;
  planes: Float32Array;
}

/** A picture, or a part of it, squeezed to a square, as the network takes it. */
export function squareOf(picture: Picture, side: number, part?: Part): Square {
  const size = side * side;
  const planes = new Float32Array(3 * size);
  if (picture.grey) {
    const small = resizeFloats(picture.grey, picture.width, picture.height, side, side, part);
    for (let channel = 0; channel < 3; channel++) planes.set(small, channel * size);
    return { side, planes };
  }
  const small = resizeBytes(picture.rgb!, picture.width, picture.height, side, side, part);
  for (let place = 0; place < size; place++) {
    for (let channel = 0; channel < 3; channel++) planes[(2 - channel) * size + place] = small[3 * place + channel] / 255;
  }
  return { side, planes };
}

/** The mean of the channels, (side, side). */
export function brightnessOf({ side, planes }: Square): Float32Array {
  const size = side * side;
  return Float32Array.from({ length: size }, (_, place) => (planes[place] + planes[size + place] + planes[2 * size + place]) / 3);
}

/** The nearest pixels of a square in another one, (3, wanted, wanted). */
export function smaller({ side, planes }: Square, wanted: number): Square {
  const found = new Float32Array(3 * wanted * wanted);
  for (let channel = 0; channel < 3; channel++) {
    const plane = planes.subarray(channel * side * side, (channel + 1) * side * side);
    found.set(resizeNearest(plane, side, side, wanted, wanted), channel * wanted * wanted);
  }
  return { side: wanted, planes: found };
}

/** Whether a picture has colours; of blocks, because noise is no colour. */
export function isColoured({ side, planes }: Square): boolean {
  const size = side * side;
  const blocks = Math.floor(side / BLOCK);
  let sum = 0;
  for (let down = 0; down < blocks; down++) {
    for (let right = 0; right < blocks; right++) {
      let difference = 0;
      for (let row = down * BLOCK; row < (down + 1) * BLOCK; row++) {
        for (let column = right * BLOCK; column < (right + 1) * BLOCK; column++) {
          const place = row * side + column;
          difference += planes[2 * size + place] - planes[place];
        }
      }
      sum += Math.abs(difference / (BLOCK * BLOCK));
    }
  }
  return sum / (blocks * blocks) > COLOURED;
}

/** The brightest channel of each pixel. */
function brightest({ side, planes }: Square): Float32Array {
  const size = side * side;
  return Float32Array.from({ length: size }, (_, place) => Math.max(planes[place], planes[size + place], planes[2 * size + place]));
}

/** Whether so much of a picture is black that it has a frame. */
export function hasFrame(square: Square): boolean {
  const limit = Math.fround(BLACK);
  let black = 0;
  for (const each of brightest(square)) if (each < limit) black++;
  return black / (square.side * square.side) >= MIN_FRAME;
}

/** The picture with its black frame in the colours beside it; itself where it is grey or has no frame. */
export function withoutFrame(square: Square, view: Square): Square {
  if (!(isColoured(view) && hasFrame(view))) return square;
  const { side, planes } = square;
  const limit = Math.fround(BLACK);
  const lit = Uint8Array.from(brightest(square), (each) => (each >= limit ? 1 : 0));
  const dark = filled(lit, side, side).map((each) => 1 - each);
  const frame = grown(dark, side, side, MARGIN);
  if (!frame.includes(1) || !frame.includes(0)) return square;
  const from = nearestOutside(frame, side);
  const found = planes.slice();
  for (let channel = 0; channel < 3; channel++) {
    const start = channel * side * side;
    for (let place = 0; place < side * side; place++) if (frame[place]) found[start + place] = planes[start + from[place]];
  }
  return { side, planes: found };
}

/** For each pixel of a region of a square: the place of the nearest pixel outside, by Euclidean distance. */
export function nearestOutside(region: Uint8Array, side: number): Int32Array {
  const nearestRow = new Int32Array(side * side);
  const distance = new Int32Array(side * side);
  for (let column = 0; column < side; column++) {
    let above = -side;
    for (let row = 0; row < side; row++) {
      if (!region[row * side + column]) above = row;
      nearestRow[row * side + column] = above;
    }
    let below = 2 * side;
    for (let row = side - 1; row >= 0; row--) {
      const place = row * side + column;
      if (!region[place]) below = row;
      const chosen = row - nearestRow[place] <= below - row ? nearestRow[place] : below;
      nearestRow[place] = chosen;
      const none = above === -side; // after the first loop: the column has no pixel outside
      distance[place] = none ? 2 * side * side : (chosen - row) ** 2;
    }
  }
  const found = new Int32Array(side * side);
  for (let row = 0; row < side; row++) {
    for (let column = 0; column < side; column++) {
      const place = row * side + column;
      if (!region[place]) continue;
      let best = Infinity;
      let chosen = 0;
      for (let other = 0; other < side; other++) {
        const sum = (column - other) ** 2 + distance[row * side + other];
        if (sum < best) [best, chosen] = [sum, other];
      }
      found[place] = nearestRow[row * side + chosen] * side + chosen;
    }
  }
  return found;
}
