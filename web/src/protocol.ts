// What the page and its worker say to each other.

import type { Device, Trial } from "./core/devices";
import type { Confidence } from "./core/mask";
import type { Prompts } from "./core/prompts";

export type Preset = "fast" | "balanced";

/** The stages of work, in their order; the first with the bytes that have arrived. */
export type Stage = "loading" | "reading" | "looking";

export type Request =
  | { kind: "prepare"; preset: Preset }
  | { kind: "open"; id: number; preset: Preset; name: string; file: Blob }
  | { kind: "label"; id: number; preset: Preset; name: string; file: Blob }
  | { kind: "prompt"; id: number; preset: Preset; name: string; file: Blob; prompts: Prompts; candidate: number };

/** A coded term, by DICOM's keywords. */
export interface Code {
  CodeValue: string;
  CodingSchemeDesignator: string;
  CodeMeaning: string;
}

/** What made a result, as a DICOM segmentation says it. */
export interface MadeBy {
  Manufacturer: string;
  ManufacturerModelName: string;
  SoftwareVersions: string;
  DeviceSerialNumber: string;
  family: Code;
  category: Code;
  type: Code;
}

/** A picture for people to look at. */
export interface Display {
  width: number;
  height: number;
  rgba: Uint8ClampedArray<ArrayBuffer>;
}

/** What was found in an image; the mask and the other maps have a byte for each pixel of the image. */
export interface Found {
  width: number;
  height: number;
  notes: string[];
  dicom: boolean; // whether a DICOM segmentation can be saved
  madeBy: MadeBy;
  display: Display;
  labels: Uint8Array<ArrayBuffer> | null; // drawn when there is time
  clusters: number;
  masked: Masked;
  seconds: number;
}

/** A mask and what it comes from, at the image's size. */
export interface Masked {
  mask: Uint8Array<ArrayBuffer>;
  probability: Uint8Array<ArrayBuffer>; // 255 for 1
  confidence: Confidence;
  candidate: number; // which of the plausible objects it is, from 0
  candidates: number;
}

export type Answer =
  | { kind: "progress"; stage: Stage; done: number; total: number }
  | { kind: "ready" }
  | { kind: "tried"; device: Device; trials: Partial<Record<Device, Trial>> }
  | { kind: "opened"; id: number; found: Found }
  | { kind: "labelled"; id: number; labels: Uint8Array<ArrayBuffer> }
  | { kind: "masked"; id: number; masked: Masked }
  | { kind: "failed"; id: number | null; message: string };
