"""What the package's page shows of the README: links that work away from the repository.

scikit-build-core asks `dynamic_metadata` for the readme and the addresses when it builds
(pyproject.toml, `tool.scikit-build.metadata`). With SPINALNET_REPOSITORY, the address of the
repository, links lead to the files of this version there (of the branch main, if it is one between
releases). Without it they are words: a link that leads nowhere is none.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAPER = "https://arxiv.org/abs/2007.03347"
_LINK = re.compile(r"(?P<image>!?)\[(?P<words>[^\]]*)\]\((?P<place>[^)\s]+)\)")


def dynamic_metadata(field: str, settings: Any = None, project: Any = None) -> Any:
    """Return the field `readme` or `urls` of the project."""
    repository = os.environ.get("SPINALNET_REPOSITORY", "").rstrip("/")
    if field == "readme":
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        return {"content-type": "text/markdown", "text": page(text, repository, place())}
    if field == "urls":
        return addresses(repository)
    raise ValueError(f"there is nothing to say of the field {field}")


def version() -> str:
    """Return the version, which stands in one place."""
    source = (ROOT / "src" / "spinalnet" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', source, flags=re.MULTILINE)
    assert found is not None
    return found[1]


def place() -> str:
    """Return the tag of the version, or the branch where one between releases has none."""
    return "main" if ".dev" in version() else f"v{version()}"


def addresses(repository: str) -> dict[str, str]:
    """Return the addresses that stand beside the page, by their titles."""
    paper = {"Paper": PAPER}
    if not repository:
        return paper
    return {
        "Repository": repository,
        "Documentation": f"{repository}/blob/{place()}/docs/index.md",
        "Changelog": f"{repository}/blob/{place()}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
        **paper,
    }


def page(text: str, repository: str, place: str) -> str:
    """Return Markdown with the links to files beside it led to the repository, or taken off.

    Args:
        text: The README. What stands in fenced code stays as it is.
        repository: Address of the repository; empty if there is none.
        place: The tag or branch whose files are meant.
    """

    def lead(match: re.Match[str]) -> str:
        image, words, path = match["image"], match["words"], match["place"]
        if re.match(r"[a-z]+:|#", path):
            return match[0]
        if not repository:
            return f"*{words}*" if image else words
        kind = "raw" if image else "blob"
        return f"{image}[{words}]({repository}/{kind}/{place}/{path})"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if i % 2 else _LINK.sub(lead, part) for i, part in enumerate(parts))
