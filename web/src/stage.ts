// The canvas: an image with what was found on it, and the pointer, touch or keyboard that corrects it.

import { palette } from "./core/png";
import type { Box, Place, Point, Prompts, Stroke } from "./core/prompts";
import { resizeNearest } from "./core/resize";
import type { Found } from "./protocol";

export type View = "mask" | "labels" | "probability" | "image";
export type Tool = "inside" | "outside" | "box" | "paint" | "erase";

const BRUSH = 0.02; // radius of the brush, in parts of the image's longer side
const STEP = 0.01; // of the image's sides, for a key
const FAR = 0.05;
const INSIDE = "#00d890";
const OUTSIDE = "#ff4d6d";

/** What a person did on the canvas, in pixels of the image. */
export interface Handlers {
  mark(mark: Point | Stroke): void;
  box(box: Box): void;
}

export class Stage {
  tool: Tool = "inside";
  view: View = "mask";
  private found: Found | null = null;
  private prompts: Prompts | null = null;
  private picture: OffscreenCanvas | null = null;
  private layer: OffscreenCanvas | null = null;
  private path: Place[] = [];
  private drawing: Tool | null = null;
  private cursor: Place | null = null; // of the keyboard

  constructor(
    private readonly canvas: HTMLCanvasElement,
    private readonly handlers: Handlers,
  ) {
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.release(event));
    canvas.addEventListener("pointercancel", () => this.abandon());
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => {
      this.cursor = null;
      this.draw();
    });
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement!);
  }

  /** Show an image with what was found on it; null shows nothing. */
  show(found: Found | null, prompts: Prompts | null): void {
    if (found?.display !== this.found?.display) {
      this.path = [];
      this.drawing = this.cursor = null;
      this.picture = found && canvasOf(found.display.rgba, found.display.width, found.display.height);
    }
    const changed = found !== this.found;
    this.found = found;
    this.prompts = prompts;
    if (changed) this.refresh();
    else this.draw();
  }

  /** Draw anew what depends on the view and on the maps. */
  refresh(): void {
    this.layer = this.found && layerOf(this.found, this.view);
    this.draw();
  }

  /** Give up what is being drawn. */
  abandon(): void {
    this.path = [];
    this.drawing = null;
    this.draw();
  }

  private get radius(): number {
    return Math.max(1, BRUSH * Math.max(this.found!.width, this.found!.height));
  }

  private draw(): void {
    const area = this.canvas.parentElement!;
    const context = this.canvas.getContext("2d")!;
    const { found } = this;
    this.canvas.hidden = !found;
    if (!found || !area.clientWidth || !area.clientHeight) return;
    const scale = Math.min(area.clientWidth / found.width, area.clientHeight / found.height);
    const [width, height] = [Math.max(1, found.width * scale), Math.max(1, found.height * scale)];
    const dense = window.devicePixelRatio || 1;
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    this.canvas.width = Math.round(width * dense);
    this.canvas.height = Math.round(height * dense);
    context.imageSmoothingQuality = "high";
    context.drawImage(this.picture!, 0, 0, this.canvas.width, this.canvas.height);
    if (this.layer) context.drawImage(this.layer, 0, 0, this.canvas.width, this.canvas.height);
    context.setTransform(dense * scale, 0, 0, dense * scale, 0, 0);
    this.drawPrompts(context, 1 / scale);
    context.setTransform(1, 0, 0, 1, 0, 0);
  }

  /** Draw prompts in pixels of the image, of which one of the screen has `unit`. */
  private drawPrompts(context: CanvasRenderingContext2D, unit: number): void {
    const marks = [...(this.prompts?.marks ?? [])];
    if (this.path.length && (this.drawing === "paint" || this.drawing === "erase")) marks.push(this.stroke(this.drawing, this.path));
    context.lineCap = context.lineJoin = "round";
    for (const mark of marks) {
      if (mark.kind === "point") continue;
      const { path, radius, inside } = mark;
      context.strokeStyle = inside ? `${INSIDE}99` : `${OUTSIDE}99`;
      context.lineWidth = 2 * radius;
      context.beginPath();
      path.forEach(({ x, y }, index) => (index ? context.lineTo(x + 0.5, y + 0.5) : context.moveTo(x + 0.5, y + 0.5)));
      if (path.length === 1) context.lineTo(path[0].x + 0.501, path[0].y + 0.5);
      context.stroke();
    }
    const box = this.drawing === "box" && this.path.length ? boxOf(this.path[0], this.path[this.path.length - 1]) : this.prompts?.box;
    if (box) {
      for (const [colour, dash] of [["#000a", []], ["#fff", [7 * unit, 5 * unit]]] as const) {
        context.strokeStyle = colour;
        context.lineWidth = 2 * unit;
        context.setLineDash(dash);
        context.strokeRect(box.left, box.top, box.right - box.left + 1, box.bottom - box.top + 1);
      }
      context.setLineDash([]);
    }
    for (const mark of marks) if (mark.kind === "point") this.drawPoint(context, mark, unit);
    if (this.cursor) {
      for (const [colour, width] of [["#000", 4], ["#fff", 2]] as const) {
        context.strokeStyle = colour;
        context.lineWidth = width * unit;
        context.beginPath();
        for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
          context.moveTo(this.cursor.x + 0.5 + 4 * dx * unit, this.cursor.y + 0.5 + 4 * dy * unit);
          context.lineTo(this.cursor.x + 0.5 + 14 * dx * unit, this.cursor.y + 0.5 + 14 * dy * unit);
        }
        context.stroke();
      }
    }
  }

  private drawPoint(context: CanvasRenderingContext2D, { x, y, inside }: Point, unit: number): void {
    const [centreX, centreY] = [x + 0.5, y + 0.5];
    context.fillStyle = inside ? INSIDE : OUTSIDE;
    context.strokeStyle = "#fff";
    context.lineWidth = 2 * unit;
    context.beginPath();
    context.arc(centreX, centreY, 8 * unit, 0, 2 * Math.PI);
    context.fill();
    context.stroke();
    context.strokeStyle = inside ? "#003322" : "#fff";
    context.beginPath();
    context.moveTo(centreX - 4 * unit, centreY);
    context.lineTo(centreX + 4 * unit, centreY);
    if (inside) {
      context.moveTo(centreX, centreY - 4 * unit);
      context.lineTo(centreX, centreY + 4 * unit);
    }
    context.stroke();
  }

  private placeOf(event: PointerEvent): Place {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    const found = this.found!;
    const whole = (part: number, size: number): number => Math.min(Math.max(Math.floor(part * size), 0), size - 1);
    return { x: whole((event.clientX - left) / width, found.width), y: whole((event.clientY - top) / height, found.height) };
  }

  private press(event: PointerEvent): void {
    if (!this.found || !event.isPrimary || event.button > 2 || event.button === 1) return;
    this.cursor = null;
    this.canvas.setPointerCapture(event.pointerId);
    const other = event.button === 2 || event.shiftKey;
    this.drawing = other ? opposite(this.tool) : this.tool;
    this.path = [this.placeOf(event)];
    this.draw();
  }

  private move(event: PointerEvent): void {
    if (!this.drawing || !event.isPrimary) return;
    const place = this.placeOf(event);
    const last = this.path[this.path.length - 1];
    if (place.x === last.x && place.y === last.y) return;
    if (this.drawing === "paint" || this.drawing === "erase") this.path.push(place);
    else this.path = [this.path[0], place];
    this.draw();
  }

  private release(event: PointerEvent): void {
    if (!this.drawing || !event.isPrimary) return;
    const [tool, path] = [this.drawing, this.path];
    this.abandon();
    this.finish(tool, path);
  }

  private finish(tool: Tool, path: Place[]): void {
    const last = path[path.length - 1];
    if (tool === "inside" || tool === "outside") this.handlers.mark({ kind: "point", ...last, inside: tool === "inside" });
    else if (tool === "box") {
      const box = boxOf(path[0], last);
      if (box.right - box.left >= 2 && box.bottom - box.top >= 2) this.handlers.box(box);
    } else this.handlers.mark(this.stroke(tool, path));
  }

  private stroke(tool: "paint" | "erase", path: Place[]): Stroke {
    return { kind: "stroke", path, radius: this.radius, inside: tool === "paint" };
  }

  private key(event: KeyboardEvent): void {
    const { found } = this;
    if (!found || event.ctrlKey || event.metaKey || event.altKey) return;
    const ways: Record<string, [number, number]> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const way = ways[event.key];
    const from = this.cursor ?? { x: found.width >> 1, y: found.height >> 1 };
    if (way) {
      const step = event.shiftKey ? FAR : STEP;
      const moved = (place: number, direction: number, size: number): number =>
        Math.min(Math.max(place + direction * Math.max(1, Math.round(step * size)), 0), size - 1);
      this.cursor = { x: moved(from.x, way[0], found.width), y: moved(from.y, way[1], found.height) };
      if (this.drawing) this.path = this.drawing === "box" ? [this.path[0], this.cursor] : [...this.path, this.cursor];
    } else if (event.key === "Enter" || event.key === " ") {
      this.cursor = from;
      if (this.tool === "inside" || this.tool === "outside") this.finish(this.tool, [from]);
      else if (this.drawing) {
        const [tool, path] = [this.drawing, this.path];
        this.abandon();
        this.finish(tool, path);
      } else {
        this.drawing = this.tool;
        this.path = [from];
      }
    } else return;
    event.preventDefault();
    this.draw();
  }
}

function opposite(tool: Tool): Tool {
  const others: Record<Tool, Tool> = { inside: "outside", outside: "inside", paint: "erase", erase: "paint", box: "box" };
  return others[tool];
}

function boxOf(one: Place, other: Place): Box {
  return {
    left: Math.min(one.x, other.x),
    top: Math.min(one.y, other.y),
    right: Math.max(one.x, other.x),
    bottom: Math.max(one.y, other.y),
  };
}

function canvasOf(rgba: Uint8ClampedArray<ArrayBuffer>, width: number, height: number): OffscreenCanvas {
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d")!.putImageData(new ImageData(rgba, width, height), 0, 0);
  return canvas;
}

const SHORTEST = 900; // pixels of a layer's longer side, so that outlines of small images are fine lines

/** What a view lays over the image; null for the image alone. */
function layerOf(found: Found, view: View): OffscreenCanvas | null {
  if (view === "image" || (view === "labels" && !found.labels)) return null;
  const larger = Math.max(1, SHORTEST / Math.max(found.display.width, found.display.height));
  const [width, height] = [Math.round(found.display.width * larger), Math.round(found.display.height * larger)];
  const shown = (map: Uint8Array): Uint8Array => resizeNearest(map, found.width, found.height, width, height);
  const pixels = new Uint32Array(width * height);
  if (view === "mask") paintMask(shown(found.masked.mask), width, height, pixels);
  else {
    const colours = view === "labels" ? labelColours(found.clusters) : HEAT;
    const map = shown(view === "labels" ? found.labels! : found.masked.probability);
    for (let place = 0; place < map.length; place++) pixels[place] = colours[map[place]];
  }
  return canvasOf(new Uint8ClampedArray(pixels.buffer), width, height);
}

/** A colour as the bytes of one pixel. */
function packed(red: number, green: number, blue: number, alpha: number): number {
  return new Uint32Array(new Uint8ClampedArray([red, green, blue, alpha]).buffer)[0];
}

const [TINTED, LINE, CASING] = [packed(0, 255, 170, 70), packed(0, 255, 170, 255), packed(0, 0, 0, 170)]; // as in overlays of 'run'

/** The mask tinted, with an outline that has a dark line on its outside. */
function paintMask(mask: Uint8Array, width: number, height: number, pixels: Uint32Array): void {
  const line = Math.max(1, Math.round(Math.max(width, height) / 450));
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const place = row * width + column;
      const value = mask[place];
      let edge = false;
      for (let reach = 1; reach <= line && !edge; reach++) {
        edge =
          (column >= reach && mask[place - reach] !== value) ||
          (column < width - reach && mask[place + reach] !== value) ||
          (row >= reach && mask[place - reach * width] !== value) ||
          (row < height - reach && mask[place + reach * width] !== value);
      }
      if (value) pixels[place] = edge ? LINE : TINTED;
      else if (edge) pixels[place] = CASING;
    }
  }
}

function labelColours(clusters: number): Uint32Array {
  const colours = palette(clusters);
  return Uint32Array.from({ length: clusters }, (_, id) => packed(colours[3 * id], colours[3 * id + 1], colours[3 * id + 2], 200));
}

const STOPS = [[13, 8, 60], [120, 28, 109], [237, 105, 37], [252, 255, 164]];
/** Colours of the probabilities 0 to 255: dark for 0, light for 1. */
const HEAT = Uint32Array.from({ length: 256 }, (_, value) => {
  const place = Math.min(value / 255, 0.9999) * (STOPS.length - 1);
  const [low, part] = [Math.floor(place), place % 1];
  const [red, green, blue] = STOPS[low].map((each, channel) => each + part * (STOPS[low + 1][channel] - each));
  return packed(red, green, blue, 215);
});
