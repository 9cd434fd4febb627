// A file to a picture. Its content decides what it is, not its name.

import { PageError } from "../core/errors";
import { lazily } from "../core/lazily";
import { ofStored, type Picture } from "../core/picture";
import { readInBrowser } from "./browser";
import { readPng } from "./png";

const ADVICE = "choose PNG, JPEG, TIFF or DICOM files";

/** Whether bytes begin with others, from a place on. */
function has(bytes: Uint8Array, start: readonly number[], place = 0): boolean {
  return start.every((each, index) => bytes[place + index] === each);
}

const text = (letters: string): number[] => [...letters].map((each) => each.charCodeAt(0));
const BROWSER: [number, number[]][] = [
  [0, [0xff, 0xd8, 0xff]],
  [0, text("GIF8")],
  [0, text("BM")],
  [8, text("WEBP")],
  [4, text("ftypavif")],
];

const openDicom = (): Promise<typeof import("./dicom")> => lazily(() => import("./dicom"));
const openTiff = (): Promise<typeof import("./tiff")> => lazily(() => import("./tiff"));

/** Load what other files than PNG and JPEG need, before one comes: the page may have no network then. */
export function prefetch(): void {
  for (const open of [openDicom, openTiff]) open().catch(() => null); // tried again when it is needed
}

/** Read an image file. Errors that a person can do something about are of PageError, and begin with the name. */
export async function readPicture(bytes: Uint8Array<ArrayBuffer>, name: string): Promise<Picture> {
  try {
    return await read(bytes, name);
  } catch (error) {
    if (error instanceof PageError) throw error;
    if (error instanceof RangeError && /allocation|length/i.test(error.message)) {
      throw new PageError(`${name}: there is not enough memory for it; make the image smaller`);
    }
    throw new PageError(`${name}: is damaged or cut short, and cannot be decoded; export it again, as PNG if you can`);
  }
}

async function read(bytes: Uint8Array<ArrayBuffer>, name: string): Promise<Picture> {
  if (!bytes.length) throw new PageError(`${name}: the file is empty; copy or export it again`);
  if (has(bytes, [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])) return ofStored(await readPng(bytes, name), name);
  if (has(bytes, text("DICM"), 128)) {
    const { readDicom } = await openDicom();
    return { ...(await readDicom(bytes, name)), dicom: true };
  }
  if ([[0x49, 0x49, 0x2a, 0], [0x4d, 0x4d, 0, 0x2a], [0x49, 0x49, 0x2b, 0], [0x4d, 0x4d, 0, 0x2b]].some((each) => has(bytes, each))) {
    const { readTiff } = await openTiff();
    return ofStored(await readTiff(bytes, name), name);
  }
  if (BROWSER.some(([place, start]) => has(bytes, start, place))) return ofStored(await readInBrowser(bytes, name), name);
  throw new PageError(`${name}: is not an image that the page reads; ${ADVICE}`);
}
