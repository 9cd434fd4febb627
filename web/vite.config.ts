import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { defaultClientConditions, defineConfig, type Plugin } from "vite";

const OUTPUT = join(import.meta.dirname, "../msformer_deploy/web/static");
const RUNTIMES = { runtime: "", webgpu: ".jspi" }; // by the name of the page's file: what ONNX Runtime's file has

/** A hash of all that the page is built from, so that a test sees when the built files are older. */
function sources(): string {
  const files = ["index.html", "package-lock.json", "vite.config.ts"];
  for (const each of readdirSync(join(import.meta.dirname, "src"), { recursive: true, withFileTypes: true })) {
    if (each.isFile()) files.push(join(each.parentPath, each.name).slice(import.meta.dirname.length + 1));
  }
  const hash = createHash("sha256");
  for (const file of files.sort()) hash.update(`${file}\0`).update(readFileSync(join(import.meta.dirname, file)));
  return hash.digest("hex");
}

/** The licences of all packages that may be in the page: none of them may be left out where it is handed on. */
function licences(): string {
  const lock = JSON.parse(readFileSync(join(import.meta.dirname, "package-lock.json"), "utf8"));
  const parts = Object.entries<{ dev?: boolean; optional?: boolean; license?: string }>(lock.packages).flatMap(([place, { dev, optional, license }]) => {
    if (!place || dev || optional) return [];
    const folder = join(import.meta.dirname, place);
    const file = readdirSync(folder).find((name) => /^licen[cs]e/i.test(name));
    const text = file ? readFileSync(join(folder, file), "utf8").trim() : `Licence: ${license}`;
    return [`${place.replace(/^.*node_modules\//, "")}\n\n${text}\n`];
  });
  return parts.join(`\n${"-".repeat(80)}\n\n`);
}

/** ONNX Runtime beside the page: its modules as they are, their WebAssembly packed, which is a quarter of 14 or 17 MB. */
function runtimes(): Plugin {
  return {
    name: "runtimes",
    apply: "build",
    closeBundle() {
      const entries = Object.entries(RUNTIMES).map(([name, suffix]) => {
        const file = join(import.meta.dirname, `node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded${suffix}`);
        const wasm = readFileSync(`${file}.wasm`);
        writeFileSync(join(OUTPUT, `${name}.js`), readFileSync(`${file}.mjs`));
        writeFileSync(join(OUTPUT, `${name}.wasm.gz`), gzipSync(wasm, { level: 9 }));
        return [name, { sha256: createHash("sha256").update(wasm).digest("hex"), bytes: wasm.length }];
      });
      writeFileSync(join(OUTPUT, "licences.txt"), licences());
      writeFileSync(join(OUTPUT, "built.json"), `${JSON.stringify({ sources: sources(), runtimes: Object.fromEntries(entries) }, null, 2)}\n`);
    },
  };
}

export default defineConfig({
  base: "./",
  plugins: [runtimes()],
  // ONNX Runtime's module that does not bring its WebAssembly along.
  resolve: { conditions: ["onnxruntime-web-use-extern-wasm", ...defaultClientConditions] },
  build: { outDir: OUTPUT, emptyOutDir: true, target: "es2022", modulePreload: false, reportCompressedSize: false, chunkSizeWarningLimit: 800 },
  worker: { format: "es" },
  test: { include: ["test/**/*.test.ts"] },
} as Parameters<typeof defineConfig>[0]);
