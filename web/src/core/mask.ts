// From the probability of figure to the mask, and what to expect of it (foreground/threshold.py and confidence.py).

import { resizeFloats } from "./resize";

const LOWEST = 0.2; // what is less probable is no figure
const LOW = 0.7; // expected DSC below which a mask is in doubt
const [CONSTANT, SLOPE] = [0.278, 0.763];
const [BELOW, ABOVE] = [0.278, 0.139];
const TINY = 1e-6;

export interface Confidence {
  value: number;
  low: number;
  high: number;
  doubt: string | null;
}

/** The threshold whose mask has the highest expected DSC, from 0.2 to 0.5. */
export function thresholdOf(probability: Float32Array): number {
  const ordered = probability.slice().sort();
  let total = 0;
  for (const each of ordered) total += each;
  if (total === 0) return LOWEST;
  let inside = 0;
  let best = 0;
  for (let count = 1; count <= ordered.length; count++) {
    inside += ordered[ordered.length - count];
    best = Math.max(best, (2 * inside) / (total + count));
  }
  return Math.max(best / 2, LOWEST);
}

/** Where a probability is above a threshold, as bytes. */
export function above(probability: Float32Array, threshold: number): Uint8Array<ArrayBuffer> {
  const limit = Math.fround(threshold);
  const found = new Uint8Array(probability.length);
  for (let place = 0; place < found.length; place++) if (probability[place] > limit) found[place] = 1;
  return found;
}

/** The mask at the image's size, from the probability (side, side). */
export function maskAtSize(probability: Float32Array, side: number, width: number, height: number): Uint8Array {
  return above(resizeFloats(probability, side, side, width, height), thresholdOf(probability));
}

/** What to expect of a mask, given the probability of the same pixels. */
export function confidenceOf(mask: Uint8Array, probability: Float32Array): Confidence {
  let [area, inside, total, squares] = [0, 0, 0, 0];
  for (let place = 0; place < mask.length; place++) {
    const each = probability[place];
    total += each;
    squares += each * each;
    if (mask[place]) {
      area++;
      inside += each;
    }
  }
  if (area === 0) {
    return { value: 0, low: 0, high: ABOVE, doubt: "the mask is empty: nothing was found that stands out" };
  }
  if (area === mask.length) {
    const doubt = "the mask covers the whole image: nothing was found around an object";
    return { value: 0, low: 0, high: ABOVE, doubt };
  }
  const value = within(CONSTANT + (SLOPE * softDice(inside, total, area) * (squares + TINY)) / (total + TINY));
  const doubt =
    value >= LOW ? null : `the mask is not certain: a DSC of about ${value.toFixed(2)} is to be expected`;
  return { value, low: within(value - BELOW), high: within(value + ABOVE), doubt };
}

/** Soft Dice of a mask with a probability, from sums: of the probability in the mask, of all of it, of the mask. */
export function softDice(inside: number, total: number, area: number): number {
  return (2 * inside + TINY) / (total + area + TINY);
}

function within(value: number): number {
  return Math.min(Math.max(value, 0), 1);
}
