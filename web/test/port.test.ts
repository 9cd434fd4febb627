// The page's code finds what Python finds: fixtures.json.gz is written by tests/support/page_fixtures.py.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { redraw } from "../src/core/borders";
import { enlarged, partOf, placed, reaching, windowAround } from "../src/core/boxes";
import { candidatesOf } from "../src/core/candidates";
import { prefersGpu } from "../src/core/devices";
import { type Fingerprint, isAsKnown, noise } from "../src/core/fingerprint";
import type { Values } from "../src/core/intensities";
import { confidenceOf, above, maskAtSize, thresholdOf } from "../src/core/mask";
import { obey } from "../src/core/obeyed";
import { cocoOf, outlines } from "../src/core/outlines";
import { ofStored, type Picture } from "../src/core/picture";
import { palette } from "../src/core/png";
import { channelsOf, labelled, type Prompts, within } from "../src/core/prompts";
import { resizeFloats, resizeNearest } from "../src/core/resize";
import { BORDERS, hasFrame, isColoured, squareOf, withoutFrame } from "../src/core/view";

interface Packed {
  type: string;
  shape: number[];
  data: string;
}

const fixtures = JSON.parse(gunzipSync(readFileSync(join(import.meta.dirname, "fixtures.json.gz"))).toString());
const TYPES: Record<string, new (buffer: ArrayBuffer) => Values> = {
  uint8: Uint8Array,
  uint16: Uint16Array,
  int16: Int16Array,
  float32: Float32Array,
};

function unpack<Kind extends Values = Uint8Array>({ type, data }: Packed): Kind {
  return new TYPES[type](new Uint8Array(Buffer.from(data, "base64")).buffer) as Kind;
}

function pictureOf(packed: Packed, name = "image"): Picture {
  const [height, width, channels = 1] = packed.shape;
  return ofStored({ width, height, channels: channels as 1 | 3, values: unpack<Values>(packed), notes: [] }, name);
}

function agreement(one: ArrayLike<number>, other: ArrayLike<number>): number {
  expect(one.length).toBe(other.length);
  return Array.from(one).filter((each, place) => each === other[place]).length / one.length;
}

function farthest(one: ArrayLike<number>, other: ArrayLike<number>): number {
  expect(one.length).toBe(other.length);
  return Array.from(one).reduce((most, each, place) => Math.max(most, Math.abs(each - other[place])), 0);
}

describe.each(Object.entries<any>(fixtures.pictures))("picture %s", (_, fixture) => {
  const picture = pictureOf(fixture.pixels);
  const view = squareOf(picture, BORDERS);

  test("is squeezed as Pillow does", () => {
    const square = squareOf(picture, fixture.square.shape[1]);
    expect(farthest(square.planes, unpack<Float32Array>(fixture.square))).toBeLessThan(picture.grey ? 1e-6 : 1e-7);
  });

  test("has colours and a frame, or not", () => {
    expect([isColoured(view), hasFrame(view)]).toEqual([fixture.coloured, fixture.framed]);
  });

  test("loses its frame", () => {
    const seen = withoutFrame(squareOf(picture, fixture.square.shape[1]), view);
    expect(farthest(seen.planes, unpack<Float32Array>(fixture.seen))).toBeLessThan(1e-6);
  });

  test.each(fixture.labels as { given: Packed; drawn: Packed }[])("has its regions redrawn", ({ given, drawn }) => {
    const found = redraw(unpack(given), given.shape[0], view);
    const [height, width] = drawn.shape;
    expect(agreement(resizeNearest(found, BORDERS, BORDERS, width, height), unpack(drawn))).toBeGreaterThan(0.998);
  });
});

test.each(fixtures.masks as any[])("mask, threshold and confidence", ({ probability, threshold, mask, confidence }) => {
  const values = unpack<Float32Array>(probability);
  const [value, low, high, doubt] = confidence;
  const [height, width] = mask.shape;
  expect(thresholdOf(values)).toBeCloseTo(threshold, 10);
  expect(agreement(maskAtSize(values, probability.shape[0], width, height), unpack(mask))).toBe(1);
  const found = confidenceOf(above(values, threshold), values);
  expect(farthest([found.value, found.low, found.high], [value, low, high])).toBeLessThan(1e-5);
  expect(found.doubt).toBe(doubt);
});

test.each(fixtures.candidates as any[])("candidates", ({ probability, masks, confidences }) => {
  const values = unpack<Float32Array>(probability);
  const side = probability.shape[0];
  const found = candidatesOf(values, side);
  expect(found.length).toBe(masks.length);
  expect(farthest(found.map(({ confidence }) => confidence.value), confidences)).toBeLessThan(1e-5);
  found.forEach(({ threshold, within: part }, number) => {
    const [height, width] = masks[number].shape;
    const mask = above(resizeFloats(values, side, side, width, height), threshold);
    const inside = part && resizeNearest(part, side, side, width, height);
    expect(agreement(mask.map((each, place) => each & (inside?.[place] ?? 1)), unpack(masks[number]))).toBe(1);
  });
});

test.each(Object.entries<any>(fixtures.deep))("intensities of %s", (_, { values, pixels }) => {
  const picture = pictureOf(values);
  const found = picture.grey ?? picture.rgb!;
  expect(farthest(found, unpack<Values>(pixels))).toBeLessThanOrEqual(1e-6);
});

test.each(fixtures.prompts as any[])("prompts $points $box", (fixture) => {
  const [width, height] = [71, 50];
  const [left, top, right, bottom] = fixture.box ?? [];
  const prompts: Prompts = {
    marks: fixture.points.map(([x, y, inside]: [number, number, boolean]) => ({ kind: "point", x, y, inside })),
    box: fixture.box && { left, top, right, bottom },
  };
  const channels = channelsOf(labelled(prompts, width, height), prompts.box, width, height);
  expect(agreement(channels, unpack(fixture.channels))).toBe(1);
  const side = fixture.within.shape[0];
  const mask = unpack(fixture.mask);
  obey(mask, width, height, { side, planes: unpack<Float32Array>(fixture.guide) }, labelled(prompts, width, height), prompts.box);
  expect(agreement(mask, unpack(fixture.obeyed))).toBeGreaterThan(0.998);
  const kept = within(prompts.box, new Float32Array(side * side).fill(1), side, side, width, height);
  expect(agreement(kept, unpack(fixture.within))).toBe(1);
});

test.each(fixtures.boxes as any[])("box $box", (fixture) => {
  const [width, height] = [120, 90];
  const [left, top, right, bottom] = fixture.box;
  const box = { left, top, right, bottom };
  const side = fixture.square.shape[1];
  const at = windowAround(box, width, height, side);
  expect([at.left, at.top, at.right, at.bottom]).toEqual(fixture.window);
  const part = partOf(at, width, height);
  expect(farthest(squareOf(pictureOf(fixture.picture), side, part).planes, unpack<Float32Array>(fixture.square))).toBeLessThan(1e-6);
  const marks: Prompts["marks"] = [
    { kind: "point", x: left, y: top, inside: true },
    { kind: "point", x: 0, y: 60, inside: false },
  ];
  const channels = channelsOf(labelled({ marks, box }, width, height), box, width, height, part);
  expect(agreement(channels, unpack(fixture.channels))).toBe(1);
  const features = unpack<Float32Array>(fixture.features);
  const found = new Float32Array(features.length);
  enlarged(at, features, found);
  expect(farthest(found, unpack<Float32Array>(fixture.enlarged))).toBe(0);
  const seen = placed(at, unpack<Float32Array>(fixture.probability));
  expect(farthest(seen, unpack<Float32Array>(fixture.placed))).toBeLessThan(1e-6);
  const bounded = within(box, resizeFloats(seen, side, side, width, height), width, height, width, height);
  expect(farthest(bounded, unpack<Float32Array>(fixture.within))).toBeLessThan(1e-6);
  expect(thresholdOf(within(box, seen, side, side, width, height))).toBeCloseTo(fixture.threshold, 5);
  const reached = reaching(unpack<Float32Array>(fixture.within), fixture.threshold, box, width);
  expect(farthest(reached, unpack<Float32Array>(fixture.reaching))).toBeLessThan(1e-6);
});

test.each(fixtures.outlines as any[])("outlines hold the mask", ({ mask, outlines: expected }) => {
  const [height, width] = mask.shape;
  const found = outlines(unpack(mask), width, height);
  expect(found.map(({ area, box }) => ({ area, box }))).toEqual(expected);
  const painted = new Uint8Array(width * height);
  for (const { polygon } of found) {
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        let crossings = 0;
        polygon.forEach(([x, y], index) => {
          const [nextX, nextY] = polygon[(index + 1) % polygon.length];
          if (x === nextX && y > row + 0.5 !== nextY > row + 0.5 && x <= column + 0.5) crossings++;
        });
        if (crossings % 2) painted[row * width + column] = 1;
      }
    }
  }
  expect(agreement(painted, unpack(mask))).toBe(1);
  const coco = JSON.parse(cocoOf([{ name: "a.png", width, height, mask: unpack(mask) }]));
  expect(coco.annotations.length).toBe(expected.length);
});

test("palette", () => expect([...palette(100)]).toEqual(fixtures.palette));

test("noise of the fingerprint", () => expect(farthest(noise(9), unpack<Float32Array>(fixtures.noise))).toBe(0));

describe("a fingerprint", () => {
  const known: Fingerprint = { features: [1, 2, -4], largest: 4, labels: [5, 5, 6], tolerance: 0.01, agreement: 0.6 };
  const features = Float32Array.from({ length: 12 }, (_, place) => known.features[place % 3]);
  const labels = Uint8Array.of(5, 5, 5, 5);
  test("is met", () => expect(isAsKnown(known, features, labels)).toBe(true));
  test.each([1.05, -1, Number.NaN, Infinity])("is not met by features that are %d times as large", (factor) => {
    expect(isAsKnown(known, features.map((each) => each * factor), labels)).toBe(false);
  });
  test("is not met by other labels", () => expect(isAsKnown(known, features, labels.map(() => 7))).toBe(false));
  test("is not met by features of another size", () => expect(isAsKnown(known, features.subarray(3), labels)).toBe(false));
});

test.each([
  [true, 10, true],
  [true, 30, false],
  [false, 10, false],
])("WebGPU that passes: %s, in %d ms: is used: %s", (passed, milliseconds, used) => {
  expect(prefersGpu({ passed, milliseconds }, { passed: true, milliseconds: 20 })).toBe(used);
});
