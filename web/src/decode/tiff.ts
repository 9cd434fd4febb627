// The first page of TIFF files, decoded by geotiff (decoders/tiff.py reads more kinds of them).

import { fromArrayBuffer } from "geotiff";
import { PageError } from "../core/errors";
import { isFloat, type Values } from "../core/intensities";
import { checkSize, type Stored } from "../core/picture";
import { turned } from "./orientation";

const [WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR] = [0, 1, 2, 3, 6];
const COMPRESSIONS = [1, 5, 7, 8, 32773, 32946]; // none, LZW, JPEG, Deflate, PackBits, Deflate by its old number

export async function readTiff(bytes: Uint8Array<ArrayBuffer>, name: string): Promise<Stored> {
  const tiff = await fromArrayBuffer(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  const image = await tiff.getImage(0);
  const [width, height, samples] = [image.getWidth(), image.getHeight(), image.getSamplesPerPixel()];
  checkSize(width, height, name);
  const tag = (key: string): number | undefined => image.fileDirectory.getValue(key as never) as number | undefined;
  const kind = tag("PhotometricInterpretation") ?? BLACK_IS_ZERO;
  const compression = tag("Compression") ?? 1;
  const known = [WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE].includes(kind) || (kind === YCBCR && compression === 7);
  if (!known || !COMPRESSIONS.includes(compression)) {
    throw new PageError(`${name}: this kind of TIFF is not supported in the page; export it as an 8-bit or 16-bit PNG, or use 'msformer-deploy run'`);
  }
  const colours = kind === RGB || kind === YCBCR;
  const channels = colours ? 3 : 1;
  const wanted = Array.from({ length: channels }, (_, each) => each);
  let values = (await image.readRasters({ interleave: true, samples: wanted })) as unknown as Values;
  const bits = image.getBitsPerSample(0) as number;
  const count = await tiff.getImageCount();
  const notes = [...(count > 1 ? [`only page 1 of ${count} is used`] : []), ...(samples > channels ? ["alpha channel dropped"] : [])];
  const orientation = tag("Orientation") ?? 1;
  if (kind === PALETTE) {
    const map = image.fileDirectory.getValue("ColorMap" as never) as unknown as Uint16Array;
    const size = map.length / 3;
    const shift = map.some((each) => each > 255) ? 8 : 0;
    const painted = new Uint8Array(3 * values.length);
    values.forEach((place, index) => {
      for (let channel = 0; channel < 3; channel++) painted[3 * index + channel] = map[channel * size + place] >> shift;
    });
    return turned({ width, height, channels: 3, values: painted, notes }, orientation);
  }
  if (bits < 8 && !isFloat(values)) values = Uint8Array.from(values as ArrayLike<number>, (each) => Math.trunc((each * 255) / (2 ** bits - 1)));
  const whiteIsZero = kind === WHITE_IS_ZERO;
  if (whiteIsZero && values instanceof Uint8Array) values = values.map((each) => 255 - each);
  return turned({ width, height, channels, values, notes, whiteIsZero: whiteIsZero && !(values instanceof Uint8Array) }, orientation);
}
