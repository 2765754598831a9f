"""`Page`: a page in headless Chromium, driven by the DevTools protocol over two pipes. Needs Chromium, and Linux."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# --no-sandbox because tests may run as root.
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--no-first-run",
)  # fmt: skip
_PATIENCE = 60.0  # seconds until what never happens is a failure
# Makes two handles the numbers 3 and 4, where a browser expects them, and becomes the browser.
_WITH_PIPES = """
import fcntl, os, sys
for place, handle in enumerate([fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]], 3):
    os.dup2(handle, place)
os.execv(sys.argv[3], sys.argv[3:])
"""

_FAINT = """(() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = rgba(getComputedStyle(element).backgroundColor);
      if (colour[3] === 255) return colour;
    }
  };
  const linear = (part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  const luminance = (colour) => {
    const [red, green, blue] = colour.map((part) => linear(part / 255));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const contrast = (element) => {
    const pair = [rgba(getComputedStyle(element).color), behind(element)].map(luminance);
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  };
  const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const isSeen = (element) => element.checkVisibility() && hasText(element);
  return [...document.querySelectorAll("body *")].filter((each) => isSeen(each) && contrast(each) < 4.5)
    .map((each) => each.outerHTML);
})()"""

Json = dict[str, Any]


class Page:
    """One tab.

    complaints: what its console has said, and exceptions that no script has caught; expected: part of those that a test
    provokes. urls: those asked for; posted: bodies of requests.
    """

    def __init__(self, commands: int, replies: int) -> None:
        """Open an empty tab by the pipes of a browser."""
        self._commands, self._replies = commands, replies
        self._held, self._number = b"", 0
        self._session: str | None = None
        self.renew()

    def renew(self) -> None:
        """Change to an empty tab that knows nothing of those before."""
        self.complaints: list[str] = []
        self.expected = ""
        self.urls: list[str] = []
        self.posted: list[str] = []
        self._session = None
        context = self.send("Target.createBrowserContext")["browserContextId"]
        target = self.send("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> Json:
        """Send a command and wait for its result; events meanwhile are handled."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._commands, data) :]
        while True:
            reply = self._read()
            if reply.get("id") == number:
                assert "error" not in reply, (method, reply)
                result: Json = reply["result"]
                return result
            self._handle(reply)

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

    def faint_texts(self) -> list[str]:
        """HTML of elements in sight with text of a contrast below 4.5, WCAG 2.2's bound."""
        found: list[str] = self.value(_FAINT)
        return found

    def _read(self) -> Json:
        while b"\0" not in self._held:
            data = os.read(self._replies, 1 << 16)
            assert data, "the browser has ended"
            self._held += data
        line, _, self._held = self._held.partition(b"\0")
        message: Json = json.loads(line)
        return message

    def _handle(self, message: Json) -> None:
        method, params = message.get("method"), message.get("params", {})
        if message.get("sessionId") != self._session:
            return  # a tab before this one
        if method == "Network.requestWillBeSent":
            self.urls.append(params["request"]["url"])
            if "postData" in params["request"]:
                self.posted.append(params["request"]["postData"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(params["exceptionDetails"].get("exception", {}).get("description", "?"))
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(str(params["args"]))
        elif method == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])


@contextmanager
def opened_browser(profile: Path) -> Iterator[Page]:
    """A tab of a browser with a new profile; the browser ends with the block."""
    assert CHROMIUM is not None
    (their_commands, commands), (replies, their_replies) = os.pipe(), os.pipe()
    starter = (sys.executable, "-c", _WITH_PIPES, str(their_commands), str(their_replies))
    browser = subprocess.Popen(
        [*starter, CHROMIUM, *OPTIONS, "--remote-debugging-pipe", f"--user-data-dir={profile}"],
        pass_fds=(their_commands, their_replies), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(their_commands)
    os.close(their_replies)
    try:
        yield Page(commands, replies)
    finally:
        os.close(commands)
        os.close(replies)
        browser.kill()
        browser.wait(30)
