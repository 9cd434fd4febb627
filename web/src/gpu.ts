// WebGPU, where the browser has an adapter: the encoder of a bundle in a worker of its own.

import type { Trial } from "./core/devices";
import type { Fingerprint } from "./core/fingerprint";
import type { Entry } from "./files";

const TRIAL = 60_000; // milliseconds for the first runs, in which shaders are compiled
const RUN = 10_000;

export type GpuRequest =
  | { kind: "open"; runtime: Entry; content: Uint8Array; fingerprint: Fingerprint; side: number }
  | { kind: "encode"; planes: Float32Array; side: number };

export type GpuAnswer =
  | { kind: "trial"; trial: Trial }
  | { kind: "encoded"; labels: Uint8Array; features: Float32Array }
  | { kind: "failed" };

/** Whether the browser has an adapter, and can wait for it inside of WebAssembly (JSPI). */
export async function hasGpu(): Promise<boolean> {
  if (!("gpu" in navigator) || !("Suspending" in WebAssembly)) return false;
  return !!(await (navigator.gpu as { requestAdapter(): Promise<unknown> }).requestAdapter().catch(() => null));
}

export class Gpu {
  private readonly worker = new Worker(new URL("./gpu.worker.ts", import.meta.url), { type: "module" });

  /** Load the runtime that has WebGPU, and run the encoder on the fingerprint's image; rejected where that fails. */
  async open(request: Omit<Extract<GpuRequest, { kind: "open" }>, "kind">): Promise<Trial> {
    const answer = await this.ask({ kind: "open", ...request }, TRIAL);
    if (answer.kind !== "trial") throw new Error("WebGPU cannot run the network");
    return answer.trial;
  }

  /** Labels (side, side) and features (side, side, channels) of a square image; rejected where that fails. */
  async encode(planes: Float32Array, side: number): Promise<{ labels: Uint8Array; features: Float32Array }> {
    const answer = await this.ask({ kind: "encode", planes, side }, RUN);
    if (answer.kind !== "encoded") throw new Error("WebGPU gave nothing");
    return answer;
  }

  close(): void {
    this.worker.terminate();
  }

  private ask(request: GpuRequest, limit: number): Promise<GpuAnswer> {
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error("WebGPU takes too long")), limit);
      const failed = (): void => (clearTimeout(late), reject(new Error("WebGPU cannot be used")));
      this.worker.onmessage = ({ data }: MessageEvent<GpuAnswer>) => (clearTimeout(late), resolve(data));
      this.worker.onerror = failed;
      this.worker.postMessage(request);
    });
  }
}
