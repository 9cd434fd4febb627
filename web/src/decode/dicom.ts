// DICOM files: one frame, by the window of the header (images/dicom/picture.py, which reads more kinds of them).

import dicomParser, { type DataSet } from "dicom-parser";
import { inflateSync } from "fflate";
import { PageError } from "../core/errors";
import type { Values } from "../core/intensities";
import { checkSize, ofStored, type Picture } from "../core/picture";
import { readInBrowser, untransformed } from "./browser";
import { decoderOf } from "./compressed";

const PLAIN = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"];
const BIG_ENDIAN = "1.2.840.10008.1.2.2";
const JPEG = ["1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"]; // baseline, extended: browsers decode both, of 8 bits
const COLOURS = ["RGB", "YBR_RCT", "YBR_ICT"]; // decoders of JPEG 2000 undo the last two
const STORAGE = "1.2.840.10008.5.1.4.1.1.";
// Objects with pixels that are no images (images/dicom/kinds.py has all kinds), by SOP class.
const NO_IMAGES: Record<string, string> = {
  [`${STORAGE}481.2`]: "DICOM RTDOSE",
  [`${STORAGE}66.4`]: "DICOM SEG",
  [`${STORAGE}66.7`]: "DICOM SEG",
};
const OURS = "MSFORMER-DEPLOY";
const ADVICE = "use 'msformer-deploy run', which reads it";

export async function readDicom(bytes: Uint8Array<ArrayBuffer>, name: string): Promise<Picture> {
  let header: DataSet;
  try {
    header = dicomParser.parseDicom(bytes, { inflater: inflate });
  } catch {
    throw new PageError(`${name}: is DICOM that is damaged or cut short, and cannot be decoded; copy or export it again`);
  }
  const [height, width] = [header.uint16("x00280010"), header.uint16("x00280011")];
  const pixels = header.elements.x7fe00010;
  if (!height || !width || !pixels) throw new PageError(`${name}: is a DICOM object without an image; leave it out`);
  const text = (tag: string): string => (header.string(tag) ?? "").trim();
  const other = NO_IMAGES[text("x00080016")] ?? (text("x00080070").toUpperCase() === OURS ? "DICOM overlay of msformer-deploy" : null);
  if (other) throw new PageError(`${name}: is a ${other} object, which is not an image to segment; leave it out`);
  checkSize(width, height, name);
  const frames = header.intString("x00280008") ?? 1;
  const notes = frames > 1 ? [`only frame 1 of ${frames} is used`] : [];
  const photometric = text("x00280004");
  const samples = header.uint16("x00280002") ?? 1;
  const syntax = header.string("x00020010") ?? PLAIN[0];
  const allocated = header.uint16("x00280100") ?? 0;
  const inBrowser = JPEG.includes(syntax) && allocated === 8;
  if (inBrowser && samples === 3) {
    const frame = frameOf(header, bytes);
    return ofStored({ ...(await readInBrowser(photometric === "RGB" ? untransformed(frame) : frame, name)), notes }, name);
  }
  const decode = decoderOf(syntax);
  if (!PLAIN.includes(syntax) && !inBrowser && !decode) {
    throw new PageError(`${name}: its pixels are compressed in a way that the page does not decode (${syntax}); ${ADVICE}`);
  }
  const colour = samples === 3 && COLOURS.includes(photometric) && allocated === 8;
  const grey = samples === 1 && ["MONOCHROME1", "MONOCHROME2"].includes(photometric) && [8, 16, 32].includes(allocated);
  if (!colour && !grey) throw new PageError(`${name}: this kind of DICOM colours is not supported in the page; ${ADVICE}`);
  const size = (width * height * samples * allocated) / 8;
  let frame: Uint8Array<ArrayBuffer>;
  let planar = header.uint16("x00280006") === 1;
  if (decode) {
    const found = await decode(frameOf(header, bytes), size);
    frame = allocated === 16 && 2 * found.bytes.length === size ? new Uint8Array(Uint16Array.from(found.bytes).buffer) : found.bytes;
    planar = found.planar;
  } else if (inBrowser) {
    const { values } = await readInBrowser(frameOf(header, bytes), name);
    frame = Uint8Array.from({ length: width * height }, (_, place) => values[3 * place]);
  } else {
    frame = header.byteArray.slice(pixels.dataOffset, pixels.dataOffset + size) as Uint8Array<ArrayBuffer>;
  }
  if (frame.length < size) throw new PageError(`${name}: its pixels are cut short, ${frame.length} of ${size} bytes; copy or export it again`);
  if (colour) {
    const values = planar ? interleaved(frame, width * height) : frame;
    return ofStored({ width, height, channels: 3, values, notes }, name);
  }
  const stored = numbersOf(frame, header, allocated, syntax === BIG_ENDIAN);
  return greyOf(stored, header, { width, height, inverted: photometric === "MONOCHROME1", allocated, notes }, name);
}

/** The bytes before the deflated data set as they are, and the rest inflated. */
function inflate(bytes: Uint8Array, position: number): Uint8Array {
  const rest = inflateSync(bytes.subarray(position));
  const found = new Uint8Array(position + rest.length);
  found.set(bytes.subarray(0, position));
  found.set(rest, position);
  return found;
}

/** The first frame of encapsulated pixels. */
function frameOf(header: DataSet, bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  const element = header.elements.x7fe00010;
  const fragments = element.fragments ?? [];
  const ends = element.basicOffsetTable ?? [];
  const frames = header.intString("x00280008") ?? 1;
  const count = frames === 1 ? fragments.length : ends.length > 1 ? fragments.filter(({ offset }) => offset < ends[1]).length : 1;
  const parts = fragments.slice(0, count).map(({ position, length }) => bytes.subarray(position, position + length));
  const found = new Uint8Array(parts.reduce((sum, each) => sum + each.length, 0));
  parts.reduce((place, each) => (found.set(each, place), place + each.length), 0);
  return found;
}

function interleaved(planes: Uint8Array, pixels: number): Uint8Array {
  return Uint8Array.from({ length: 3 * pixels }, (_, place) => planes[(place % 3) * pixels + Math.floor(place / 3)]);
}

/** Stored values as numbers: the bits up to the high bit, of which as many are used as are stored. */
function numbersOf(frame: Uint8Array<ArrayBuffer>, header: DataSet, allocated: number, bigEndian: boolean): Values {
  const signed = header.uint16("x00280103") === 1;
  const stored = header.uint16("x00280101") ?? allocated;
  const high = header.uint16("x00280102") ?? stored - 1;
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  const count = (frame.length * 8) / allocated;
  const found = allocated === 8 ? (signed ? new Int8Array(count) : new Uint8Array(count)) : allocated === 16 ? (signed ? new Int16Array(count) : new Uint16Array(count)) : signed ? new Int32Array(count) : new Uint32Array(count);
  const [left, right] = [31 - high, 32 - stored];
  for (let place = 0; place < count; place++) {
    const bits = allocated === 8 ? frame[place] : allocated === 16 ? view.getUint16(2 * place, !bigEndian) : view.getUint32(4 * place, !bigEndian);
    found[place] = signed ? (bits << left) >> right : (bits << left) >>> right;
  }
  return found;
}

interface Layout {
  width: number;
  height: number;
  inverted: boolean;
  allocated: number;
  notes: string[];
}

/** Grey: modality rescale, padding, window (PS3.4, section N.2). */
function greyOf(stored: Values, header: DataSet, layout: Layout, name: string): Picture {
  if (header.elements.x00283000 || header.elements.x00283010) {
    throw new PageError(`${name}: its intensities pass through a look-up table, which is not supported in the page; ${ADVICE}`);
  }
  const number = (tag: string): number | undefined => {
    const value = header.floatString(tag);
    return value !== undefined && Number.isFinite(value) ? value : undefined;
  };
  const { width, height, inverted } = layout;
  const [slope, intercept] = [number("x00281053") ?? 1, number("x00281052") ?? 0];
  if (slope === 0) throw new PageError(`${name}: its rescale slope is 0, so all intensities are equal; export it again`);
  const padded = paddingOf(stored, header, layout.allocated);
  if (padded?.every((each) => each === 1)) throw new PageError(`${name}: every pixel is padding; there is nothing to segment`);
  let values = rescaled(stored, slope, intercept);
  if (padded?.includes(1)) {
    let [lowest, highest] = [Infinity, -Infinity];
    values.forEach((each, place) => {
      if (!padded[place]) [lowest, highest] = [Math.min(lowest, each), Math.max(highest, each)];
    });
    values = values.map((each, place) => (padded[place] ? (inverted ? highest : lowest) : each)) as Values;
  }
  const [centre, breadth] = [number("x00281050"), number("x00281051")];
  let picture: Picture;
  if (centre !== undefined && breadth !== undefined && breadth > 0) {
    const unit = windowed(values, centre, breadth, (header.string("x00281056") ?? "LINEAR").trim());
    if (unit.every((each) => each === unit[0])) throw new PageError(`${name}: every pixel is beyond the window of its header; ${ADVICE} with --window`);
    picture = { width, height, grey: inverted ? unit.map((each) => 1 - each) : unit, notes: layout.notes };
  } else if (values instanceof Uint8Array) {
    picture = ofStored({ width, height, channels: 1, values: inverted ? values.map((each) => 255 - each) : values, notes: layout.notes }, name);
  } else {
    picture = ofStored({ width, height, channels: 1, values, notes: layout.notes, whiteIsZero: inverted }, name);
  }
  if (!padded?.includes(1)) return picture;
  const grey = picture.grey?.map((each, place) => (padded[place] ? 0 : each));
  const rgb = picture.rgb?.map((each, place) => (padded[Math.floor(place / 3)] ? 0 : each));
  return { ...picture, ...(grey && { grey }), ...(rgb && { rgb }), notes: [...picture.notes, "padding is black and does not count for the intensities"] };
}

/** Where stored values are padding; null without one. */
function paddingOf(stored: Values, header: DataSet, allocated: number): Uint8Array | null {
  const signed = header.uint16("x00280103") === 1;
  if (!header.elements.x00280120) return null;
  const bits = (tag: string): number[] => (header.elements[tag] ? [(signed ? header.int16(tag) : header.uint16(tag))!] : []);
  const ends = [...bits("x00280120"), ...bits("x00280121")].map((each) => (signed && allocated === 8 && each >= 128 ? each - 256 : each));
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  return Uint8Array.from(stored as ArrayLike<number>, (each) => (each >= low && each <= high ? 1 : 0));
}

function rescaled(stored: Values, slope: number, intercept: number): Values {
  if (slope === 1 && intercept === 0) return stored;
  const whole = Number.isInteger(slope) && Number.isInteger(intercept) && Math.abs(slope) + Math.abs(intercept) < 2 ** 14;
  const count = stored.length;
  const found = stored.BYTES_PER_ELEMENT > 2 ? new Float64Array(count) : whole ? new Int32Array(count) : new Float32Array(count);
  for (let place = 0; place < count; place++) found[place] = stored[place] * slope + intercept;
  return found;
}

/** Shades of a window, by DICOM's functions (PS3.3, C.11.2.1). */
function windowed(values: Values, centre: number, breadth: number, kind: string): Float32Array {
  if (kind === "SIGMOID") return Float32Array.from(values as ArrayLike<number>, (each) => 1 / (1 + Math.exp((-4 * (each - centre)) / breadth)));
  const half = kind === "LINEAR_EXACT" ? breadth / 2 : Math.max(breadth - 1, 0) / 2;
  const middle = kind === "LINEAR_EXACT" ? centre : centre - 0.5;
  const [low, high] = [middle - half, middle + half];
  if (low === high) return Float32Array.from(values as ArrayLike<number>, (each) => (each > low ? 1 : 0));
  return Float32Array.from(values as ArrayLike<number>, (each) => Math.min(Math.max((each - low) / (high - low), 0), 1));
}

