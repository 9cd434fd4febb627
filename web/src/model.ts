// The graphs of a bundle: fetched from where the page came from, verified by their hashes, and run by ONNX Runtime.

import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import * as ort from "onnxruntime-web/wasm";
import { PageError } from "./core/errors";
import { CHANNELS_SIDE } from "./core/prompts";
import type { MadeBy, Preset } from "./protocol";

/** A file beside the page, packed with gzip; hash and size are those of its content. */
interface Entry {
  file: string;
  sha256: string;
  bytes: number;
  packed: number;
}

/** What msformer-deploy writes beside the page (msformer_deploy/web/site.py). */
interface Manifest {
  runtime: Entry;
  presets: Record<Preset, { side: number; clusters: number; made_by: MadeBy; features: Entry; figure: Entry }>;
}

export type Arriving = (done: number, total: number) => void;

/** What the network finds in a square image. */
export interface Encoded {
  labels: Uint8Array;
  features: ort.Tensor;
  image: ort.Tensor;
}

const BASE = new URL("./", self.location.href.replace(/assets\/[^/]*$/, ""));
const THREADS = 4; // more gain nothing on graphs of this size

let manifest: Promise<Manifest> | undefined;
let runtime: Promise<void> | undefined;

async function readManifest(): Promise<Manifest> {
  const answer = await fetched("page.json");
  return (await answer.json()) as Manifest;
}

async function fetched(file: string): Promise<Response> {
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
async function unpacked(entry: Entry, arriving: (bytes: number) => void): Promise<Uint8Array<ArrayBuffer>> {
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

/** A bundle, ready to run. */
export class Model {
  private constructor(
    readonly side: number,
    readonly clusters: number,
    readonly madeBy: MadeBy,
    private readonly features: ort.InferenceSession,
    private readonly figure: ort.InferenceSession,
  ) {}

  /** Whether the mask takes prompts. */
  get takesPrompts(): boolean {
    return this.figure.inputNames.includes("prompts");
  }

  static async load(preset: Preset, arriving: Arriving): Promise<Model> {
    manifest ??= readManifest();
    const known = await manifest.catch((error: unknown) => {
      manifest = undefined;
      throw error;
    });
    const { side, clusters, made_by: madeBy, ...graphs } = known.presets[preset];
    const wanted = [...(runtime ? [] : [known.runtime]), graphs.features, graphs.figure];
    const total = wanted.reduce((sum, each) => sum + each.packed, 0);
    let done = 0;
    const counting = (bytes: number): void => arriving(Math.min((done += bytes), total), total);
    runtime ??= start(known.runtime, counting);
    const starting = runtime.catch((error: unknown) => {
      runtime = undefined;
      throw error;
    });
    const [features, figure] = await Promise.all([unpacked(graphs.features, counting), unpacked(graphs.figure, counting), starting]);
    const options: ort.InferenceSession.SessionOptions = {
      executionProviders: ["wasm"],
      freeDimensionOverrides: { batch: 1 },
      enableMemPattern: false,
      logSeverityLevel: 3,
    };
    try {
      return new Model(side, clusters, madeBy, await ort.InferenceSession.create(features, options), await ort.InferenceSession.create(figure, options));
    } catch (error) {
      throw new PageError(`the network cannot be opened in this browser (${String(error).slice(0, 120)}); update the browser, or use another one`);
    }
  }

  /** Run the encoder and the learning on a square image (3, side, side). */
  async encode(planes: Float32Array): Promise<Encoded> {
    const image = new ort.Tensor("float32", planes, [1, 3, this.side, this.side]);
    const { label_map: labels, features } = await this.features.run({ image });
    return { labels: labels.data as Uint8Array, features, image };
  }

  /** The probability of figure, (side, side). */
  async probability({ image, features }: Encoded, prompts: Float32Array): Promise<Float32Array> {
    const shown = new ort.Tensor("float32", prompts, [1, 3, CHANNELS_SIDE, CHANNELS_SIDE]);
    const { probability } = await this.figure.run({ image, features, ...(this.takesPrompts && { prompts: shown }) });
    return probability.data as Float32Array;
  }
}

async function start(entry: Entry, arriving: (bytes: number) => void): Promise<void> {
  ort.env.wasm.wasmBinary = await unpacked(entry, arriving);
  ort.env.wasm.wasmPaths = { mjs: new URL("runtime.js", BASE).href };
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, THREADS) : 1;
  ort.env.logLevel = "error";
}
