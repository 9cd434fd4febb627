// ONNX Runtime: the build that uses WebGPU where the browser has an adapter, and else the smaller one.

import { lazily } from "./core/lazily";
import { BASE, type Entry, unpacked } from "./files";

export type Ort = typeof import("onnxruntime-web/wasm");

const THREADS = 4; // more gain nothing on graphs of this size

/** The runtime's builds by name; the second has WebGPU, and suspends WebAssembly while that works (JSPI). */
export const BUILDS = ["runtime", "webgpu"] as const;
export type Build = (typeof BUILDS)[number];

/** The one build that is loaded. */
export async function buildForHere(): Promise<Build> {
  if (!("gpu" in navigator) || !("Suspending" in WebAssembly)) return "runtime";
  const adapter = await (navigator.gpu as { requestAdapter(): Promise<unknown> }).requestAdapter().catch(() => null);
  return adapter ? "webgpu" : "runtime";
}

export async function start(build: Build, entry: Entry, arriving: (bytes: number) => void): Promise<Ort> {
  const [code, content] = await Promise.all([
    lazily<Ort>(() => (build === "webgpu" ? (import("onnxruntime-web/jspi") as unknown as Promise<Ort>) : import("onnxruntime-web/wasm"))),
    unpacked(entry, arriving),
  ]);
  const { wasm } = code.env;
  wasm.wasmBinary = content;
  wasm.wasmPaths = { mjs: new URL(`${build}.js`, BASE).href };
  wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, THREADS) : 1;
  code.env.logLevel = "error";
  return code;
}
