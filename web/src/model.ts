// The graphs of a bundle: fetched from where the page came from, proved by the bundle's fingerprint, and run.

import type { InferenceSession, Tensor } from "onnxruntime-web/wasm";
import { type Device, prefersGpu, type Trial } from "./core/devices";
import { PageError } from "./core/errors";
import { type Fingerprint, isAsKnown, noise } from "./core/fingerprint";
import { CHANNELS_SIDE } from "./core/prompts";
import { type Entry, fetched, unpacked } from "./files";
import type { MadeBy, Preset } from "./protocol";
import { type Build, buildForHere, type Ort, start } from "./runtime";

/** What msformer-deploy writes beside the page (msformer_deploy/web/site.py). */
interface Manifest extends Record<Build, Entry> {
  presets: Record<Preset, Described & { features: Entry; figure: Entry }>;
}

interface Described {
  side: number;
  clusters: number;
  made_by: MadeBy;
  fingerprint: Fingerprint;
}

export type Arriving = (done: number, total: number) => void;

/** What the network finds in a square image. */
export interface Encoded {
  labels: Uint8Array;
  features: Tensor;
  image: Tensor;
}

let manifest: Promise<Manifest> | undefined;
let runtime: Promise<Ort> | undefined;
let build: Promise<Build> | undefined;

async function readManifest(): Promise<Manifest> {
  return (await (await fetched("page.json")).json()) as Manifest;
}

/** A bundle, ready to run. */
export class Model {
  /** How each device did that was tried. */
  readonly trials: Partial<Record<Device, Trial>> = {};
  device: Device = "wasm";

  private constructor(
    private readonly ort: Ort,
    private readonly described: Described,
    private readonly content: Uint8Array,
    private features: InferenceSession,
    private readonly figure: InferenceSession,
  ) {}

  get side(): number {
    return this.described.side;
  }

  get clusters(): number {
    return this.described.clusters;
  }

  get madeBy(): MadeBy {
    return this.described.made_by;
  }

  static async load(preset: Preset, arriving: Arriving): Promise<Model> {
    manifest ??= readManifest();
    const known = await manifest.catch((error: unknown) => {
      manifest = undefined;
      throw error;
    });
    build ??= buildForHere();
    const loaded = await build;
    const { features: encoder, figure: last, ...described } = known.presets[preset];
    const wanted = [...(runtime ? [] : [known[loaded]]), encoder, last];
    const total = wanted.reduce((sum, each) => sum + each.packed, 0);
    let done = 0;
    const counting = (bytes: number): void => arriving(Math.min((done += bytes), total), total);
    runtime ??= start(loaded, known[loaded], counting);
    const starting = runtime.catch((error: unknown) => {
      runtime = undefined;
      throw error;
    });
    const [features, figure, ort] = await Promise.all([unpacked(encoder, counting), unpacked(last, counting), starting]);
    let model: Model;
    try {
      model = new Model(ort, described, features, await open(ort, features, "wasm"), await open(ort, figure, "wasm"));
    } catch (error) {
      throw new PageError(`the network cannot be opened in this browser (${String(error).slice(0, 120)}); update the browser, or use another one`);
    }
    await model.prove();
    return model;
  }

  /** See that WebAssembly computes what is known. */
  private async prove(): Promise<void> {
    if (!(await this.passes(this.features))) {
      throw new PageError("this browser computes something else than what the network is known to compute; update the browser, or use another one");
    }
  }

  /** Run on WebGPU from now on, if the runtime has it, and it computes what is known, and it is faster. */
  async tryGpu(): Promise<void> {
    if (this.trials.webgpu || (await build) !== "webgpu") return;
    let session: InferenceSession | undefined;
    try {
      session = await open(this.ort, this.content, "webgpu");
      this.trials.webgpu = { passed: await this.passes(session), milliseconds: await this.time(session) };
    } catch {
      this.trials.webgpu = { passed: false, milliseconds: Infinity }; // it cannot run the graph
    }
    this.trials.wasm = { passed: true, milliseconds: await this.time(this.features) };
    if (session && prefersGpu(this.trials.webgpu, this.trials.wasm)) {
      [this.features, session] = [session, this.features];
      this.device = "webgpu";
    }
    await session?.release();
  }

  /** Whether a session computes what is known of the fingerprint's image. */
  private async passes(session: InferenceSession): Promise<boolean> {
    const { label_map: labels, features } = await session.run({ image: this.asTensor(noise(this.side)) });
    return isAsKnown(this.described.fingerprint, features.data as Float32Array, labels.data as Uint8Array);
  }

  /** Milliseconds of one run. */
  private async time(session: InferenceSession): Promise<number> {
    const image = this.asTensor(noise(this.side));
    const begun = performance.now();
    await session.run({ image });
    return performance.now() - begun;
  }

  private asTensor(planes: Float32Array): Tensor {
    return new this.ort.Tensor("float32", planes, [1, 3, this.side, this.side]);
  }

  /** Run the encoder and the learning on a square image (3, side, side). */
  async encode(planes: Float32Array): Promise<Encoded> {
    const image = this.asTensor(planes);
    const { label_map: labels, features } = await this.features.run({ image });
    return { labels: labels.data as Uint8Array, features, image };
  }

  /** The probability of figure, (side, side). */
  async probability({ image, features }: Encoded, prompts: Float32Array): Promise<Float32Array> {
    const shown = new this.ort.Tensor("float32", prompts, [1, 3, CHANNELS_SIDE, CHANNELS_SIDE]);
    const takesPrompts = this.figure.inputNames.includes("prompts");
    const { probability } = await this.figure.run({ image, features, ...(takesPrompts && { prompts: shown }) });
    return probability.data as Float32Array;
  }
}

function open(ort: Ort, content: Uint8Array, device: Device): Promise<InferenceSession> {
  return ort.InferenceSession.create(content, {
    executionProviders: [device],
    freeDimensionOverrides: { batch: 1 },
    enableMemPattern: false,
    logSeverityLevel: 3,
  });
}
