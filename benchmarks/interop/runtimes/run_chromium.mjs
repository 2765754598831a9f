// A runtime in headless Chromium: node run_chromium.mjs RUNTIME JOB OUT ENVIRONMENT; RUNTIME: web or transformers.
// Serves the page, the runtime's package and the model on a port of this machine, until the page has sent its result.

import { spawn } from "node:child_process";
import { createReadStream, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { basename, dirname, extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

const [runtime, jobFile, out, environment] = process.argv.slice(2);
const job = JSON.parse(readFileSync(jobFile));
const scripts = dirname(fileURLToPath(import.meta.url));
const served = { scripts, installed: join(environment, "node_modules"), models: dirname(job.folder) };
const types = { ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm" };

function answer(request, response) {
  const path = normalize(decodeURIComponent(new URL(request.url, "http://localhost").pathname));
  if (request.method === "POST") return receive(request, response, path);
  if (path === "/job") return response.end(JSON.stringify({ ...job, model: `/models/${basename(job.folder)}` }));
  const [, top, ...rest] = path.split("/");
  const stream = createReadStream(join(served[top] ?? scripts, ...rest));
  stream.on("error", () => response.writeHead(404).end());
  stream.on("open", () => response.writeHead(200, { "Content-Type": types[extname(path)] ?? "application/octet-stream" }));
  stream.pipe(response);
}

async function receive(request, response, path) {
  const parts = [];
  for await (const part of request) parts.push(part);
  response.end();
  const body = Buffer.concat(parts);
  if (path === "/failure") return finish(body.toString() || "failed without a word");
  writeFileSync(join(out, basename(path)), body);
  if (path === "/result.json") finish();
}

const profile = mkdtempSync(join(tmpdir(), "interop-"));
const server = createServer(answer).listen(0, "127.0.0.1", () => {
  const page = `http://127.0.0.1:${server.address().port}/scripts/page.html?runtime=${runtime}`;
  const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"];
  browser = spawn("chromium", [...flags, "--enable-logging=stderr", `--user-data-dir=${profile}`, page], {
    stdio: "inherit",
  });
  browser.on("error", (error) => finish(String(error)));
  browser.on("exit", (code) => finish(`Chromium ended with ${code} before the page had a result`));
});
let browser;
let finished = false;

function finish(failure) {
  if (finished) return;
  finished = true;
  browser?.once("exit", () => {
    rmSync(profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
    if (failure) console.error(`\n${failure}`);
    process.exit(failure ? 1 : 0);
  });
  if (browser?.exitCode === null) browser.kill();
  else browser?.emit("exit");
}
