// The files beside the page, verified by their hashes.

import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { PageError } from "./core/errors";

/** A file beside the page, packed with gzip; hash and size are those of its content. */
export interface Entry {
  file: string;
  sha256: string;
  bytes: number;
  packed: number;
}

export const BASE = new URL("./", self.location.href.replace(/assets\/[^/]*$/, ""));

export async function fetched(file: string): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(new URL(file, BASE));
  } catch {
    throw new PageError(`${file} cannot be loaded; check that 'msformer-deploy web' still runs, and load the page again`);
  }
  if (!answer.ok) throw new PageError(`${file} cannot be loaded (${answer.status}); write the page again with 'msformer-deploy web --output'`);
  return answer;
}

/** The content of a packed file, verified. */
export async function unpacked(entry: Entry, arriving: (bytes: number) => void): Promise<Uint8Array<ArrayBuffer>> {
  const answer = await fetched(entry.file);
  const counted = answer.body!.pipeThrough(
    new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
      transform(part, controller) {
        arriving(part.length);
        controller.enqueue(part);
      },
    }),
  );
  let content: Uint8Array<ArrayBuffer>;
  try {
    // Some hosts say that files with this suffix are packed for the way, and the browser has unpacked them then.
    const sent = answer.headers.get("Content-Encoding") === "gzip";
    const stream = sent ? counted : counted.pipeThrough(new DecompressionStream("gzip"));
    content = new Uint8Array(await new Response(stream).arrayBuffer());
  } catch {
    content = new Uint8Array();
  }
  if (content.length !== entry.bytes || bytesToHex(sha256(content)) !== entry.sha256) {
    throw new PageError(`${entry.file} is not the file that the page was made with: its SHA-256 differs; write the page again with 'msformer-deploy web --output'`);
  }
  return content;
}
