// A picture ready to segment: 8-bit colours, or grey scaled to 0..1 (images/image.py).

import { PageError } from "./errors";
import { findRange, scaled, type Values } from "./intensities";

export const MIN_SIDE = 8;
export const MAX_PIXELS = 50_000_000; // a browser keeps several copies of a picture

/** Either `rgb`, bytes (height, width, 3), or `grey`, (height, width) in 0..1. */
export interface Picture {
  width: number;
  height: number;
  rgb?: Uint8Array;
  grey?: Float32Array;
  notes: string[];
  dicom?: true; // whether it is of a DICOM file, so that a segmentation can refer to it
}

/** A picture as its file stores it: grey or colours (height, width, channels), 1 or 3. */
export interface Stored {
  width: number;
  height: number;
  channels: 1 | 3;
  values: Values;
  notes: string[];
  whiteIsZero?: boolean;
}

/** Check the size that a header states, before anything is decoded. */
export function checkSize(width: number, height: number, name: string): void {
  if (width * height > MAX_PIXELS) {
    throw new PageError(
      `${name}: ${width} × ${height} pixels is over the limit of ${MAX_PIXELS / 1e6} megapixels of this page; make the image smaller, or use 'msformer-deploy run'`,
    );
  }
  if (Math.min(width, height) < MIN_SIDE) {
    throw new PageError(
      `${name}: ${width} × ${height} pixels is too small to segment; at least ${MIN_SIDE} × ${MIN_SIDE} is needed`,
    );
  }
}

/** Take 8-bit values as they are and bring deeper ones to 0..1; of colour to 8 bits. */
export function ofStored(stored: Stored, name: string): Picture {
  const { width, height, channels, values, notes } = stored;
  checkSize(width, height, name);
  if (values instanceof Uint8Array) {
    requireContrast(stored, name);
    return { width, height, rgb: channels === 3 ? values : asRgb(values), notes };
  }
  const range = findRange({ values, width, height, channels }, name);
  requireContrast(stored, name);
  const unit = scaled(values, range, stored.whiteIsZero ? 1 : 0);
  const remarks = [...notes];
  if (range.ignored.length) remarks.push("some intensities are far from all others and were left out of the range");
  if (stored.whiteIsZero) return { width, height, grey: unit.map((each) => 1 - each), notes: remarks };
  if (channels === 3) return { width, height, rgb: asBytes(unit), notes: [...remarks, "colour rounded to 8 bits"] };
  return { width, height, grey: unit, notes: remarks };
}

function requireContrast({ values, channels }: Stored, name: string): void {
  if (values.every((each, place) => each === values[place % channels])) {
    throw new PageError(`${name}: every pixel has the same value; there is nothing to segment`);
  }
}

function asRgb(grey: Uint8Array): Uint8Array {
  const found = new Uint8Array(grey.length * 3);
  for (let place = 0; place < grey.length; place++) found.fill(grey[place], 3 * place, 3 * place + 3);
  return found;
}

/** Bytes of 0..1, halves to the even number as NumPy rounds. */
export function asBytes(unit: Float32Array): Uint8Array {
  return Uint8Array.from(unit, (each) => {
    const value = Math.fround(each * 255);
    const floor = Math.floor(value);
    const part = value - floor;
    return part > 0.5 || (part === 0.5 && floor % 2) ? floor + 1 : floor;
  });
}

/** The picture for people to look at, bytes (height, width, 4), at most `longest` pixels a side. */
export function displayOf(picture: Picture, longest: number): { width: number; height: number; rgba: Uint8ClampedArray<ArrayBuffer> } {
  const step = Math.max(1, Math.max(picture.width, picture.height) / longest);
  const [width, height] = [Math.max(1, Math.round(picture.width / step)), Math.max(1, Math.round(picture.height / step))];
  const rgba = new Uint8ClampedArray(width * height * 4);
  for (let row = 0; row < height; row++) {
    const from = Math.min(picture.height - 1, Math.floor(((row + 0.5) * picture.height) / height)) * picture.width;
    for (let column = 0; column < width; column++) {
      const place = from + Math.min(picture.width - 1, Math.floor(((column + 0.5) * picture.width) / width));
      const to = (row * width + column) * 4;
      for (let channel = 0; channel < 3; channel++) {
        rgba[to + channel] = picture.rgb ? picture.rgb[3 * place + channel] : picture.grey![place] * 255;
      }
      rgba[to + 3] = 255;
    }
  }
  return { width, height, rgba };
}
