// A runtime in Node: node run_node.mjs RUNTIME JOB OUT ENVIRONMENT; RUNTIME: node, web or transformers.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import * as contract from "./contract.mjs";
import * as plain from "./plain_graph.mjs";
import * as transformers from "./transformers_js.mjs";

const [runtime, jobFile, out, environment] = process.argv.slice(2);
const job = JSON.parse(readFileSync(jobFile));
const config = JSON.parse(readFileSync(join(job.folder, "config.json")));
const graph = join(job.folder, "onnx", "model.onnx");
const installed = createRequire(join(environment, "package.json"));
const load = async (name) => {
  const found = await import(pathToFileURL(installed.resolve(name)));
  return found.default ?? found;
};

const openers = {
  node: async () => {
    const exact = readFileSync("/proc/cpuinfo", "utf8").includes("vnni") ? "0" : "1"; // int8 sums
    return plain.open(await load("onnxruntime-node"), graph, config, { extra: { session: { x64quantprecision: exact } } });
  },
  web: async () => {
    const data = [{ path: "model.onnx_data", data: new Uint8Array(readFileSync(`${graph}_data`)) }];
    return plain.open(await load("onnxruntime-web/wasm"), readFileSync(graph), config, { externalData: data });
  },
  transformers: async () => {
    const library = await load("@huggingface/transformers");
    library.env.localModelPath = dirname(job.folder);
    return transformers.open(library, basename(job.folder));
  },
};

try {
  const { result, logits } = await contract.run(job, await openers[runtime]());
  if (logits) writeFileSync(join(out, "logits.bin"), Buffer.concat(logits.map((rows) => Buffer.from(rows.buffer))));
  writeFileSync(join(out, "result.json"), JSON.stringify(result));
  process.exit(0); // threads of a runtime may outlive its work
} catch (error) {
  console.error(`\n${error?.message ?? error}`);
  process.exit(1);
}
