"""The runtimes that were tried with exported folders, and how each loads one: the one table of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime. versions: that were tried; int8_cache: models with an int8 KV cache run too.

    experts: versions that run a mixture of experts as onnxruntime's operator QMoE too; empty: none does.
    lines: code in `language` (python or js) that loads the folder which it is run in.
    """

    name: str
    versions: str
    language: str
    lines: str
    int8_cache: bool = True
    experts: str = ""

    @property
    def code(self) -> str:
        """The lines as a block of Markdown."""
        return f"```{self.language}\n{self.lines}\n```"


EXACT_SUMS = (
    "On x86 CPUs without VNNI, onnxruntime adds up int8 products inexactly unless the session's option "
    "`session.x64quantprecision` is `1`; q3edge and genai_config.json set it. Releases before 1.31 abort with it."
)
INT8_CACHE = "An int8 KV cache needs onnxruntime 1.29 or newer."
EXPERTS = "Experts are one operator, QMoE, as onnxruntime has it from 1.31 on."
RUNTIMES = (
    Runtime(
        "onnxruntime-genai", "0.18.0", "python",
        """import onnxruntime_genai as og

model = og.Model(".")
tokenizer = og.Tokenizer(model)""",
        experts="0.18.0 with onnxruntime 1.32",
    ),
    Runtime(
        "optimum-onnx", "0.1.0 with transformers 4.57", "python",
        """from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = ORTModelForCausalLM.from_pretrained(".")
model.embed_size_per_head = model.config.head_dim  # it would take hidden_size / num_attention_heads""",
        int8_cache=False,
    ),
    Runtime(
        "transformers.js", "4.3.2, in Node and in Chromium", "js",
        """import { AutoModelForCausalLM, AutoTokenizer, env } from "@huggingface/transformers";

env.allowRemoteModels = false;
env.allowLocalModels = true; // the default in Node
env.localModelPath = ".."; // in a browser an address: "/models/"
const folder = "FOLDER"; // the name of this one
const tokenizer = await AutoTokenizer.from_pretrained(folder);
const model = await AutoModelForCausalLM.from_pretrained(folder);""",
        int8_cache=False,
    ),
    Runtime(
        "onnxruntime", "1.26 to 1.32", "python",
        """import onnxruntime as ort

session = ort.InferenceSession("onnx/model.onnx", providers=["CPUExecutionProvider"])""",
        experts="1.31 and 1.32",
    ),
    Runtime(
        "onnxruntime-node", "1.30.0", "js",
        """import * as ort from "onnxruntime-node";

const session = await ort.InferenceSession.create("onnx/model.onnx");""",
    ),
    Runtime(
        "onnxruntime-web", "1.30.0, in Node and in Chromium", "js",
        """import * as ort from "onnxruntime-web/wasm";

const bytes = async (name) => new Uint8Array(await (await fetch(name)).arrayBuffer());
const externalData = [{ path: "model.onnx_data", data: await bytes("onnx/model.onnx_data") }];
const session = await ort.InferenceSession.create(await bytes("onnx/model.onnx"), { externalData });""",
    ),
    Runtime(
        "OpenVINO", "2026.4.1, its ONNX frontend", "python",
        """import openvino

model = openvino.compile_model("onnx/model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})""",
        int8_cache=False,
    ),
    Runtime(
        "OpenVINO's execution provider", "onnxruntime-openvino 1.24.1", "python",
        """import onnxruntime as ort

session = ort.InferenceSession("onnx/model.onnx", providers=["OpenVINOExecutionProvider"])""",
        int8_cache=False,
    ),
)  # fmt: skip
