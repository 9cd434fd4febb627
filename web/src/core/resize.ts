// Resizing as Python's side does it: Pillow's antialiased linear filter, in whole numbers for bytes, and nearest pixels.

const PRECISION = 22; // bits after the point of Pillow's weights for bytes
const HALF = 1 << (PRECISION - 1);

interface Weights {
  taps: number;
  first: Int32Array;
  count: Int32Array;
  values: Float64Array;
}

/** A rectangle in a picture, in pixels. */
export interface Part {
  left: number;
  top: number;
  right: number;
  bottom: number;
}

/** The weights of each of `wanted` pixels on a line of `size`, or on a part of it. */
function weightsOf(size: number, wanted: number, from = 0, to = size): Weights {
  const [first32, last32] = [Math.fround(from), Math.fround(to)]; // Pillow's type for places
  const scale = Math.fround(last32 - first32) / wanted;
  const reach = Math.max(scale, 1);
  const taps = Math.ceil(reach) * 2 + 1;
  const first = new Int32Array(wanted);
  const count = new Int32Array(wanted);
  const values = new Float64Array(wanted * taps);
  for (let place = 0; place < wanted; place++) {
    const centre = first32 + (place + 0.5) * scale;
    const start = Math.max(Math.trunc(centre - reach + 0.5), 0);
    const end = Math.min(Math.trunc(centre + reach + 0.5), size);
    let total = 0;
    for (let each = start; each < end; each++) {
      const weight = Math.max(1 - Math.abs((each - centre + 0.5) * (1 / reach)), 0);
      values[place * taps + each - start] = weight;
      total += weight;
    }
    for (let each = 0; total !== 0 && each < end - start; each++) values[place * taps + each] *= 1 / total;
    first[place] = start;
    count[place] = end - start;
  }
  return { taps, first, count, values };
}

function clipped(sum: number): number {
  const value = sum >> PRECISION;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

function whole(weights: Weights): Int32Array {
  return Int32Array.from(weights.values, (each) => Math.trunc(each * (1 << PRECISION) + (each < 0 ? -0.5 : 0.5)));
}

/** Resize colours, bytes (height, width, 3), or a part of them, rounding after each direction as Pillow does. */
export function resizeBytes(
  source: Uint8Array,
  width: number,
  height: number,
  wantedWidth: number,
  wantedHeight: number,
  { left, top, right, bottom }: Part = { left: 0, top: 0, right: width, bottom: height },
): Uint8Array {
  // Pillow 13 begins with the columns where that leaves the lines far fewer pixels.
  if (height > wantedHeight && height - wantedHeight > 2 * (width - wantedWidth)) {
    const low = downColumns(source, width * 3, height, wantedHeight, top, bottom);
    return alongRows(low, width, wantedHeight, wantedWidth, left, right);
  }
  const narrow = alongRows(source, width, height, wantedWidth, left, right);
  return downColumns(narrow, wantedWidth * 3, height, wantedHeight, top, bottom);
}

function alongRows(source: Uint8Array, width: number, height: number, wanted: number, from: number, to: number): Uint8Array {
  if (wanted === width && from === 0 && to === width) return source;
  const weights = weightsOf(width, wanted, from, to);
  const values = whole(weights);
  const found = new Uint8Array(height * wanted * 3);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < wanted; column++) {
      let at = (row * width + weights.first[column]) * 3;
      let [red, green, blue] = [HALF, HALF, HALF];
      const start = column * weights.taps;
      for (let tap = start; tap < start + weights.count[column]; tap++, at += 3) {
        const weight = values[tap];
        red += source[at] * weight;
        green += source[at + 1] * weight;
        blue += source[at + 2] * weight;
      }
      const to = (row * wanted + column) * 3;
      found[to] = clipped(red);
      found[to + 1] = clipped(green);
      found[to + 2] = clipped(blue);
    }
  }
  return found;
}

function downColumns(source: Uint8Array, line: number, height: number, wanted: number, from: number, to: number): Uint8Array {
  if (wanted === height && from === 0 && to === height) return source;
  const weights = weightsOf(height, wanted, from, to);
  const values = whole(weights);
  const found = new Uint8Array(wanted * line);
  const sums = new Int32Array(line);
  for (let row = 0; row < wanted; row++) {
    sums.fill(HALF);
    for (let each = 0; each < weights.count[row]; each++) {
      const weight = values[row * weights.taps + each];
      const start = (weights.first[row] + each) * line;
      for (let place = 0; place < line; place++) sums[place] += source[start + place] * weight;
    }
    for (let place = 0; place < line; place++) found[row * line + place] = clipped(sums[place]);
  }
  return found;
}

/** Resize numbers (height, width), or a part of them. */
export function resizeFloats(
  source: Float32Array,
  width: number,
  height: number,
  wantedWidth: number,
  wantedHeight: number,
  { left, top, right, bottom }: Part = { left: 0, top: 0, right: width, bottom: height },
): Float32Array {
  let found = source;
  if (wantedWidth !== width || left !== 0 || right !== width) {
    const weights = weightsOf(width, wantedWidth, left, right);
    const narrow = new Float32Array(height * wantedWidth);
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < wantedWidth; column++) {
        const from = row * width + weights.first[column];
        let sum = 0;
        for (let each = 0; each < weights.count[column]; each++) {
          sum += found[from + each] * weights.values[column * weights.taps + each];
        }
        narrow[row * wantedWidth + column] = sum;
      }
    }
    found = narrow;
  }
  if (wantedHeight === height && top === 0 && bottom === height) return found === source ? source.slice() : found;
  const weights = weightsOf(height, wantedHeight, top, bottom);
  const low = new Float32Array(wantedHeight * wantedWidth);
  const sums = new Float64Array(wantedWidth);
  for (let row = 0; row < wantedHeight; row++) {
    sums.fill(0);
    for (let each = 0; each < weights.count[row]; each++) {
      const weight = weights.values[row * weights.taps + each];
      const from = (weights.first[row] + each) * wantedWidth;
      for (let place = 0; place < wantedWidth; place++) sums[place] += found[from + place] * weight;
    }
    low.set(sums, row * wantedWidth);
  }
  return low;
}

/** Which of `size` pixels lies under the centre of each of `wanted` pixels. */
export function nearest(size: number, wanted: number): Int32Array {
  return Int32Array.from({ length: wanted }, (_, place) => Math.floor(((2 * place + 1) * size) / (2 * wanted)));
}

/** Resize ids, flags or numbers (height, width): each pixel takes the value under its centre. */
export function resizeNearest<Values extends Uint8Array | Float32Array>(
  source: Values,
  width: number,
  height: number,
  wantedWidth: number,
  wantedHeight: number,
): Values {
  const rows = nearest(height, wantedHeight);
  const columns = nearest(width, wantedWidth);
  const found = new (source.constructor as new (length: number) => Values)(wantedWidth * wantedHeight);
  for (let row = 0; row < wantedHeight; row++) {
    const from = rows[row] * width;
    const to = row * wantedWidth;
    for (let column = 0; column < wantedWidth; column++) found[to + column] = source[from + columns[column]];
  }
  return found;
}
