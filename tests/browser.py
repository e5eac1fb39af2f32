"""A page opened in a real browser, with a script of a test in it.

Chromium is asked by its DevTools protocol over a pipe, for a window can be no narrower than 500
pixels, and what was asked for, said and drawn is the browser's to tell.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
with_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

SETTINGS = [(1280, False), (1280, True), (390, False), (390, True)]
"""Widths in pixels, and whether the reader prefers dark pages."""

PROBE = """
(async () => {
  const found = {overflow: document.documentElement.scrollWidth - innerWidth, width: innerWidth};
  SCRIPT
  const outcome = await axe.run(document, {resultTypes: ["violations"]});
  found.axe = outcome.violations.map((v) => [v.id, v.nodes.length, v.nodes[0].html.slice(0, 200)]);
  return found;
})()
"""

_AS_3_AND_4 = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for number, end in zip((3, 4), ends):
    os.dup2(end, number)
os.execvp(sys.argv[3], sys.argv[3:])
"""
"""Starts the browser with the ends of two pipes as it wants them."""


class _Chromium:
    """A browser that is asked over a pipe; leaving the block ends it."""

    def __init__(self, profile: str) -> None:
        (asked, self._ask), (self._hear, answered) = os.pipe(), os.pipe()
        command = [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *("--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"),
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _AS_3_AND_4, str(asked), str(answered), *command],
            pass_fds=(asked, answered),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(asked)
        os.close(answered)
        self._left, self._count = b"", 0
        self.events: list[dict[str, Any]] = []
        self.session: str | None = None

    def __enter__(self) -> _Chromium:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._ask)
        os.close(self._hear)
        self._process.kill()
        self._process.wait()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask for something, and wait for the answer."""
        self._count += 1
        number = self._count
        order = {"id": number, "method": method, "params": params}
        if self.session is not None:
            order["sessionId"] = self.session
        os.write(self._ask, json.dumps(order).encode() + b"\0")
        message = self._until(lambda one: one.get("id") == number)
        assert "error" not in message, (method, message["error"])
        return message["result"]

    def wait_for(self, method: str) -> None:
        """Wait for an event, unless it was told already."""
        if not any(event["method"] == method for event in self.events):
            self._until(lambda one: one.get("method") == method)

    def _until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            while b"\0" not in self._left:
                read = os.read(self._hear, 1 << 20)
                assert read, "the browser has ended"
                self._left += read
            text, _, self._left = self._left.partition(b"\0")
            message = json.loads(text)
            if "method" in message:
                self.events.append(message)
            if wanted(message):
                return message


def browse(
    page: Path,
    script: str = "",
    *,
    width: int = 1280,
    height: int = 844,
    dark: bool = False,
    picture: Path | None = None,
) -> dict[str, Any]:
    """Open a page in a browser, run a script in it, and return what that has put into `found`.

    Without the script's doing it holds the errors that the page told, the addresses it asked for,
    the width it had, how far it is wider than that, and what axe finds.

    Args:
        page: An HTML file.
        script: JavaScript, run when the page is loaded, before axe.
        width: Of what is seen of the page, in pixels; a phone's below 600.
        height: The same.
        dark: Whether the reader prefers a dark page.
        picture: Where what is seen first goes, as a PNG file.
    """
    # What the browser still writes while it ends is in the way of removing its folder.
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    with folder as profile, _Chromium(profile) as browser:
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.call("Target.attachToTarget", targetId=target, flatten=True)
        browser.session = attached["sessionId"]
        for part in ("Page", "Runtime", "Log", "Network"):
            browser.call(f"{part}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.call("Emulation.setEmulatedMedia", features=[scheme])
        browser.events.clear()
        address = page.resolve().as_uri()
        browser.call("Page.navigate", url=address)
        browser.wait_for("Page.loadEventFired")
        if picture is not None:
            drawn = browser.call("Page.captureScreenshot", format="png")["data"]
            picture.write_bytes(base64.b64decode(drawn))
        told = list(browser.events)  # axe is none of the page's doing
        _evaluate(browser, Path(str(files("axe_core_python") / "axe.min.js")).read_text("utf-8"))
        found = _evaluate(browser, PROBE.replace("SCRIPT", script))
    return {**found, "errors": _errors(told), "requests": _requests(told, address)}


def _evaluate(browser: _Chromium, expression: str) -> Any:
    how = {"awaitPromise": True, "returnByValue": True, "userGesture": True}
    done = browser.call("Runtime.evaluate", expression=expression, **how)
    assert "exceptionDetails" not in done, done["exceptionDetails"]
    return done["result"].get("value")


def _errors(events: list[dict[str, Any]]) -> list[str]:
    thrown = [e["params"] for e in events if e["method"] == "Runtime.exceptionThrown"]
    logged = [e["params"]["entry"] for e in events if e["method"] == "Log.entryAdded"]
    said = [e["params"] for e in events if e["method"] == "Runtime.consoleAPICalled"]
    return [
        *(one["exceptionDetails"]["text"] for one in thrown),
        *(one["text"] for one in logged if one["level"] in ("error", "warning")),
        *(str(one["args"]) for one in said if one["type"] in ("error", "warning", "assert")),
    ]


def _requests(events: list[dict[str, Any]], page: str) -> list[str]:
    """Return what was asked for beside the page; what it holds itself is not asked for."""
    asked = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    urls = [one["request"]["url"] for one in asked]
    return [url for url in urls if url != page and not url.startswith("data:")]
