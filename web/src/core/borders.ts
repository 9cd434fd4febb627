// Regions of a label map redrawn: told apart by colour, borders on the image's edges (foreground/borders.py).

import { box, gaussian } from "./blur";
import { tellApart } from "./colour";
import { resizeFloats } from "./resize";
import { brightnessOf, isColoured, type Square } from "./view";

const BLUR = 3;
const RADIUS = 6;
const CONTRAST = 1e-3;

/** The regions of a label map (side, side) as a user gets them, on the square of the view. */
export function redraw(labels: Uint8Array, side: number, view: Square): Uint8Array {
  const told = isColoured(view) ? tellApart(labels, side, view) : { labels, side };
  return followEdges(told.labels, told.side, view);
}

function followEdges(labels: Uint8Array, side: number, view: Square): Uint8Array {
  const wanted = view.side;
  const ids = [...new Set(labels)].sort((one, other) => one - other);
  if (ids.length === 1) return new Uint8Array(wanted * wanted).fill(ids[0]);
  const follow = guidedBy(brightnessOf(view), wanted, Math.max(1, Math.round((RADIUS * wanted) / 257)));
  const shares = (ids.length === 2 ? [ids[1]] : ids).map((cluster) => {
    const region = Float64Array.from(labels, (each) => (each === cluster ? 1 : 0));
    const blurred = Float32Array.from(gaussian(region, side, (BLUR * side) / 257, 3));
    return follow(Float64Array.from(resizeFloats(blurred, side, side, wanted, wanted)));
  });
  const found = new Uint8Array(wanted * wanted);
  for (let place = 0; place < found.length; place++) {
    if (ids.length === 2) {
      found[place] = shares[0][place] > 0.5 ? ids[1] : ids[0];
      continue;
    }
    let best = 0;
    for (let each = 1; each < ids.length; each++) if (shares[each][place] > shares[best][place]) best = each;
    found[place] = ids[best];
  }
  return found;
}

/** A guided filter (He et al., ECCV 2010) with the guide's part of the arithmetic done once. */
function guidedBy(grey: Float32Array, side: number, radius: number): (values: Float64Array) => Float64Array {
  const guide = Float64Array.from(grey);
  const mean = box(guide, side, radius);
  const variance = box(guide.map((each) => each * each), side, radius).map((each, place) => each - mean[place] ** 2);
  return (values) => {
    const own = box(values, side, radius);
    const product = box(values.map((each, place) => each * guide[place]), side, radius);
    const slope = product.map((each, place) => (each - mean[place] * own[place]) / (variance[place] + CONTRAST));
    const slopes = box(slope, side, radius);
    const offsets = box(slope.map((each, place) => own[place] - each * mean[place]), side, radius);
    return slopes.map((each, place) => each * guide[place] + offsets[place]);
  };
}
