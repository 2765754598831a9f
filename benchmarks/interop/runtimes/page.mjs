// What page.html does: the job of /job with the runtime that the address names; sends what comes of it back.

import * as contract from "./contract.mjs";
import * as plain from "./plain_graph.mjs";
import * as transformers from "./transformers_js.mjs";

const bytes = async (path) => new Uint8Array(await (await fetch(path)).arrayBuffer());
const send = (path, body) => fetch(path, { method: "POST", body });

const openers = {
  web: async (model) => {
    const ort = await import("/installed/onnxruntime-web/dist/ort.wasm.bundle.min.mjs");
    ort.env.wasm.wasmPaths = "/installed/onnxruntime-web/dist/";
    const externalData = [{ path: "model.onnx_data", data: await bytes(`${model}/onnx/model.onnx_data`) }];
    const config = await (await fetch(`${model}/config.json`)).json();
    return plain.open(ort, await bytes(`${model}/onnx/model.onnx`), config, { externalData });
  },
  transformers: async (model) => {
    const library = await import("/installed/@huggingface/transformers/dist/transformers.web.min.js");
    library.env.localModelPath = "/models/";
    library.env.allowLocalModels = true;
    library.env.useBrowserCache = false;
    library.env.backends.onnx.wasm.wasmPaths = "/installed/onnxruntime-web/dist/";
    return transformers.open(library, model.split("/").at(-1));
  },
};

try {
  const job = await (await fetch("/job")).json();
  const runtime = await openers[new URLSearchParams(location.search).get("runtime")](job.model);
  const { result, logits } = await contract.run(job, runtime);
  if (logits) await send("/logits.bin", new Blob(logits));
  await send("/result.json", JSON.stringify(result));
} catch (error) {
  await send("/failure", String(error?.message ?? error));
}
