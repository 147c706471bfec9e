"""A headless Chromium that is told what to do through pipes, by the DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOUND = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage",
    "--no-first-run", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
_SECONDS = 900  # after which a browser that hangs is ended


class Browser:
    """One tab.

    Attributes:
        requests: addresses that it asked for.
        complaints: what it wrote to the console or logged, exceptions and refusals included.
    """

    def __init__(self, to_browser: int, from_browser: int):
        self._to, self._from = to_browser, os.fdopen(from_browser, "rb")
        self._number, self._session = 0, ""
        self.requests: list[str] = []
        self.complaints: list[str] = []
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self._send(f"{domain}.enable")

    def open(self, page: Path, *, width: int, height: int, scheme: str, media: str = "screen") -> None:
        """Show a file in a window of this size, to a reader who prefers the light or the dark scheme."""
        is_phone = width < 600
        self._send("Emulation.setDeviceMetricsOverride", width=width, height=height, mobile=is_phone,
                   deviceScaleFactor=2 if is_phone else 1)  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._send("Emulation.setEmulatedMedia", media=media, features=features)
        self.requests.clear()
        self.complaints.clear()
        self._send("Page.navigate", url=page.resolve().as_uri())
        while self._read().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page."""
        found = self._send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, path: Path, *, whole: bool = False) -> bytes:
        """A picture of what is to be seen, or of the whole page."""
        taken = self._send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        picture = base64.b64decode(taken["data"])
        path.write_bytes(picture)
        return picture

    def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer)
                return answer.get("result", {})

    def _read(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self._from.read(1)) not in (b"", b"\0"):
            text += byte
        assert byte, "the browser ended"
        message = json.loads(text)
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            self.complaints.append(json.dumps(parameters))
        return message


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Start a browser that keeps what it knows in a folder, and end it."""
    assert FOUND is not None
    reads, to_browser = os.pipe()
    from_browser, writes = os.pipe()
    arguments = [FOUND, *_ARGUMENTS, f"--user-data-dir={folder}", "about:blank"]
    # The protocol takes its messages from descriptor 3 and gives them to 4.
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" 3<&{reads} 4>&{writes}', "bash", "timeout", str(_SECONDS), *arguments],
        pass_fds=(reads, writes), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(reads)
    os.close(writes)
    try:
        yield Browser(to_browser, from_browser)
    finally:
        os.close(to_browser)
        process.terminate()
        process.wait(timeout=30)
