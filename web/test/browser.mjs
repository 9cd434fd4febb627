// Drives the page in a real Chromium, and prints what it saw as JSON: node browser.mjs PLAN.json
//
// The plan: chromium (path), url, image (path), point ([x, y] to click, in pixels of the image), others (paths of other images), bad (paths of files that
// the page must refuse), damaged (address of a page whose hashes are wrong), folder (for downloads and pictures), log
// (path of Chromium's own record of the network).

import { readFileSync } from "node:fs";
import { basename, join } from "node:path";
import puppeteer from "puppeteer-core";

const plan = JSON.parse(readFileSync(process.argv[2]));
const seen = { console: [], messages: {}, saved: [], isolated: false };
const WAIT = { timeout: 60_000 };

async function open(browser, url) {
  const page = await browser.newPage();
  await page.setViewport({ width: 1280, height: 800 });
  page.on("console", (message) => ["error", "warn"].includes(message.type()) && seen.console.push(message.text()));
  page.on("pageerror", (error) => seen.console.push(String(error)));
  await page.goto(url);
  return page;
}

function failure(page) {
  const visible = (id) => `!document.getElementById("${id}").hidden && document.getElementById("${id}").textContent.trim()`;
  return page.waitForFunction(`${visible("failure")} || ${visible("stopped")} && document.getElementById("why").textContent`, WAIT);
}

/** Drop a file on the page, as a person does. */
async function drop(page, path) {
  const content = readFileSync(path).toString("base64");
  await page.evaluate(
    (name, encoded) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([Uint8Array.from(atob(encoded), (each) => each.charCodeAt(0))], name));
      document.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
    },
    basename(path),
    content,
  );
}

async function answered(page, key) {
  const handle = await page.waitForFunction((name) => document.documentElement.dataset[name], WAIT, key);
  const value = Number(await handle.jsonValue());
  await page.evaluate((name) => delete document.documentElement.dataset[name], key);
  return value;
}

/** Save, and wait for the file. */
async function save(page, kind, name) {
  const session = await page.createCDPSession();
  const folder = join(plan.folder, name);
  await session.send("Browser.setDownloadBehavior", { behavior: "allow", downloadPath: folder, eventsEnabled: true });
  const done = new Promise((resolve) => session.on("Browser.downloadProgress", ({ state }) => state === "completed" && resolve()));
  await page.click(`[data-save="${kind}"]`);
  await done;
  seen.saved.push(name);
}

async function work(page) {
  seen.isolated = await page.evaluate(() => crossOriginIsolated);
  const start = performance.now();
  await drop(page, plan.image);
  seen.seconds = await answered(page, "seconds");
  seen.fromDrop = (performance.now() - start) / 1000;
  await save(page, "mask", "mask");
  await page.waitForSelector('[data-save="labels"]:enabled');
  await save(page, "labels", "labels");
  await save(page, "coco", "coco");
  await page.screenshot({ path: join(plan.folder, "desktop.png") });
  const [width, height] = (await page.$eval("#size", (each) => each.textContent)).split(" × ").map(Number);
  const box = await (await page.$("#stage")).boundingBox();
  const [x, y] = [box.x + ((plan.point[0] + 0.5) * box.width) / width, box.y + ((plan.point[1] + 0.5) * box.height) / height];
  await page.mouse.click(x, y);
  seen.milliseconds = await answered(page, "milliseconds");
  await save(page, "mask", "corrected");
  await page.screenshot({ path: join(plan.folder, "corrected.png") });
  await page.keyboard.press("z");
  await answered(page, "milliseconds");
  await save(page, "mask", "undone");
}

const browser = await puppeteer.launch({
  executablePath: plan.chromium,
  headless: true,
  // Names of other hosts lead nowhere, and every attempt is recorded.
  args: ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", `--log-net-log=${plan.log}`],
});
try {
  const page = await open(browser, plan.url);
  await work(page);
  for (const path of plan.others) {
    await drop(page, path);
    await answered(page, "seconds");
    await save(page, "mask", `saved-${basename(path)}`);
  }
  for (const path of plan.bad) {
    await drop(page, path);
    await page.waitForFunction((name) => document.getElementById("name").textContent === name && !document.getElementById("stopped").hidden, WAIT, basename(path));
    seen.messages[basename(path)] = await page.$eval("#why", (each) => each.textContent);
  }
  await page.click("#list li:first-child button");
  await page.setViewport({ width: 390, height: 844 });
  await page.screenshot({ path: join(plan.folder, "phone.png"), fullPage: true });
  seen.messages.damaged = await (await failure(await open(browser, plan.damaged))).jsonValue();
  const without = await browser.newPage();
  await without.evaluateOnNewDocument("delete globalThis.WebAssembly");
  await without.goto(plan.url);
  seen.messages.wasm = await (await failure(without)).jsonValue();
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
