"""A page opened in a real browser, with a script of a test in it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
with_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

BEGIN = """
<script>
const errors = [];
addEventListener("error", (event) => errors.push(event.message));
addEventListener("securitypolicyviolation", (event) => errors.push(event.blockedURI));
</script>
<script src="AXE"></script>
<script>
addEventListener("load", async () => {
  const found = {errors, requests: performance.getEntriesByType("resource").map((r) => r.name)};
  found.overflow = document.documentElement.scrollWidth - innerWidth;
"""
END = """
  const outcome = await axe.run(document, {resultTypes: ["violations"]});
  found.axe = outcome.violations.map((v) => [v.id, v.nodes.length, v.nodes[0].html.slice(0, 200)]);
  const said = document.createElement("pre");
  said.id = "probe";
  said.textContent = JSON.stringify(found);
  document.body.replaceChildren(said);
});
</script>
"""


def browse(
    page: Path, script: str, copy: Path, *, width: int = 1280, dark: bool = False
) -> dict[str, Any]:
    """Open a page in a browser, run a script in it, and return what that has put into `found`.

    Without the script's doing it holds errors, the addresses asked for, how far the page is wider
    than the window, and what axe finds.

    Args:
        page: An HTML file.
        script: JavaScript, run when the page is loaded, before axe.
        copy: Where the page with the script goes.
        width: Of the window, in pixels.
        dark: Whether the reader prefers a dark page.
    """
    axe = Path(str(files("axe_core_python") / "axe.min.js"))
    probe = BEGIN.replace("AXE", axe.as_uri()) + script + END
    text = page.read_text(encoding="utf-8").replace("<head>", "<head>" + probe, 1)
    copy.write_text(text, encoding="utf-8")
    command = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *("--virtual-time-budget=20000", f"--window-size={width},900", "--dump-dom"),
        *(["--blink-settings=preferredColorScheme=0"] if dark else []),
        copy.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    copy.unlink()
    said = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert said, done.stdout[:2000] + done.stderr[-2000:]
    found = json.loads(html.unescape(said[1]))
    found["requests"] = [name for name in found["requests"] if not name.endswith("axe.min.js")]
    return found
