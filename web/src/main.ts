// The page: images in, masks out, and what a person corrects on the way.

import { PageError } from "./core/errors";
import { lazily } from "./core/lazily";
import { cocoOf } from "./core/outlines";
import { encodePng, palette } from "./core/png";
import { contains, isEmpty, NONE, type Prompts } from "./core/prompts";
import type { Answer, Found, Preset, Request, Stage as Work } from "./protocol";
import { Stage, type Tool, type View } from "./stage";

/** An image that was chosen. */
interface Item {
  id: number;
  name: string;
  file: File;
  found: Found | null;
  failure: string | null;
  stopped: boolean;
  corrections: Prompts[]; // each with those before it; the last holds
  candidate: number; // of the plausible objects, from 0
  wanted: boolean; // whether the mask of the last correction was not asked for yet
}

const HINTS: Record<Tool, string> = {
  inside: "Click on a part of the object that the mask misses.",
  outside: "Click on a part of the mask that is not the object.",
  box: "Draw a box around the object. Nothing outside it stays in the mask.",
  paint: "Paint over what belongs to the object.",
  erase: "Paint over what does not belong to the object.",
};
const FIRST_HINT =
  "Is the mask right? Save it. If not, click where a part of the object is missing, or choose “Not object” and click where the mask is too large.";
const STAGES: Record<Work, string> = {
  loading: "Loading the network",
  reading: "Reading the image",
  looking: "Looking for the object",
};
const PAUSE = 200; // milliseconds
const TOOLS: Tool[] = ["inside", "outside", "box", "paint", "erase"];
const VIEWS: Record<string, View> = { m: "mask", l: "labels", c: "probability", i: "image" };

function element<Kind extends HTMLElement = HTMLElement>(id: string): Kind {
  return document.getElementById(id) as Kind;
}

const items: Item[] = [];
let current: Item | null = null;
let preset: Preset = "fast"; // the default of 'msformer-deploy run'
let worker: Worker;
let waiting: number | null = null; // the image that is being opened
let asking: Item | null = null; // the image whose mask is being computed anew
let asked = 0; // when that was, in milliseconds
let pause: ReturnType<typeof setTimeout> | undefined; // until there is time for the label map

const stage = new Stage(element<HTMLCanvasElement>("stage"), {
  mark: (mark) =>
    correct(({ marks, box }) => {
      const places = mark.kind === "point" ? [mark] : mark.path;
      const leaves = box && mark.inside && !places.every(({ x, y }) => contains(box, x, y));
      return { marks: [...marks, mark], box: leaves ? null : box }; // what is shown last holds
    }),
  box: (box) => correct(({ marks }) => ({ marks, box })),
});

function send(request: Request): void {
  worker.postMessage(request);
}

function startWorker(): void {
  worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
  worker.addEventListener("message", ({ data }: MessageEvent<Answer>) => receive(data));
  worker.addEventListener("error", (event) => {
    event.preventDefault();
    fail("the page cannot work in this browser; update it, or use another one");
  });
}

function fail(message: string | null): void {
  element("failure").hidden = !message;
  element("failure").textContent = message;
}

function receive(answer: Answer): void {
  if (answer.kind === "progress") {
    showProgress(answer.stage, answer.done, answer.total);
    return;
  }
  if (answer.kind === "ready") {
    element("loaded").textContent = "Ready. With this quality the page needs no network from now on.";
    return;
  }
  if (answer.kind === "tried") {
    document.documentElement.dataset.trials = JSON.stringify(answer);
    return;
  }
  const item = items.find(({ id }) => id === answer.id);
  if (!item) {
    fail(answer.kind === "failed" ? answer.message : null);
    return;
  }
  const { dataset } = document.documentElement; // what tests wait for
  if (answer.kind === "labelled") {
    if (item.found) item.found = { ...item.found, labels: answer.labels };
  } else if (answer.kind === "masked") {
    asking = null;
    if (item.found) item.found = { ...item.found, masked: answer.masked };
    fail(null);
  } else if (answer.kind === "failed" && waiting !== item.id) {
    if (asking === item) asking = null;
    fail(answer.message);
  } else {
    waiting = null;
    if (answer.kind === "failed") item.failure = answer.message;
    else {
      item.found = answer.found;
      if (answer.found.dicom) lazily(() => import("./seg")).catch(() => null); // tried again when a SEG is saved
      item.wanted = item.corrections.length > 0 || item.candidate > 0;
      dataset.seconds = answer.found.seconds.toFixed(3);
    }
  }
  update();
  if (answer.kind === "masked") dataset.milliseconds = (performance.now() - asked).toFixed(1); // drawn
  askForMasks();
  work();
  if (answer.kind !== "failed") askForLabels();
}

/** Open the current image, unless that is done or being done. */
function work(): void {
  if (!current || waiting !== null || current.found || current.failure || current.stopped) return;
  waiting = current.id;
  const { id, name, file } = current;
  showProgress("reading", 0, 0);
  send({ kind: "open", id, preset, name, file });
  update();
}

function cancel(): void {
  if (waiting === null) return;
  const item = items.find(({ id }) => id === waiting)!;
  item.stopped = true;
  restart();
  update();
  work();
}

/** What is computed cannot be interrupted, so the worker ends and another one begins. */
function restart(): void {
  worker.terminate();
  element("loaded").textContent = "";
  waiting = null;
  if (asking) asking.wanted = true;
  asking = null;
  startWorker();
  askForMasks();
}

function shownOn(item: Item): Prompts {
  return item.corrections[item.corrections.length - 1] ?? NONE;
}

function correct(change: (shown: Prompts) => Prompts): void {
  if (!current?.found) return;
  current.corrections.push(change(shownOn(current)));
  showCorrections(current);
}

function undo(): void {
  if (!current?.found || !current.corrections.length) return;
  current.corrections.pop();
  showCorrections(current);
}

/** Another plausible object; after the last one the first. */
function chooseOther(): void {
  if (!current?.found || current.found.masked.candidates < 2) return;
  current.candidate = (current.candidate + 1) % current.found.masked.candidates;
  current.wanted = true;
  askForMasks();
}

function showCorrections(item: Item): void {
  item.candidate = 0; // what is plausible is another thing now
  item.wanted = true;
  stage.show(item.found, shownOn(item));
  updateTools();
  askForMasks();
}

/** Ask for the mask of an image that has new corrections, one after the other: of several only the last counts. */
function askForMasks(): void {
  const item = asking ? undefined : items.find((each) => each.wanted && each.found);
  if (!item) return;
  asking = item;
  asked = performance.now();
  item.wanted = false;
  const { id, name, file, candidate } = item;
  send({ kind: "prompt", id, preset, name, file, candidate, prompts: shownOn(item) });
}

/** Ask for the label map of the current image, once nothing else was asked for a while. */
function askForLabels(): void {
  clearTimeout(pause);
  pause = setTimeout(() => {
    if (!current?.found || current.found.labels || waiting !== null || asking) return;
    const { id, name, file } = current;
    send({ kind: "label", id, preset, name, file });
  }, PAUSE);
}

function add(files: Iterable<File>): void {
  const taken = new Set(items.map(({ name }) => name));
  let first: Item | null = null;
  for (const file of files) {
    let name = file.name;
    for (let count = 2; taken.has(name); count++) name = file.name.replace(/(\.[^.]*)?$/, ` (${count})$1`);
    taken.add(name);
    const item: Item = { id: items.length, name, file, found: null, failure: null, stopped: false, corrections: [], candidate: 0, wanted: false };
    items.push(item);
    first ??= item;
  }
  if (first) choose(first);
}

function choose(item: Item): void {
  current = item;
  update();
  work();
  askForLabels();
}

function step(by: number): void {
  const item = current && items[items.indexOf(current) + by];
  if (item) choose(item);
}

function showProgress(work: Work, done: number, total: number): void {
  const amount = total ? `: ${(done / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB` : "";
  element("stagename").textContent = `${STAGES[work]}${amount}`;
  if (work === "loading") element("loaded").textContent = `${STAGES[work]}${amount}`;
  const bar = element<HTMLProgressElement>("progress");
  if (total) bar.value = done / total;
  else bar.removeAttribute("value");
}

function update(): void {
  element("start").hidden = items.length > 0;
  element("work").hidden = items.length === 0;
  if (!current) return;
  const { found, failure, stopped, name } = current;
  element("busy").hidden = !!found || !!failure || stopped;
  element("stopped").hidden = !failure && !stopped;
  element("why").textContent = failure ?? "Cancelled.";
  element("why").classList.toggle("bad", !!failure);
  element("again").hidden = !!failure;
  element("name").textContent = name;
  element("size").textContent = found ? `${found.width} × ${found.height}` : "";
  stage.show(found, found && shownOn(current));
  updateTrust(found);
  updateTools();
  const index = items.indexOf(current);
  element<HTMLButtonElement>("previous").disabled = index === 0;
  element<HTMLButtonElement>("next").disabled = index === items.length - 1;
  const list = element("list");
  const focused = list.contains(document.activeElement);
  list.replaceChildren(...items.map(rowOf));
  if (focused) list.querySelector<HTMLButtonElement>("[aria-current='true']")!.focus();
}

function updateTrust(found: Found | null): void {
  element("trust").hidden = !found;
  if (!found) return;
  const { value, low, high, doubt } = found.masked.confidence;
  const corrected = !isEmpty(shownOn(current!));
  element("expected").textContent = value.toFixed(2);
  element("interval").textContent = `80 of 100 such masks: ${low.toFixed(2)} to ${high.toFixed(2)}`;
  element("range").style.left = `${100 * low}%`;
  element("range").style.width = `${100 * (high - low)}%`;
  element("mark").style.left = `${100 * value}%`;
  element("doubt").hidden = !doubt || corrected;
  element("doubt").textContent = doubt ? `In doubt: ${doubt}.` : "";
  const notes = found.notes.map((note) => Object.assign(document.createElement("li"), { textContent: note }));
  element("notes").replaceChildren(...notes);
}

function updateTools(): void {
  const found = !!current?.found;
  for (const button of document.querySelectorAll<HTMLButtonElement>("[data-tool]")) {
    button.setAttribute("aria-pressed", String(button.dataset.tool === stage.tool));
    button.disabled = !found;
  }
  for (const button of document.querySelectorAll<HTMLButtonElement>("[data-view]")) {
    button.setAttribute("aria-pressed", String(button.dataset.view === stage.view));
    button.disabled = !found || (button.dataset.view === "labels" && !current?.found?.labels);
  }
  for (const button of document.querySelectorAll<HTMLButtonElement>("[data-save]")) {
    if (button.dataset.save === "seg") button.hidden = !current?.found?.dicom;
    button.disabled = button.dataset.save === "coco" ? !items.some((each) => each.found) : !found || (button.dataset.save === "labels" && !current?.found?.labels);
  }
  const masked = current?.found?.masked;
  element("other").hidden = !masked || masked.candidates < 2;
  element("which").textContent = masked ? `${masked.candidate + 1} of ${masked.candidates}` : "";
  element<HTMLButtonElement>("undo").disabled = !current?.corrections.length;
  const first = stage.tool === "inside" && !items.some(({ corrections }) => corrections.length);
  element("hint").textContent = found ? (first ? FIRST_HINT : HINTS[stage.tool]) : "";
}

function rowOf(item: Item): HTMLLIElement {
  const state = item.failure ? "failed" : item.stopped ? "cancelled" : item.found ? item.found.masked.confidence.value.toFixed(2) : "";
  const button = document.createElement("button");
  const [name, told] = [document.createElement("span"), document.createElement("span")];
  name.textContent = item.name;
  told.textContent = item.corrections.length ? `${state} ✎` : state;
  button.append(name, told);
  button.setAttribute("aria-current", String(item === current));
  button.addEventListener("click", () => choose(item));
  const row = document.createElement("li");
  row.append(button);
  return row;
}

function save(kind: string): void {
  if (kind === "coco") {
    const found = items.filter((each) => each.found);
    const images = found.map(({ name, found: each }) => ({ name, width: each!.width, height: each!.height, mask: each!.masked.mask }));
    download(new Blob([cocoOf(images)], { type: "application/json" }), "annotations.coco.json");
    return;
  }
  const { name, found } = current!;
  const { width, height, labels, clusters, masked } = found!;
  if (kind === "seg") {
    saveSeg(current!).catch((error: unknown) => fail(error instanceof PageError ? error.message : `the DICOM segmentation could not be made (${String(error).slice(0, 200)}); save the mask as PNG`));
    return;
  }
  const contents: Record<string, () => Uint8Array<ArrayBuffer>> = {
    mask: () => encodePng(masked.mask.map((each) => 255 * each), width, height),
    labels: () => encodePng(labels!, width, height, palette(clusters)),
    probability: () => encodePng(masked.probability, width, height),
  };
  // Named as 'msformer-deploy run' names its results, so that other commands know whose they are.
  download(new Blob([contents[kind]()], { type: "image/png" }), `${name}.${kind}.png`);
}

async function saveSeg(item: Item): Promise<void> {
  const { segOf } = await lazily(() => import("./seg"));
  const { name, file } = item;
  const { width, height, masked, madeBy } = item.found!;
  const corrected = !isEmpty(shownOn(item)) || masked.candidate > 0;
  const content = await segOf({ name, file, width, height, mask: masked.mask, corrected, madeBy });
  fail(null);
  download(new Blob([content], { type: "application/dicom" }), `${name}.seg.dcm`);
}

function download(content: Blob, name: string): void {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(content), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function chooseTool(tool: Tool): void {
  stage.tool = tool;
  stage.abandon();
  updateTools();
}

function chooseView(view: View): void {
  stage.view = view;
  stage.refresh();
  updateTools();
}

function key(event: KeyboardEvent): void {
  if (event.ctrlKey || event.metaKey || event.altKey || (event.target as HTMLElement).matches("select, input")) return;
  const pressed = event.key.toLowerCase();
  const tool = TOOLS[Number(pressed) - 1];
  if (tool) chooseTool(tool);
  else if (VIEWS[pressed]) chooseView(VIEWS[pressed]);
  else if (pressed === "z") undo();
  else if (pressed === "n") chooseOther();
  else if (pressed === "[" || pressed === "pageup") step(-1);
  else if (pressed === "]" || pressed === "pagedown") step(1);
  else if (pressed === "escape") {
    stage.abandon();
    cancel();
  } else return;
  event.preventDefault();
}

function listen(): void {
  for (const id of ["files", "more"]) {
    const input = element<HTMLInputElement>(id);
    input.addEventListener("change", () => {
      add([...input.files!]);
      input.value = "";
    });
  }
  for (const button of document.querySelectorAll<HTMLButtonElement>("[data-tool]")) button.addEventListener("click", () => chooseTool(button.dataset.tool as Tool));
  for (const button of document.querySelectorAll<HTMLButtonElement>("[data-view]")) button.addEventListener("click", () => chooseView(button.dataset.view as View));
  for (const button of document.querySelectorAll<HTMLButtonElement>("[data-save]")) button.addEventListener("click", () => save(button.dataset.save!));
  element("undo").addEventListener("click", undo);
  element("other").addEventListener("click", chooseOther);
  element("cancel").addEventListener("click", cancel);
  element("again").addEventListener("click", () => {
    current!.stopped = false;
    update();
    work();
  });
  element("previous").addEventListener("click", () => step(-1));
  element("next").addEventListener("click", () => step(1));
  element("preset").addEventListener("change", (event) => {
    preset = (event.target as HTMLSelectElement).value as Preset;
    for (const item of items) Object.assign(item, { found: null, stopped: false });
    fail(null);
    restart();
    send({ kind: "prepare", preset });
    update();
    work();
  });
  document.addEventListener("keydown", key);
  let depth = 0;
  const over = (change: number): void => {
    depth += change;
    element("over").hidden = depth <= 0;
  };
  document.addEventListener("dragenter", () => over(1));
  document.addEventListener("dragleave", () => over(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    over(-depth);
    add([...event.dataTransfer!.files]);
  });
}

element("unstarted").remove();
if (typeof WebAssembly === "undefined") {
  fail("WebAssembly is switched off in this browser, and nothing can be computed without it; switch it on, or use another browser");
} else {
  startWorker();
  listen();
  update();
  send({ kind: "prepare", preset });
}
