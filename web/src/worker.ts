// The work on images, off the page's thread. It answers requests one after the other.

import { redraw } from "./core/borders";
import { partOf, placed, reaching, windowAround } from "./core/boxes";
import { candidatesOf } from "./core/candidates";
import { PageError } from "./core/errors";
import { above, thresholdOf } from "./core/mask";
import { obey } from "./core/obeyed";
import { displayOf, type Picture } from "./core/picture";
import { channelsOf, labelled, NONE, type Prompts, within } from "./core/prompts";
import { noise } from "./core/fingerprint";
import { resizeFloats, resizeNearest } from "./core/resize";
import { BORDERS, type Square, squareOf, withoutFrame } from "./core/view";
import { prefetch, readPicture } from "./decode/decode";
import { type Encoded, Model } from "./model";
import type { Answer, Found, Masked, Preset, Request, Stage } from "./protocol";

const LONGEST = 1600; // pixels of the display's longer side
const KEPT = 3; // images whose features are kept, for prompts

const models = new Map<Preset, Promise<Model>>();
const encoded = new Map<string, Kept>();

/** An image, the square that the network took of it, and what it found there. */
interface Kept {
  picture: Picture;
  square: Square;
  found: Encoded;
}

function say(answer: Answer, given: Transferable[] = []): void {
  self.postMessage(answer, { transfer: given });
}

function report(stage: Stage, done = 0, total = 0): void {
  say({ kind: "progress", stage, done, total });
}

function modelOf(preset: Preset): Promise<Model> {
  let model = models.get(preset);
  if (!model) {
    model = Model.load(preset, (done, total) => report("loading", done, total)).then(rehearsed);
    model.catch(() => models.delete(preset));
    models.set(preset, model);
  }
  return model;
}

/** A model after one image and one correction that nobody sees: browsers compile what runs, so the first takes longer. */
async function rehearsed(model: Model): Promise<Model> {
  const [width, height] = [768, 576];
  const planes = noise(BORDERS);
  const picture: Picture = { width, height, rgb: Uint8Array.from({ length: 3 * width * height }, (_, place) => 255 * planes[place % planes.length]), notes: [] };
  const square = withoutFrame(squareOf(picture, model.side), squareOf(picture, BORDERS));
  const kept = { picture, square, found: await model.encode(square.planes) };
  const middle = { x: width >> 1, y: height >> 1 };
  for (const inside of [true, false]) await masked(model, kept, { marks: [{ kind: "point", ...middle, inside }], box: null }, 0);
  displayOf(picture, LONGEST);
  return model;
}

/** An image with its features; kept for the next prompt. */
async function encode(request: Exclude<Request, { kind: "prepare" }>): Promise<{ kept: Kept; model: Model }> {
  const model = await modelOf(request.preset);
  const key = `${request.id} ${request.preset}`;
  let known = encoded.get(key);
  if (!known) {
    report("reading");
    const content = await request.file.arrayBuffer().catch(() => {
      throw new PageError(`${request.name}: cannot be read; if it is a folder, choose the files in it`);
    });
    const bytes = new Uint8Array(content);
    const picture = await readPicture(bytes, request.name);
    report("looking");
    const view = squareOf(picture, BORDERS);
    const square = withoutFrame(squareOf(picture, model.side), view);
    known = { picture, square, found: await model.encode(square.planes) };
  }
  encoded.delete(key);
  encoded.set(key, known);
  for (const old of [...encoded.keys()].slice(0, -KEPT)) encoded.delete(old);
  return { kept: known, model };
}

async function masked(model: Model, { picture, found, square }: Kept, prompts: Prompts, candidate: number): Promise<Masked> {
  const { width, height } = picture;
  const { side } = model;
  const { box } = prompts;
  const shown = labelled(prompts, width, height);
  const at = box && windowAround(box, width, height, side);
  const part = at ? partOf(at, width, height) : undefined;
  const looked = at ? model.inWindow(found, at, squareOf(picture, side, part).planes) : found;
  let seen = await model.probability(looked, channelsOf(shown, box, width, height, part));
  if (at) seen = placed(at, seen);
  let small = within(box, seen, side, side, width, height);
  let probability = within(box, resizeFloats(seen, side, side, width, height), width, height, width, height);
  if (box) {
    probability = reaching(probability, thresholdOf(small), box, width);
    small = resizeFloats(probability, width, height, side, side);
  }
  const plausible = candidatesOf(small, side);
  const number = Math.min(candidate, plausible.length - 1);
  const { threshold, within: own, confidence } = plausible[number];
  const mask = above(probability, threshold);
  if (own) resizeNearest(own, side, side, width, height).forEach((each, place) => (mask[place] &= each));
  obey(mask, width, height, square, shown, box);
  return { mask, probability: bytesOf(probability), confidence, candidate: number, candidates: plausible.length };
}

/** Probabilities as bytes, 255 for 1. */
function bytesOf(probability: Float32Array): Uint8Array<ArrayBuffer> {
  const found = new Uint8Array(probability.length);
  for (let place = 0; place < found.length; place++) found[place] = probability[place] * 255 + 0.5;
  return found;
}

async function open(request: Extract<Request, { kind: "open" }>): Promise<void> {
  const start = performance.now();
  const { kept, model } = await encode(request);
  const { picture } = kept;
  const result = await masked(model, kept, NONE, 0);
  const { width, height } = picture;
  const opened: Found = {
    width,
    height,
    notes: picture.notes,
    dicom: !!picture.dicom,
    madeBy: model.madeBy,
    display: displayOf(picture, LONGEST),
    labels: null,
    clusters: model.clusters,
    masked: result,
    seconds: (performance.now() - start) / 1000,
  };
  say({ kind: "opened", id: request.id, found: opened }, [opened.display.rgba.buffer, result.mask.buffer, result.probability.buffer]);
}

async function label(request: Extract<Request, { kind: "label" }>): Promise<void> {
  const { kept, model } = await encode(request);
  const { picture, found } = kept;
  const drawn = redraw(found.labels, model.side, squareOf(picture, BORDERS));
  const labels = resizeNearest(drawn, BORDERS, BORDERS, picture.width, picture.height) as Uint8Array<ArrayBuffer>;
  say({ kind: "labelled", id: request.id, labels }, [labels.buffer]);
}

async function prompt(request: Extract<Request, { kind: "prompt" }>): Promise<void> {
  const { kept, model } = await encode(request);
  const result = await masked(model, kept, request.prompts, request.candidate);
  say({ kind: "masked", id: request.id, masked: result }, [result.mask.buffer, result.probability.buffer]);
}

async function answer(request: Request): Promise<void> {
  try {
    if (request.kind === "open") await open(request);
    else if (request.kind === "label") await label(request);
    else if (request.kind === "prompt") await prompt(request);
    else {
      const model = await modelOf(request.preset);
      say({ kind: "ready" });
      prefetch();
      // Beside other work, which goes on without it.
      void model.tryGpu().then(() => say({ kind: "tried", device: model.device, trials: model.trials }));
    }
  } catch (error) {
    const message = error instanceof PageError ? error.message : `something unexpected failed (${String(error).slice(0, 200)}); load the page again`;
    say({ kind: "failed", id: request.kind === "prepare" ? null : request.id, message });
  }
}

let last: Promise<void> = Promise.resolve();
self.addEventListener("message", ({ data }: MessageEvent<Request>) => {
  last = last.then(() => answer(data));
});
