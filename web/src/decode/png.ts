// PNG files, from the chunks that hold pixels alone: a damaged profile or text does not matter (decoders/png.py).

import { decode } from "fast-png";
import { checkSize, type Stored } from "../core/picture";
import { readInBrowser } from "./browser";
import { orientationOf, turned } from "./orientation";

const PIXELS = ["IHDR", "PLTE", "IDAT"];
const SIGNATURE = 8;

export async function readPng(bytes: Uint8Array, name: string): Promise<Stored> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  checkSize(view.getUint32(16), view.getUint32(20), name);
  const kept = [bytes.subarray(0, SIGNATURE)];
  let orientation = 1;
  let frames = 1;
  let transparent = [4, 6].includes(bytes[25]);
  for (let place = SIGNATURE; place + 8 <= bytes.length; ) {
    const length = view.getUint32(place);
    const kind = String.fromCharCode(...bytes.subarray(place + 4, place + 8));
    const end = place + 12 + length;
    if (PIXELS.includes(kind)) kept.push(bytes.subarray(place, end));
    if (kind === "tRNS") transparent = true;
    if (kind === "eXIf") orientation = orientationOf(bytes.subarray(place + 8, end - 4));
    if (kind === "acTL") frames = view.getUint32(place + 8);
    if (kind === "IEND") break;
    place = end;
  }
  kept.push(new Uint8Array([0, 0, 0, 0, 0x49, 0x45, 0x4e, 0x44, 0xae, 0x42, 0x60, 0x82]));
  const pixels = joined(kept);
  const notes = [...(frames > 1 ? [`only page 1 of ${frames} is used`] : []), ...(transparent ? ["alpha channel dropped"] : [])];
  // Browsers decode much faster, but what is transparent they multiply, and of 16 bits they keep 8.
  const stored = bytes[24] <= 8 && !transparent ? await readInBrowser(pixels, name) : pixelsOf(decode(pixels));
  return turned({ ...stored, notes }, orientation);
}

function joined(parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const found = new Uint8Array(parts.reduce((sum, each) => sum + each.length, 0));
  parts.reduce((place, each) => (found.set(each, place), place + each.length), 0);
  return found;
}

/** Grey or colours without alpha, less than 8 bits spread to 8. */
function pixelsOf(image: ReturnType<typeof decode>): Omit<Stored, "notes"> {
  const { width, height, depth, palette } = image;
  const count = width * height;
  const data = depth < 8 ? unpacked(image.data as Uint8Array, width, height, depth) : image.data;
  if (palette) {
    const values = new Uint8Array(3 * count);
    for (let place = 0; place < count; place++) {
      const colour = palette[data[place]] ?? [0, 0, 0];
      for (let channel = 0; channel < 3; channel++) values[3 * place + channel] = colour[channel];
    }
    return { width, height, channels: 3, values };
  }
  if (depth < 8) return { width, height, channels: 1, values: Uint8Array.from(data, (each) => (each * 255) / (2 ** depth - 1)) };
  const channels = image.channels >= 3 ? 3 : 1;
  const values = depth === 16 ? new Uint16Array(channels * count) : new Uint8Array(channels * count);
  for (let place = 0; place < count; place++) {
    for (let channel = 0; channel < channels; channel++) values[place * channels + channel] = data[place * image.channels + channel];
  }
  return { width, height, channels, values };
}

/** Pixels of less than 8 bits, one in a byte; each row begins with a byte of its own. */
function unpacked(data: Uint8Array, width: number, height: number, depth: number): Uint8Array {
  const line = Math.ceil((width * depth) / 8);
  const found = new Uint8Array(width * height);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const bit = column * depth;
      found[row * width + column] = (data[row * line + (bit >> 3)] >> (8 - depth - (bit & 7))) & (2 ** depth - 1);
    }
  }
  return found;
}
