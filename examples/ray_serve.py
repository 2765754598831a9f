"""Serve a model by replicas on Ray (docs/serving.md has the commands); without arguments, a small demo of two."""

import json
import socket
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import Request, urlopen

import ray
from pydantic import BaseModel
from ray import serve
from ray.serve.config import RequestRouterConfig

import q3edge
from q3edge.server.app import hosted_app
from q3edge.server.options import ServerOptions, read_keys

# Requests with the same header x-session-id go to the same replica, where what they begin with is cached.
STICKY = RequestRouterConfig(request_router_class="ray.serve.experimental.consistent_hash_router:ConsistentHashRouter")


class Settings(BaseModel):
    """What `serve run` takes as NAME=VALUE: threads of one replica, a file of keys, a name that clients may use."""

    folder: str
    replicas: int = 2
    threads: int = 1
    keys: str | None = None  # needed where Ray listens to other machines
    host: str = "127.0.0.1"


def application(given: Settings) -> serve.Application:
    """Make the application: each replica has the model, and all endpoints of `q3edge serve`."""
    keys = read_keys(Path(given.keys)) if given.keys else ()
    options = ServerOptions({"model": Path(given.folder).resolve()}, given.host, keys=keys, threads=given.threads)

    def replica():  # called in each replica
        return hosted_app(options)

    return serve.deployment(
        name="q3edge", num_replicas=given.replicas, ray_actor_options={"num_cpus": given.threads},
        request_router_config=STICKY, max_ongoing_requests=2 * options.max_batch,  # further ones go to the next replica
    )(serve.ingress(replica)()).bind()  # fmt: skip


def say(port: int, session: str, messages: list) -> dict:
    """Send a conversation, and return the answer."""
    header = {"Content-Type": "application/json", "X-Session-Id": session}
    body = json.dumps({"messages": messages, "temperature": 0, "reasoning_effort": "none"}).encode()
    with urlopen(Request(f"http://127.0.0.1:{port}/v1/chat/completions", body, header)) as answer:
        return json.load(answer)


def demo() -> None:
    """Build the embedded model, and hold four conversations with two replicas of it."""
    with TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        listener.close()
        q3edge.build(str(files("q3edge.data") / "demo_model"), Path(name) / "model", "int8", max_tokens=256)
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
        serve.start(http_options={"port": port}, logging_config={"log_level": "ERROR"})
        serve.run(application(Settings(folder=f"{name}/model")))
        for animal in ("cat", "dog", "cow", "pig"):
            turns = [{"role": "user", "content": f"What sound does a {animal} make?"}]
            turns.append(say(port, animal, turns)["choices"][0]["message"])
            again = say(port, animal, [*turns, {"role": "user", "content": "What is 3 + 4?"}])
            cached = again["usage"]["prompt_tokens_details"]["cached_tokens"]
            print(f"{animal}: {again['choices'][0]['message']['content']}, {cached} tokens were cached")
        serve.shutdown()


if __name__ == "__main__":
    demo()
