// What a person shows on an image, and the channels of the prior (foreground/prompts.py).

const DISC = 0.03; // radius of a point, in parts of the side
export const CHANNELS_SIDE = 96; // pixels of the channels' sides

/** A pixel of the image, counted from 0 at the top left. */
export interface Point {
  x: number;
  y: number;
  inside: boolean;
}

/** Pixels of the image; the right column and the bottom row belong to it. */
export interface Box {
  left: number;
  top: number;
  right: number;
  bottom: number;
}

/** A line drawn with a round brush, through centres in pixels of the image. */
export interface Stroke {
  path: { x: number; y: number }[];
  radius: number;
  inside: boolean;
}

export interface Prompts {
  points: Point[];
  box: Box | null;
  strokes: Stroke[];
}

export const NONE: Prompts = { points: [], box: null, strokes: [] };

export function isEmpty(prompts: Prompts): boolean {
  return !prompts.points.length && !prompts.box && !prompts.strokes.length;
}

/** The channels (3, 96, 96): discs around positive points, discs around negative points, 1 inside the box. */
export function channelsOf(prompts: Prompts, width: number, height: number): Float32Array {
  const side = CHANNELS_SIDE;
  const found = new Float32Array(3 * side * side);
  const radius = Math.max(DISC * side, 1);
  const shown = [
    ...prompts.points,
    ...prompts.strokes.flatMap(({ path, inside }) => path.map(({ x, y }) => ({ x, y, inside }))),
  ];
  for (const { x, y, inside } of shown) {
    const [row, column] = [((y + 0.5) * side) / height - 0.5, ((x + 0.5) * side) / width - 0.5];
    const start = inside ? 0 : side * side;
    for (let line = 0; line < side; line++) {
      for (let place = 0; place < side; place++) {
        if ((line - row) ** 2 + (place - column) ** 2 <= radius ** 2) found[start + line * side + place] = 1;
      }
    }
  }
  if (prompts.box) {
    const { left, top, right, bottom } = prompts.box;
    const [rows, columns] = [span(top, bottom, height, side), span(left, right, width, side)];
    for (let line = rows[0]; line < rows[1]; line++) found.fill(1, (2 * side + line) * side + columns[0], (2 * side + line) * side + columns[1]);
  }
  return found;
}

/** A probability (height, width) of any size, 0 outside the box. */
export function within(prompts: Prompts, probability: Float32Array, wide: number, high: number, width: number, height: number): Float32Array {
  if (!prompts.box) return probability;
  const { left, top, right, bottom } = prompts.box;
  const [rows, columns] = [span(top, bottom, height, high), span(left, right, width, wide)];
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
