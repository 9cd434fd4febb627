// Connected parts, holes and neighbours of regions, which are bytes (height, width), 0 outside.

/** The connected parts (four neighbours) of a region, counted from 1 in the order of their first pixels; 0 elsewhere. */
export function numbered(region: Uint8Array, width: number, height: number): { parts: Int32Array; count: number } {
  const parts = new Int32Array(region.length);
  const stack = new Int32Array(region.length);
  let count = 0;
  for (let start = 0; start < region.length; start++) {
    if (!region[start] || parts[start]) continue;
    parts[start] = ++count;
    let depth = 0;
    stack[depth++] = start;
    const enter = (place: number): void => {
      if (region[place] && !parts[place]) {
        parts[place] = count;
        stack[depth++] = place;
      }
    };
    while (depth) {
      const place = stack[--depth];
      const column = place % width;
      if (column > 0) enter(place - 1);
      if (column < width - 1) enter(place + 1);
      if (place >= width) enter(place - width);
      if (place < width * (height - 1)) enter(place + width);
    }
  }
  return { parts, count };
}

/** A region with its holes: all that the image border cannot reach without crossing it. */
export function filled(region: Uint8Array, width: number, height: number): Uint8Array {
  const wide = new Uint8Array((width + 2) * (height + 2)).fill(1);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      wide[(row + 1) * (width + 2) + column + 1] = region[row * width + column] ? 0 : 1;
    }
  }
  const { parts } = numbered(wide, width + 2, height + 2);
  const found = new Uint8Array(region.length);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      found[row * width + column] = parts[(row + 1) * (width + 2) + column + 1] !== parts[0] ? 1 : 0;
    }
  }
  return found;
}

/** The region with all neighbours (of four) of its pixels, `steps` times. */
export function grown(region: Uint8Array, width: number, height: number, steps: number): Uint8Array {
  let found = region;
  for (let step = 0; step < steps; step++) {
    const next = found.slice();
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        const place = row * width + column;
        if (!found[place]) continue;
        if (column > 0) next[place - 1] = 1;
        if (column < width - 1) next[place + 1] = 1;
        if (row > 0) next[place - width] = 1;
        if (row < height - 1) next[place + width] = 1;
      }
    }
    found = next;
  }
  return found;
}
