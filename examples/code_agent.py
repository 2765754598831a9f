"""Let a model run Python and read files, in turns: code_agent.py MODEL-DIR FOLDER QUESTION; alone, a small demo."""

import sys
from functools import cache
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import q3edge
from q3edge.evaluation.sandbox.sandbox import Sandbox
from q3edge.runtime.text.tool_calls import CalledTool

MOST_TURNS, LONGEST_RESULT = 8, 10_000
sandbox = cache(Sandbox.open)  # opened for the first program; an error where the kernel contains none


def tool(name: str, description: str, argument: str) -> dict:
    """Describe a tool that takes one text, as OpenAI's API does."""
    parameters = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS = [tool("run_python", "Run a Python program and return what it prints.", "code"),
         tool("read_file", "Read a text file of the folder.", "path")]  # fmt: skip


def use(call: CalledTool, folder: Path) -> str:
    """Do what a call asks for; whatever goes wrong is told to the model."""
    try:
        if call.name == "run_python":
            printed = sandbox().run(call.parsed["code"])
            return (printed.text + printed.failure)[:LONGEST_RESULT]
        if call.name != "read_file":
            raise ValueError(f"there is no tool {call.name}")
        path = (folder / call.parsed["path"]).resolve()  # where every link and .. leads
        if not path.is_relative_to(folder) or not path.is_file():
            raise ValueError("the folder has no such file")
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(LONGEST_RESULT)
    except (KeyError, OSError, TypeError, ValueError, q3edge.Q3EdgeError) as error:
        return f"error: {error}"


def answer(model: q3edge.Model, question: str, folder: Path, **settings: object) -> str:
    """Answer a question, by as many calls of tools as it takes."""
    messages = [{"role": "user", "content": question}]
    for _ in range(MOST_TURNS):
        completion = model.chat(messages, settings, tools=TOOLS)
        if not completion.tool_calls:
            return completion.answer.strip()
        messages.append(completion.message())
        for call, sent in zip(completion.tool_calls, messages[-1]["tool_calls"]):
            result = use(call, folder.resolve())
            print(f"{call.name} {call.arguments}: {result!r}")
            messages.append({"role": "tool", "tool_call_id": sent["id"], "content": result})
    return f"no answer after {MOST_TURNS} turns"


if __name__ == "__main__":
    with TemporaryDirectory() as name:
        if len(sys.argv) == 1:  # the embedded model, which is too small to call tools
            q3edge.build(str(files("q3edge.data") / "demo_model"), Path(name) / "model", "int8", max_tokens=256)
        artifact, folder, question = sys.argv[1:] or (Path(name) / "model", name, "What is 12 + 30?")
        with q3edge.load(artifact) as model:
            print(question, answer(model, question, Path(folder), max_new_tokens=2048))
