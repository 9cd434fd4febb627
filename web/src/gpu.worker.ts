// The encoder on WebGPU, in a worker of its own: what goes wrong here, or never ends, ends with this worker.

import type { InferenceSession } from "onnxruntime-web/wasm";
import { isAsKnown, noise } from "./core/fingerprint";
import type { GpuAnswer, GpuRequest } from "./gpu";
import { openSession, type Ort, start } from "./runtime";

let ort: Ort;
let session: InferenceSession;

function run(planes: Float32Array, side: number): Promise<InferenceSession.OnnxValueMapType> {
  return session.run({ image: new ort.Tensor("float32", planes, [1, 3, side, side]) });
}

async function answer(request: GpuRequest): Promise<GpuAnswer> {
  const { side } = request;
  if (request.kind === "encode") {
    const { label_map: labels, features } = await run(request.planes, side);
    return { kind: "encoded", labels: labels.data as Uint8Array, features: features.data as Float32Array };
  }
  ort = await start("webgpu", request.runtime);
  session = await openSession(ort, request.content, "webgpu");
  const { label_map: labels, features } = await run(noise(side), side);
  const passed = isAsKnown(request.fingerprint, features.data as Float32Array, labels.data as Uint8Array);
  const begun = performance.now();
  await run(noise(side), side);
  return { kind: "trial", trial: { passed, milliseconds: performance.now() - begun } };
}

self.addEventListener("message", ({ data }: MessageEvent<GpuRequest>) => {
  answer(data).then(
    (found) => self.postMessage(found),
    () => self.postMessage({ kind: "failed" } satisfies GpuAnswer),
  );
});
