// Weighted means of neighbouring pixels (foreground/blur.py): separable filters, down the columns and along the rows.

/** Blur (side, side) with a Gaussian; beyond the border the image continues as its mirror image, border included. */
export function gaussian(values: Float64Array, side: number, sigma: number, truncate = 4): Float64Array {
  const radius = Math.floor(truncate * sigma + 0.5);
  const weights = Array.from({ length: radius + 1 }, (_, distance) => Math.exp(-0.5 * (distance / sigma) ** 2));
  const total = weights.reduce((sum, each, distance) => sum + (distance ? 2 : 1) * each, 0);
  const mirrored = (place: number): number => {
    const turned = ((place % (2 * side)) + 2 * side) % (2 * side);
    return turned < side ? turned : 2 * side - 1 - turned;
  };
  return filtered(values, side, weights.map((each) => each / total), mirrored);
}

/** Means over windows of `2 * radius + 1` pixels a side; beyond the border the border pixels are repeated. */
export function box(values: Float64Array, side: number, radius: number): Float64Array {
  const weights = new Array<number>(radius + 1).fill(1 / (2 * radius + 1));
  return filtered(values, side, weights, (place) => Math.min(Math.max(place, 0), side - 1));
}

/** Filter in both directions; `weights` are those of the distances from 0. */
function filtered(
  values: Float64Array,
  side: number,
  weights: number[],
  inside: (place: number) => number,
): Float64Array {
  const reach = weights.length - 1;
  const places = Int32Array.from({ length: side + 2 * reach }, (_, index) => inside(index - reach));
  let found = values;
  for (const along of [false, true]) {
    const next = new Float64Array(side * side);
    for (let place = 0; place < side; place++) {
      for (let distance = -reach; distance <= reach; distance++) {
        const weight = weights[Math.abs(distance)];
        const other = places[place + distance + reach];
        for (let line = 0; line < side; line++) {
          if (along) next[line * side + place] += weight * found[line * side + other];
          else next[place * side + line] += weight * found[other * side + line];
        }
      }
    }
    found = next;
  }
  return found;
}
