"""Sphinx's settings for the site; `python docs/book.py` (or `make site`) builds it.

The source is the whole repository, so that the links of a page to a result, a script or the
changelog are those that work in the repository; `include_patterns` says what of it becomes a page.
"""

import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

import reference  # noqa: E402

import spinalnet  # noqa: E402

project = "spinalnet"
version = release = spinalnet.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = [
    *("docs/**.md", "docs/**.rst", "examples/README.md"),
    *("CONTRIBUTING.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md", "SECURITY.md", "LOG.md"),
]
exclude_patterns = [".*", "build", "data", "dist", "runs", "results", "src", "tests"]

html_theme = "furo"
html_title = f"spinalnet {release}"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
smartquotes = False  # "--seeds" is two hyphens

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

autodoc_typehints = "description"
default_role = "code"  # docstrings write `names` as Markdown does
napoleon_custom_sections = ["Shape"]


def setup(app: Any) -> None:
    """Write the pages that are made from the package before Sphinx looks for pages."""
    app.connect("builder-inited", lambda _: reference.write(DOCS / "reference"))
