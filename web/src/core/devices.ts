// The choice between the processor and WebGPU.

/** Where the encoder runs. */
export type Device = "wasm" | "webgpu";

/** How a device did: whether it computes what the bundle's fingerprint says, and the milliseconds of a run that is not the first. */
export interface Trial {
  passed: boolean;
  milliseconds: number;
}

/** Whether WebGPU is used: it must compute what is known, and be faster. */
export function prefersGpu(gpu: Trial, wasm: Trial): boolean {
  return gpu.passed && gpu.milliseconds < wasm.milliseconds;
}
