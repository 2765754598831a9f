"""`Page`: a page in headless Chromium, driven by the DevTools protocol over two pipes. Needs Chromium, and Linux."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# --no-sandbox because tests may run as root.
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--no-first-run",
)  # fmt: skip
_PATIENCE = 60.0  # seconds until what never happens is a failure
_PIPES = 'exec "$0" "$@" 3<&{commands} 4>&{replies}'

Json = dict[str, Any]


class Page:
    """One tab. complaints: what its console has said, and exceptions that no script has caught."""

    def __init__(self, commands: int, replies: int) -> None:
        """Open an empty tab by the pipes of a browser."""
        self.complaints: list[str] = []
        self.on_request: Callable[[Json], Json | None] | None = None  # answers requests in place of the network
        self._commands, self._replies = os.fdopen(commands, "wb", buffering=0), os.fdopen(replies, "rb")
        self._held, self._number, self._session = b"", 0, None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> Json:
        """Send a command and wait for its result; events meanwhile are handled."""
        number = self._post(method, params)
        while True:
            message = self._read()
            if message.get("id") == number:
                assert "error" not in message, (method, message)
                result: Json = message["result"]
                return result
            self._handle(message)

    def open(self, url: str) -> None:
        """Go to a page; returns when its scripts have run."""
        self.send("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def value(self, expression: str) -> Any:
        """Value of an expression, a promise's once it has one."""
        given = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in given, given
        return given["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression holds."""
        end = time.monotonic() + _PATIENCE
        while not self.value(f"Boolean({expression})"):
            assert time.monotonic() < end, (expression, self.complaints)
            time.sleep(0.02)

    def type(self, text: str) -> None:
        """Put text where the focus is, as a keyboard or another input method does."""
        self.send("Input.insertText", text=text)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key."""
        code = {"Enter": 13, "Escape": 27, "Tab": 9}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        self.send("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def click(self, selector: str) -> None:
        """Click into the middle of an element."""
        place = f"document.querySelector({json.dumps(selector)})"
        self.wait(f"{place}?.checkVisibility() ?? false")
        x, y = self.value(
            f"(() => {{ const each = {place}; each.scrollIntoView({{block: 'nearest'}});"
            "const box = each.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def emulate(self, *, width: int, height: int = 700, phone: bool = False, dark: bool = False) -> None:
        """Make it a screen of a size in CSS pixels, of a phone that is touched or not, in a system's colours."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.send("Emulation.setTouchEmulationEnabled", enabled=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def answer_requests(self, pattern: str, answer: Callable[[Json], Json | None]) -> None:
        """Have `answer` make the responses to requests of a URL pattern; None lets one through."""
        self.on_request = answer
        self.send("Fetch.enable", patterns=[{"urlPattern": pattern}])

    def screenshot(self, path: Path) -> None:
        """Write what is seen as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))

    def _post(self, method: str, params: Json) -> int:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        return self._number

    def _read(self) -> Json:
        while b"\0" not in self._held:
            data = os.read(self._replies.fileno(), 1 << 16)
            assert data, "the browser has ended"
            self._held += data
        line, _, self._held = self._held.partition(b"\0")
        message: Json = json.loads(line)
        return message

    def _handle(self, message: Json) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Fetch.requestPaused":
            assert self.on_request is not None
            answer = self.on_request(params["request"])
            request = {"requestId": params["requestId"]}
            if answer is None:
                self._post("Fetch.continueRequest", request)
            else:
                self._post("Fetch.fulfillRequest", request | answer)
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(params["exceptionDetails"].get("exception", {}).get("description", "?"))
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(str(params["args"]))
        elif method == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])


@contextmanager
def opened_browser(profile: Path) -> Iterator[Page]:
    """A browser with a new profile and one tab; it ends with the block."""
    assert CHROMIUM is not None
    (their_commands, commands), (replies, their_replies) = os.pipe(), os.pipe()
    pipes = _PIPES.format(commands=their_commands, replies=their_replies)
    browser = subprocess.Popen(
        ["/bin/sh", "-c", pipes, CHROMIUM, *OPTIONS, "--remote-debugging-pipe", f"--user-data-dir={profile}"],
        pass_fds=(their_commands, their_replies), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(their_commands)
    os.close(their_replies)
    try:
        yield Page(commands, replies)
    finally:
        for pipe in (commands, replies):
            with suppress(OSError):
                os.close(pipe)
        browser.kill()
        browser.wait(30)
