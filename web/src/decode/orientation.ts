// Turning a picture upright, as its EXIF orientation says (images/decoders/orientation.py).

import type { Stored } from "../core/picture";

/** The orientation (1 to 8) of EXIF data, which begins with a TIFF header; 1 where it says none. */
export function orientationOf(exif: Uint8Array): number {
  const view = new DataView(exif.buffer, exif.byteOffset, exif.byteLength);
  try {
    const little = view.getUint16(0) === 0x4949;
    const start = view.getUint32(4, little);
    for (let entry = 0; entry < view.getUint16(start, little); entry++) {
      const place = start + 2 + 12 * entry;
      if (view.getUint16(place, little) === 0x0112) return valid(view.getUint16(place + 8, little));
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // damaged: as if there were none
  }
  return 1;
}

function valid(orientation: number): number {
  return orientation >= 1 && orientation <= 8 ? orientation : 1;
}

/** A picture upright. */
export function turned(stored: Stored, orientation: number): Stored {
  if (valid(orientation) === 1) return stored;
  const { width, height, channels, values } = stored;
  const across = orientation >= 5; // rows become columns
  const [wide, high] = across ? [height, width] : [width, height];
  const down = [3, 4, 7, 8].includes(orientation);
  const right = [2, 3, 6, 7].includes(orientation);
  const found = values.slice();
  for (let row = 0; row < high; row++) {
    for (let column = 0; column < wide; column++) {
      const y = down ? high - 1 - row : row;
      const x = right ? wide - 1 - column : column;
      const from = (across ? x * width + y : y * width + x) * channels;
      for (let channel = 0; channel < channels; channel++) found[(row * wide + column) * channels + channel] = values[from + channel];
    }
  }
  return { ...stored, width: wide, height: high, values: found };
}
