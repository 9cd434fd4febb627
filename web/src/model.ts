// The graphs of a bundle: fetched from where the page came from, proved by the bundle's fingerprint, and run.

import type { InferenceSession, Tensor } from "onnxruntime-web/wasm";
import { enlarged, type Window } from "./core/boxes";
import { type Device, prefersGpu, type Trial } from "./core/devices";
import { PageError } from "./core/errors";
import { type Fingerprint, isAsKnown, noise } from "./core/fingerprint";
import { CHANNELS_SIDE } from "./core/prompts";
import { type Entry, fetched, unpacked } from "./files";
import { Gpu, hasGpu } from "./gpu";
import type { MadeBy, Preset } from "./protocol";
import { type Build, openSession, type Ort, start } from "./runtime";

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

async function readManifest(): Promise<Manifest> {
  return (await (await fetched("page.json")).json()) as Manifest;
}

/** A bundle, ready to run. */
export class Model {
  /** How each device did that was tried. */
  readonly trials: Partial<Record<Device, Trial>> = {};
  private gpu: Gpu | null = null;
  private closer = new Float32Array(0); // features of a window; memory that the next box uses again

  private constructor(
    private readonly ort: Ort,
    private readonly described: Described,
    private readonly content: Uint8Array, // of the graph of features
    private readonly webgpu: Entry,
    private readonly features: InferenceSession,
    private readonly figure: InferenceSession,
  ) {}

  get device(): Device {
    return this.gpu ? "webgpu" : "wasm";
  }

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
    const { features: encoder, figure: last, ...described } = known.presets[preset];
    const wanted = [...(runtime ? [] : [known.runtime]), encoder, last];
    const total = wanted.reduce((sum, each) => sum + each.packed, 0);
    let done = 0;
    const counting = (bytes: number): void => arriving(Math.min((done += bytes), total), total);
    runtime ??= start("runtime", known.runtime, counting);
    const starting = runtime.catch((error: unknown) => {
      runtime = undefined;
      throw error;
    });
    const [features, figure, ort] = await Promise.all([unpacked(encoder, counting), unpacked(last, counting), starting]);
    let model: Model;
    try {
      model = new Model(ort, described, features, known.webgpu, await openSession(ort, features, "wasm"), await openSession(ort, figure, "wasm"));
    } catch (error) {
      throw new PageError(`the network cannot be opened in this browser (${String(error).slice(0, 120)}); update the browser, or use another one`);
    }
    await model.prove();
    return model;
  }

  /** See that WebAssembly computes what is known. */
  private async prove(): Promise<void> {
    const { labels, features } = await this.encode(noise(this.side));
    if (!isAsKnown(this.described.fingerprint, features.data as Float32Array, labels)) {
      throw new PageError("this browser computes something else than what the network is known to compute; update the browser, or use another one");
    }
  }

  /** Encode on WebGPU from now on, if it computes what is known, and is faster than the last image was. */
  async tryGpu(): Promise<void> {
    if (this.gpu || !(await hasGpu())) return;
    const gpu = new Gpu();
    const { side, fingerprint } = this.described;
    this.trials.webgpu = await gpu
      .open({ runtime: this.webgpu, content: this.content, side, fingerprint })
      .catch(() => ({ passed: false, milliseconds: Infinity }));
    if (prefersGpu(this.trials.webgpu, this.trials.wasm!)) this.gpu = gpu;
    else gpu.close();
  }

  private asTensor(planes: Float32Array): Tensor {
    return new this.ort.Tensor("float32", planes, [1, 3, this.side, this.side]);
  }

  /** Run the encoder and the learning on a square image (3, side, side). */
  async encode(planes: Float32Array): Promise<Encoded> {
    const image = this.asTensor(planes);
    const found = await this.gpu?.encode(planes, this.side).catch(() => this.gpu?.close());
    if (found) {
      const { labels, features } = found;
      return { labels, features: new this.ort.Tensor("float32", features, [1, this.side, this.side, features.length / this.side ** 2]), image };
    }
    this.gpu = null; // whatever it was: what failed once is not used again
    const begun = performance.now();
    const { label_map: labels, features } = await this.features.run({ image });
    this.trials.wasm = { passed: true, milliseconds: performance.now() - begun };
    return { labels: labels.data as Uint8Array, features, image };
  }

  /** What was found, in a window that is enlarged to the network's side; `planes` is the picture there. */
  inWindow({ labels, features }: Encoded, window: Window, planes: Float32Array): Encoded {
    const whole = features.data as Float32Array;
    if (this.closer.length !== whole.length) this.closer = new Float32Array(whole.length);
    enlarged(window, whole, this.closer);
    return { labels, features: new this.ort.Tensor("float32", this.closer, features.dims), image: this.asTensor(planes) };
  }

  /** The probability of figure, (side, side). */
  async probability({ image, features }: Encoded, prompts: Float32Array): Promise<Float32Array> {
    const shown = new this.ort.Tensor("float32", prompts, [1, 3, CHANNELS_SIDE, CHANNELS_SIDE]);
    const takesPrompts = this.figure.inputNames.includes("prompts");
    const { probability } = await this.figure.run({ image, features, ...(takesPrompts && { prompts: shown }) });
    return probability.data as Float32Array;
  }
}
