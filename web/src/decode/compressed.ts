// Frames of DICOM files that are compressed: each codec is loaded when the first such frame comes.

import { lazily } from "../core/lazily";
import { unpackedRle } from "./rle";

export interface Decoder {
  getEncodedBuffer(length: number): Uint8Array;
  getDecodedBuffer(): Uint8Array;
  getFrameInfo(): { width: number; height: number; bitsPerSample: number; componentCount: number };
  decode(): void;
  getInterleaveMode?(): number; // of JPEG-LS: 0 for planes
  delete(): void;
}

/** How the modules of Emscripten begin. */
export type OpenCodec<Name extends string> = (given: { locateFile(name: string): string }) => Promise<Record<Name, new () => Decoder>>;

/** A frame of samples (height, width, samples), the lowest byte of each first; planes one after the other if `planar`. */
export interface Frame {
  bytes: Uint8Array<ArrayBuffer>;
  planar: boolean;
}

type Decode = (frame: Uint8Array<ArrayBuffer>, size: number) => Promise<Frame>;

const UID = "1.2.840.10008.1.2";
const DECODERS: Record<string, Decode> = {
  [`${UID}.5`]: async (frame, size) => ({ bytes: unpackedRle(frame, size), planar: false }),
  [`${UID}.4.57`]: jpegLossless,
  [`${UID}.4.70`]: jpegLossless,
  [`${UID}.4.80`]: jpegLs,
  [`${UID}.4.81`]: jpegLs,
  [`${UID}.4.90`]: jpeg2000,
  [`${UID}.4.91`]: jpeg2000,
};

/** What decodes frames of a transfer syntax to `size` bytes; undefined for one that the page does not decode. */
export function decoderOf(syntax: string): Decode | undefined {
  return DECODERS[syntax];
}

async function jpegLossless(frame: Uint8Array<ArrayBuffer>): Promise<Frame> {
  const { Decoder } = await lazily(() => import("jpeg-lossless-decoder-js"));
  return { bytes: new Uint8Array(new Decoder().decompress(frame.buffer, frame.byteOffset, frame.byteLength)), planar: false };
}

async function jpeg2000(frame: Uint8Array<ArrayBuffer>): Promise<Frame> {
  const [code, wasm] = await lazily(() => Promise.all([import("@cornerstonejs/codec-openjpeg/decodewasmjs"), import("@cornerstonejs/codec-openjpeg/decodewasm?url")]));
  const { J2KDecoder } = await code.default({ locateFile: () => wasm.default });
  return decoded(new J2KDecoder(), frame);
}

async function jpegLs(frame: Uint8Array<ArrayBuffer>): Promise<Frame> {
  const [code, wasm] = await lazily(() => Promise.all([import("@cornerstonejs/codec-charls/decodewasmjs"), import("@cornerstonejs/codec-charls/decodewasm?url")]));
  const { JpegLSDecoder } = await code.default({ locateFile: () => wasm.default });
  return decoded(new JpegLSDecoder(), frame);
}

function decoded(decoder: Decoder, frame: Uint8Array): Frame {
  try {
    decoder.getEncodedBuffer(frame.length).set(frame);
    decoder.decode();
    const planar = decoder.getInterleaveMode?.() === 0 && decoder.getFrameInfo().componentCount > 1;
    return { bytes: decoder.getDecodedBuffer().slice(), planar };
  } finally {
    decoder.delete();
  }
}
