// What the graphs compute of one fixed image, as the export computed it (bundle/fingerprint.py).

/** A bundle's fingerprint, of 32-bit floats. */
export interface Fingerprint {
  features: number[];
  largest: number;
  labels: number[];
  tolerance: number; // of a feature, in units of the largest
  agreement: number; // minimum share of equal labels
}

// NumPy's default_rng(0): a PCG64 (O'Neill, 2014), seeded.
const STATE = 35399562948360463058890781895381311971n;
const INCREMENT = 87136372517582989555478159403783844777n;
const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;
const STEP = 0.6180339887498949; // of the golden ratio, as in Python

/** The image: uniform noise (3, side, side) in 0..1, always the same. */
export function noise(side: number): Float32Array {
  const found = new Float32Array(3 * side * side);
  let state = STATE;
  for (let place = 0; place < found.length; place += 2) {
    state = BigInt.asUintN(128, state * MULTIPLIER + INCREMENT);
    const mixed = BigInt.asUintN(64, (state >> 64n) ^ state);
    const turn = state >> 122n;
    const bits = BigInt.asUintN(64, (mixed >> turn) | (mixed << BigInt.asUintN(6, -turn)));
    [Number(BigInt.asUintN(32, bits)), Number(bits >> 32n)].forEach((half, next) => {
      if (place + next < found.length) found[place + next] = (half >>> 8) / 2 ** 24;
    });
  }
  return found;
}

/** Whether features (side, side, channels) and labels (side, side) of the image are those that the export knew. */
export function isAsKnown(known: Fingerprint, features: Float32Array, labels: Uint8Array): boolean {
  const channels = known.features.length;
  if (features.length !== labels.length * channels) return false;
  const pixels = known.features.map((_, channel) => Math.floor(((channel * STEP) % 1) * labels.length));
  const equal = pixels.filter((pixel, channel) => labels[pixel] === known.labels[channel]).length;
  const close = pixels.every((pixel, channel) => Math.abs(features[pixel * channels + channel] - known.features[channel]) <= known.tolerance * known.largest);
  return close && equal / channels >= known.agreement;
}
