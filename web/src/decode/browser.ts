// What the browser decodes: JPEG, and WebP, GIF, BMP and AVIF with it. Colour profiles are left alone, as in Python.

import { PageError } from "../core/errors";
import { checkSize, type Stored } from "../core/picture";

export async function readInBrowser(bytes: Uint8Array<ArrayBuffer>, name: string): Promise<Stored> {
  const size = sizeOfJpeg(bytes);
  if (size) checkSize(size.width, size.height, name);
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(new Blob([bytes]), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new PageError(`${name}: cannot be decoded; it is damaged, or no image; export it again, as PNG if you can`);
  }
  const { width, height } = bitmap;
  checkSize(width, height, name);
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true })!;
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const values = new Uint8Array(3 * width * height);
  for (let place = 0; place < width * height; place++) {
    for (let channel = 0; channel < 3; channel++) values[3 * place + channel] = data[4 * place + channel];
  }
  return { width, height, channels: 3, values, notes: [] };
}

/** The size in a JPEG's header, which is read before anything is decoded; null for other files. */
export function sizeOfJpeg(bytes: Uint8Array): { width: number; height: number } | null {
  if (bytes[0] !== 0xff || bytes[1] !== 0xd8) return null;
  for (let place = 2; place + 9 < bytes.length; ) {
    if (bytes[place] !== 0xff) return null;
    const marker = bytes[place + 1];
    const isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (isFrame) return { height: (bytes[place + 5] << 8) | bytes[place + 6], width: (bytes[place + 7] << 8) | bytes[place + 8] };
    place += marker === 0xff ? 1 : 2 + ((bytes[place + 2] << 8) | bytes[place + 3]);
  }
  return null;
}

const ADOBE = [0xff, 0xee, 0, 14, ...[..."Adobe"].map((each) => each.charCodeAt(0)), 0, 100, 0, 0, 0, 0, 0]; // no transform of colours

/** A JPEG whose components are red, green and blue, marked so: decoders take three components for YCbCr otherwise. */
export function untransformed(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const kept = [...bytes.subarray(0, 2), ...ADOBE];
  let place = 2;
  while (place + 4 <= bytes.length && bytes[place] === 0xff && bytes[place + 1] !== 0xda) {
    const end = place + 2 + ((bytes[place + 2] << 8) | bytes[place + 3]);
    const says = [0xe0, 0xee].includes(bytes[place + 1]); // of JFIF and Adobe, which would contradict
    if (!says) kept.push(...bytes.subarray(place, end));
    place = end;
  }
  const found = new Uint8Array(kept.length + bytes.length - place);
  found.set(kept);
  found.set(bytes.subarray(place), kept.length);
  return found;
}
