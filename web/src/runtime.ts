// ONNX Runtime, of which the page has two builds: that for WebAssembly alone, and that which uses WebGPU too.

import type { InferenceSession } from "onnxruntime-web/wasm";
import type { Device } from "./core/devices";
import { lazily } from "./core/lazily";
import { BASE, type Entry, unpacked } from "./files";

export type Ort = typeof import("onnxruntime-web/wasm");

/** Its builds, by the name of their files. */
export type Build = "runtime" | "webgpu";

const THREADS = 4; // more gain nothing on graphs of this size
const CODE: Record<Build, () => Promise<Ort>> = {
  runtime: () => import("onnxruntime-web/wasm"),
  webgpu: () => import("onnxruntime-web/jspi") as unknown as Promise<Ort>,
};

export async function start(build: Build, entry: Entry, arriving: (bytes: number) => void = () => {}): Promise<Ort> {
  const [code, content] = await Promise.all([lazily(CODE[build]), unpacked(entry, arriving)]);
  const { wasm } = code.env;
  wasm.wasmBinary = content;
  wasm.wasmPaths = { mjs: new URL(`${build}.js`, BASE).href };
  wasm.numThreads = self.crossOriginIsolated && build === "runtime" ? Math.min(navigator.hardwareConcurrency, THREADS) : 1;
  code.env.logLevel = "error";
  return code;
}

export function openSession(ort: Ort, content: Uint8Array, device: Device): Promise<InferenceSession> {
  return ort.InferenceSession.create(content, {
    executionProviders: [device],
    freeDimensionOverrides: { batch: 1 },
    enableMemPattern: false,
    logSeverityLevel: 3,
  });
}
