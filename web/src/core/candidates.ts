// Several plausible objects, where an image leaves open which one is meant (foreground/candidates.py).

import { above, type Confidence, confidenceOf, softDice, thresholdOf } from "./mask";
import { grown, numbered } from "./regions";

const THRESHOLDS = [0.15, 0.3, 0.5, 0.7, 0.85]; // of the probability
const PARTS = 2; // connected parts that are tried above each threshold
const MIN_AREA = 0.003; // of the image; what is smaller is a speck
const WIDER = 2; // steps to neighbours
const MAX_IOU = 0.6; // with each candidate before; what overlaps more is the same object
const MAX_CANDIDATES = 3;

/** A plausible object: where the probability is above the threshold and, if it is not null, `within` (side, side) is 1. */
export interface Candidate {
  confidence: Confidence;
  threshold: number;
  within: Uint8Array | null;
}

/** What is above a threshold, or a part of it. */
interface Region {
  dice: number;
  threshold: number;
  mask: Uint8Array;
  within: Uint8Array | null;
}

/** Up to three objects in a probability (side, side); the first is the mask, the others in the order of their soft Dice. */
export function candidatesOf(probability: Float32Array, side: number): Candidate[] {
  const threshold = thresholdOf(probability);
  const masks: Uint8Array[] = [above(probability, threshold)];
  const found: Candidate[] = [{ confidence: confidenceOf(masks[0], probability), threshold, within: null }];
  for (const region of [...regionsOf(probability, side)].sort((one, other) => other.dice - one.dice)) {
    if (masks.length === MAX_CANDIDATES) break;
    if (masks.every((before) => overlapOf(region.mask, before) < MAX_IOU)) {
      masks.push(region.mask);
      found.push({ confidence: confidenceOf(region.mask, probability), threshold: region.threshold, within: region.within });
    }
  }
  return found;
}

/** All regions that are neither specks nor the whole image. */
function* regionsOf(probability: Float32Array, side: number): Generator<Region> {
  const total = probability.reduce((sum, each) => sum + each, 0);
  for (const threshold of THRESHOLDS) {
    const mask = above(probability, threshold);
    const { parts, count } = numbered(mask, side, side);
    const [areas, masses] = [new Float64Array(count + 1), new Float64Array(count + 1)];
    parts.forEach((part, place) => {
      areas[part]++;
      masses[part] += probability[place];
    });
    areas[0] = areas.reduce((sum, each) => sum + each) - areas[0];
    masses[0] = masses.reduce((sum, each) => sum + each) - masses[0];
    const heaviest = [...masses.keys()].slice(1).sort((one, other) => masses[other] - masses[one]).slice(0, PARTS);
    for (const part of [0, ...heaviest]) {
      if (areas[part] < MIN_AREA * side * side || areas[part] >= side * side) continue;
      const dice = softDice(masses[part], total, areas[part]);
      if (!part) {
        yield { dice, threshold, mask, within: null };
        continue;
      }
      const own = Uint8Array.from(parts, (each) => (each === part ? 1 : 0));
      // Wider, for the probability at the image's size gives its border; without other parts.
      const within = grown(own, side, side, WIDER).map((each, place) => (each && (!parts[place] || own[place]) ? 1 : 0));
      yield { dice, threshold, mask: own, within };
    }
  }
}

function overlapOf(one: Uint8Array, other: Uint8Array): number {
  let [both, any] = [0, 0];
  for (let place = 0; place < one.length; place++) {
    both += one[place] & other[place];
    any += one[place] | other[place];
  }
  return both / any;
}
