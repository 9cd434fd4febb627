// PNG files of ids and flags, as 'msformer-deploy run' writes them (images/draw.py): 8 bits, with a palette for ids.

import { zlibSync } from "fflate";

/** One colour per cluster id, bytes (count, 3): always the same, apart, neither black nor white. */
export function palette(count: number): Uint8Array<ArrayBuffer> {
  const golden = (Math.sqrt(5) - 1) / 2;
  const shades = [[0.5, 0.75], [0.7, 0.85], [0.32, 0.8]];
  const found = new Uint8Array(3 * count);
  for (let id = 0; id < count; id++) {
    const [lightness, saturation] = shades[id % 3];
    const high = lightness <= 0.5 ? lightness * (1 + saturation) : lightness + saturation - lightness * saturation;
    const low = 2 * lightness - high;
    [1 / 3, 0, -1 / 3].forEach((turn, channel) => {
      const hue = (((id * golden + turn) % 1) + 1) % 1;
      const value = hue < 1 / 6 ? low + (high - low) * hue * 6 : hue < 1 / 2 ? high : hue < 2 / 3 ? low + (high - low) * (2 / 3 - hue) * 6 : low;
      found[3 * id + channel] = Math.round(value * 255);
    });
  }
  return found;
}

/** A PNG of bytes (height, width): grey, or places in a palette. */
export function encodePng(values: Uint8Array, width: number, height: number, colours?: Uint8Array): Uint8Array<ArrayBuffer> {
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header[8] = 8;
  header[9] = colours ? 3 : 0;
  const lines = new Uint8Array(height * (width + 1));
  for (let row = 0; row < height; row++) lines.set(values.subarray(row * width, (row + 1) * width), row * (width + 1) + 1);
  const chunks = [
    new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]),
    chunk("IHDR", header),
    ...(colours ? [chunk("PLTE", colours)] : []),
    chunk("IDAT", zlibSync(lines)),
    chunk("IEND", new Uint8Array()),
  ];
  const found = new Uint8Array(chunks.reduce((sum, each) => sum + each.length, 0));
  chunks.reduce((place, each) => (found.set(each, place), place + each.length), 0);
  return found;
}

function chunk(kind: string, data: Uint8Array): Uint8Array {
  const found = new Uint8Array(12 + data.length);
  const view = new DataView(found.buffer);
  view.setUint32(0, data.length);
  for (let place = 0; place < 4; place++) found[4 + place] = kind.charCodeAt(place);
  found.set(data, 8);
  view.setUint32(8 + data.length, checksum(found.subarray(4, 8 + data.length)));
  return found;
}

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

function checksum(bytes: Uint8Array): number {
  let value = 0xffffffff;
  for (const each of bytes) value = TABLE[(value ^ each) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}
