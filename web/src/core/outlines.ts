// Masks as polygons along the edges of their pixels, and COCO files of them (images/outlines.py, results/annotations.py).

import { numbered } from "./regions";

type Corner = [x: number, y: number];

/** One connected part: its polygon, with holes joined to it by cuts without width, its area, left, top, width, height. */
export interface Outline {
  polygon: Corner[];
  area: number;
  box: [number, number, number, number];
}

/** The outlines of all connected parts (four neighbours) of a mask, in the order of their first pixels. */
export function outlines(mask: Uint8Array, width: number, height: number): Outline[] {
  const { parts, count } = numbered(mask, width, height);
  const areas = new Array<number>(count + 1).fill(0);
  for (const part of parts) areas[part]++;
  const borders: { outer: Corner[]; holes: Corner[][] }[] = Array.from({ length: count + 1 }, () => ({ outer: [], holes: [] }));
  for (const { part, loop, clockwise } of loops(parts, width, height)) {
    if (clockwise) borders[part].outer = loop;
    else borders[part].holes.push(loop);
  }
  return borders.slice(1).map(({ outer, holes }, index) => {
    const [xs, ys] = [outer.map(([x]) => x), outer.map(([, y]) => y)];
    const [left, top] = [xs.reduce((one, each) => Math.min(one, each)), ys.reduce((one, each) => Math.min(one, each))];
    const [right, bottom] = [xs.reduce((one, each) => Math.max(one, each)), ys.reduce((one, each) => Math.max(one, each))];
    return { polygon: joined(outer, holes), area: areas[index + 1], box: [left, top, right - left, bottom - top] };
  });
}

const STEPS: Corner[] = [[1, 0], [0, 1], [-1, 0], [0, -1]]; // right, down, left, up: the part is on the right of each

/** The closed borders of all parts; outer ones run clockwise on the screen, those of holes the other way. */
function* loops(parts: Int32Array, width: number, height: number): Generator<{ part: number; loop: Corner[]; clockwise: boolean }> {
  const at = (x: number, y: number): number => (x < 0 || y < 0 || x >= width || y >= height ? 0 : parts[y * width + x]);
  // The pixel on the right and on the left of an edge that leaves a corner in a direction.
  const right = (x: number, y: number, way: number): number => at(x - (way === 1 || way === 2 ? 1 : 0), y - (way === 2 || way === 3 ? 1 : 0));
  const left = (x: number, y: number, way: number): number => at(x - (way === 2 || way === 3 ? 1 : 0), y - (way === 3 || way === 0 ? 1 : 0));
  const seen = new Uint8Array((width + 1) * (height + 1)); // edges to the right that were passed
  for (let y = 0; y <= height; y++) {
    for (let x = 0; x < width; x++) {
      for (const [way, startX] of [[0, x], [2, x + 1]]) {
        const part = right(startX, y, way);
        if (!part || left(startX, y, way) === part || seen[y * (width + 1) + x] & (way === 0 ? 1 : 2)) continue;
        const loop: Corner[] = [];
        let [column, row, direction, twiceArea] = [startX, y, way, 0];
        do {
          const [stepX, stepY] = STEPS[direction];
          if (direction === 0) seen[row * (width + 1) + column] |= 1;
          if (direction === 2) seen[row * (width + 1) + column - 1] |= 2;
          twiceArea += column * stepY - row * stepX;
          [column, row] = [column + stepX, row + stepY];
          // As far to the right as the part's border goes: parts that touch at a corner stay apart.
          const next = [1, 0, 3].map((turn) => (direction + turn) % 4).find((each) => right(column, row, each) === part && left(column, row, each) !== part)!;
          if (next !== direction) loop.push([column, row]);
          direction = next;
        } while (column !== startX || row !== y || direction !== way);
        yield { part, loop, clockwise: twiceArea > 0 };
      }
    }
  }
}

/** Outer border and holes as one polygon: a cut leads from each hole to the left, to the nearest border. */
function joined(outer: Corner[], holes: Corner[][]): Corner[] {
  if (!holes.length) return outer;
  const fromLeft = (one: Corner, other: Corner): number => one[0] - other[0] || one[1] - other[1];
  const turned = holes.map((hole) => {
    const first = hole.reduce((best, corner, index) => (fromLeft(corner, hole[best]) < 0 ? index : best), 0);
    return [...hole.slice(first), ...hole.slice(0, first)];
  });
  const borders = [outer, ...turned.sort((one, other) => fromLeft(one[0], other[0]))];
  // The vertical edges that pass each row of pixels.
  const passing = new Map<number, { x: number; border: number; edge: number }[]>();
  borders.forEach((corners, border) =>
    corners.forEach(([x, y], edge) => {
      const [nextX, nextY] = corners[(edge + 1) % corners.length];
      if (x !== nextX) return;
      for (let row = Math.min(y, nextY); row < Math.max(y, nextY); row++) {
        if (!passing.has(row)) passing.set(row, []);
        passing.get(row)!.push({ x, border, edge });
      }
    }),
  );
  const ends = new Map<string, { y: number; hole: number }[]>();
  borders.slice(1).forEach(([[x, y]], index) => {
    const met = passing.get(y)!.filter((each) => each.x < x).reduce((one, each) => (each.x > one.x ? each : one));
    const key = `${met.border} ${met.edge}`;
    ends.set(key, [...(ends.get(key) ?? []), { y, hole: index + 1 }]);
  });
  const polygonOf = (border: number): Corner[] =>
    borders[border].flatMap((here, edge) => {
      const following = borders[border][(edge + 1) % borders[border].length];
      const up = following[1] < here[1];
      const cuts = (ends.get(`${border} ${edge}`) ?? []).sort((one, other) => (up ? other.y - one.y : one.y - other.y));
      return [here, ...cuts.flatMap(({ y, hole }): Corner[] => {
        const inner = polygonOf(hole);
        return [[here[0], y], ...inner, inner[0], [here[0], y]];
      })];
    });
  return polygonOf(0);
}

/** A COCO file of masks, as 'msformer-deploy run --format coco' writes it. */
export function cocoOf(images: { name: string; width: number; height: number; mask: Uint8Array }[]): string {
  const annotations: object[] = [];
  const listed = images.map(({ name, width, height, mask }, index) => {
    for (const { polygon, area, box } of outlines(mask, width, height)) {
      annotations.push({
        id: annotations.length + 1,
        image_id: index + 1,
        category_id: 1,
        segmentation: [polygon.flat()],
        area,
        bbox: box,
        iscrowd: 0,
      });
    }
    return { id: index + 1, file_name: name, width, height };
  });
  return `${JSON.stringify({
    info: { description: "Masks found by msformer-deploy: research software, not a medical device" },
    licenses: [],
    categories: [{ id: 1, name: "object", supercategory: "" }],
    images: listed,
    annotations,
  })}\n`;
}
