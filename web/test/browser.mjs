// Drives the page in a real Chromium, and prints what it saw as JSON: node browser.mjs PLAN.json
//
// The plan: chromium (path), arguments (more of Chromium's), folder (for downloads and pictures), log (path of Chromium's
// own record of the network; null for none), visits. A visit has an address, optional scripts that run before the page's
// own, and steps: a verb of `verbs` with its arguments. Places are pixels of the image that is shown.

import { readFileSync } from "node:fs";
import { basename, join } from "node:path";
import puppeteer from "puppeteer-core";

const plan = JSON.parse(readFileSync(process.argv[2]));
const seen = { console: [], values: {}, seconds: {}, milliseconds: {} };
const WAIT = { timeout: 100_000 };
let page;

const verbs = {
  /** Drop files on the page, as a person does, and wait for the first one's mask. */
  async drop(paths, waits = true) {
    const start = performance.now();
    await page.evaluate(
      (files) => {
        delete document.documentElement.dataset.seconds;
        const transfer = new DataTransfer();
        for (const [name, encoded] of files) transfer.items.add(new File([Uint8Array.from(atob(encoded), (each) => each.charCodeAt(0))], name));
        document.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
      },
      paths.map((path) => [basename(path), readFileSync(path).toString("base64")]),
    );
    if (!waits) return;
    const inWorker = await answered("seconds");
    seen.seconds[basename(paths[0])] = { inWorker, fromDrop: (performance.now() - start) / 1000 };
  },
  /** Drop files that the page must refuse, and keep what it says. */
  async refuse(path) {
    await verbs.drop([path], false);
    await page.waitForFunction((name) => document.getElementById("name").textContent === name && !document.getElementById("stopped").hidden, WAIT, basename(path));
    await verbs.note(basename(path), "document.getElementById('why').textContent");
  },
  /** Drop a file that the page may refuse: either its mask is saved, or what the page says is kept. */
  async offer(path) {
    const name = basename(path);
    await verbs.drop([path], false);
    const ready = "!document.getElementById('stage').hidden";
    const refused = "!document.getElementById('stopped').hidden";
    await page.waitForFunction(`document.getElementById("name").textContent === ${JSON.stringify(name)} && (${ready} || ${refused})`, WAIT);
    if (await page.evaluate(ready)) await verbs.save("mask", `saved-${name}`);
    else await verbs.note(name, "document.getElementById('why').textContent");
  },
  async shows(name) {
    await page.waitForFunction((wanted) => document.getElementById("name").textContent === wanted && !document.getElementById("stage").hidden, WAIT, name);
  },
  /** Click on a place, `name` the mask that comes, and keep how long it took. */
  async click(x, y, name, button = "left") {
    await page.mouse.click(...(await onScreen(x, y)), { button });
    seen.milliseconds[name] = await answered("milliseconds");
  },
  async drag(places, name) {
    const [first, ...rest] = await Promise.all(places.map(([x, y]) => onScreen(x, y)));
    await page.mouse.move(...first);
    await page.mouse.down();
    for (const place of rest) await page.mouse.move(...place);
    await page.mouse.up();
    seen.milliseconds[name] = await answered("milliseconds");
  },
  async touch(places, name) {
    const [first, ...rest] = await Promise.all(places.map(([x, y]) => onScreen(x, y)));
    await page.touchscreen.touchStart(...first);
    for (const place of rest) await page.touchscreen.touchMove(...place);
    await page.touchscreen.touchEnd();
    seen.milliseconds[name] = await answered("milliseconds");
  },
  async key(keys, name = null) {
    for (const key of keys) await page.keyboard.press(key);
    if (name !== null) seen.milliseconds[name] = await answered("milliseconds");
  },
  /** Go on with Tab until an element has the focus, as one does without a mouse. */
  async tabTo(selector) {
    for (let count = 0; count < 60; count++) {
      await page.keyboard.press("Tab");
      if (await page.evaluate((wanted) => document.activeElement.matches(wanted), selector)) return;
    }
    throw new Error(`Tab does not lead to ${selector}`);
  },
  /** Press a button of the page; `name` the mask that comes of it, if one does. */
  async press(selector, name = null) {
    await page.click(selector);
    if (name !== null) seen.milliseconds[name] = await answered("milliseconds");
  },
  async mask(name = null) {
    const inWorker = await answered("seconds");
    if (name !== null) seen.seconds[name] = { inWorker };
  },
  async wait(condition) {
    await page.waitForFunction(condition, WAIT);
  },
  /** Save by a button or, focused, by a key, and wait for the file in a folder of this name. */
  async save(kind, name, key = null) {
    const button = `[data-save="${kind}"]`;
    await page.waitForSelector(`${button}:enabled`, WAIT);
    const session = await page.createCDPSession();
    await session.send("Browser.setDownloadBehavior", { behavior: "allow", downloadPath: join(plan.folder, name), eventsEnabled: true });
    const done = new Promise((resolve) => session.on("Browser.downloadProgress", ({ state }) => state === "completed" && resolve()));
    if (key) await page.keyboard.press(key);
    else await page.$eval(button, (each) => each.click());
    await done;
    await session.detach();
  },
  async note(name, expression) {
    seen.values[name] = await page.evaluate(expression);
  },
  async size(width, height, dark = false) {
    await page.setViewport({ width, height });
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }]);
  },
  async picture(name, whole = false) {
    await page.screenshot({ path: join(plan.folder, name), fullPage: whole });
  },
  /** Wait until the page says that it cannot work. */
  async failure(name) {
    await page.waitForFunction("!document.getElementById('failure').hidden", WAIT);
    await verbs.note(name, "document.getElementById('failure').textContent.trim()");
  },
};

/** Where a pixel of the image is on the screen. */
async function onScreen(x, y) {
  const [width, height] = (await page.$eval("#size", (each) => each.textContent)).split(" × ").map(Number);
  const box = await (await page.$("#stage")).boundingBox();
  return [box.x + ((x + 0.5) * box.width) / width, box.y + ((y + 0.5) * box.height) / height];
}

/** Wait for what the page measured last. */
async function answered(key) {
  const handle = await page.waitForFunction((name) => document.documentElement.dataset[name], WAIT, key);
  const value = Number(await handle.jsonValue());
  await page.evaluate((name) => delete document.documentElement.dataset[name], key);
  return value;
}

const browser = await puppeteer.launch({
  executablePath: plan.chromium,
  headless: true,
  // Names of other hosts lead nowhere, and every attempt is recorded.
  args: ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", ...(plan.log ? [`--log-net-log=${plan.log}`] : []), ...plan.arguments],
});
try {
  for (const { address, scripts = [], steps } of plan.visits) {
    page = await browser.newPage();
    await page.setViewport({ width: 1280, height: 800 });
    page.on("console", (message) => ["error", "warn"].includes(message.type()) && seen.console.push(message.text()));
    page.on("pageerror", (error) => seen.console.push(String(error)));
    for (const script of scripts) await page.evaluateOnNewDocument(script);
    await page.goto(address);
    for (const [verb, ...given] of steps) {
      try {
        await verbs[verb](...given);
      } catch (error) {
        throw new Error(`${JSON.stringify([verb, ...given])}: ${error.message}`);
      }
    }
    await page.close();
  }
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
