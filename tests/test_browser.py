"""The report page in a real browser: no error, no request, nothing cut off, and what axe finds.

Needs Chromium (`apt install chromium`, or any that is called so); skipped with a word elsewhere.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest

from browser import SETTINGS, browse, with_browser
from spinalnet.comparison.published import Published, PublishedValue
from spinalnet.comparison.report import write_report
from spinalnet.paper.overview import write_overview
from test_report import FIRST, NOISY, OTHER, SIZES, write_comparison, write_outputs

pytestmark = with_browser

LOOK = """
  const table = document.querySelector("#results");
  const column = (k) => [...table.tBodies[0].rows].map((row) => row.cells[k].textContent.trim());
  const heads = [...table.tHead.rows[0].cells];
  const place = heads.findIndex((head) => head.innerText.includes("params"));
  const button = table.tHead.rows[0].cells[place].querySelector("button");
  button.focus();
  found.focused = document.activeElement === button;
  button.click();
  found.descending = column(place);
  found.sort = table.tHead.rows[0].cells[place].getAttribute("aria-sort");
  button.click();
  found.ascending = column(place);
  found.stumps = [...document.querySelectorAll("tbody th")].filter(
    (cell) => cell.scrollWidth > cell.clientWidth + 1).length;
  found.background = getComputedStyle(document.body).backgroundColor;
  const first = document.querySelector("figure svg text");
  found.text = getComputedStyle(first).fill;
"""


FIRST_SCREEN = """
  const below = (element) => element.getBoundingClientRect().bottom - innerHeight;
  const shown = {verdict: ".answer", cost: ".costs", margin: ".margin", picture: "figure svg"};
  found.below = Object.fromEntries(
    Object.entries(shown).map(([name, where]) => [name, below(document.querySelector(where))]));
  found.said = document.querySelector("header").innerText;
  found.cut = {};
  for (const table of document.querySelectorAll("#results, #differences, #probabilities")) {
    const heads = [...table.tHead.rows[0].cells];
    const says = (head) => /answer|minus/.test(head.innerText);
    const last = table.id === "probabilities" ? heads.findIndex(says) : heads.findLastIndex(says);
    const end = (row) => row.cells[last].getBoundingClientRect().right;
    found.cut[table.id] = Math.max(...[...table.rows].map(end)) - innerWidth;
  }
  const letters = [...document.querySelectorAll("figure svg text")];
  found.smallest = Math.min(...letters.map((one) => one.getBoundingClientRect().height));
"""


def look(page: Path, **how: Any) -> dict[str, Any]:
    return browse(page, LOOK, **how)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page with everything on it, and names that would like to be more than names."""
    names = [
        "<script>alert(1)</script>",
        "a" * 90,
        "犬",
        *(f"class {k:02} of a kind" for k in range(7)),
    ]
    folder = write_comparison(
        tmp_path_factory.mktemp("page"),
        {"spinal": FIRST, "mlp": OTHER, "matched": NOISY},
        timing={
            "spinal": {"inference": 90.0, "training": 300.0},
            "mlp": {"inference": 45.0, "training": 150.0},
        },
        class_names=names,
    )
    write_outputs(folder, {"spinal": 2.0, "mlp": 1.0, "matched": 1.5}, seeds=5)
    return write_report(folder)


@pytest.mark.parametrize(("width", "dark"), SETTINGS)
def test_a_browser_shows_the_page_whole_and_axe_finds_nothing(page, width, dark):
    found = look(page, width=width, dark=dark)
    assert found["width"] == width
    assert found["errors"] == []
    assert found["requests"] == []
    assert found["overflow"] <= 0
    assert found["stumps"] == 0
    assert found["axe"] == []
    assert found["text"] != found["background"]
    assert (found["background"] == "rgb(255, 255, 255)") is not dark


def test_many_heads_with_all_their_costs_fit_the_first_screen_and_the_desktop(
    tmp_path, monkeypatch
):
    heads = ["spinal", "unchained", "unchained-matched", "matched", "mlp", "linear", "progressive"]
    ratio = {"ratio": 1.313, "low": 0.977, "high": 12.141}
    of_head: Any = {"inference": 1899.0, "training": 27_580.0, "peak_memory_bytes": 8_640_000}
    ratios = {"inference_ratio": ratio, "training_ratio": ratio}
    timing = {head: of_head | (ratios if head != "spinal" else {}) for head in heads}
    for head in heads:
        monkeypatch.setitem(SIZES, head, (656_898, 656_384))
    folder = write_comparison(tmp_path, dict.fromkeys(heads, NOISY), timing=timing)
    page = write_report(folder)
    phone = browse(page, FIRST_SCREEN, width=390)
    assert max(phone["below"][what] for what in ("verdict", "cost", "margin")) <= 0
    whole = 'const t = document.querySelector("#results"); found.cut = t.scrollWidth - '
    wide = browse(page, whole + "t.parentElement.clientWidth;", width=1280)
    assert wide["cut"] <= 0


@pytest.mark.parametrize(("width", "dark"), SETTINGS)
def test_the_first_screen_tells_verdict_margin_and_cost(page, tmp_path, width, dark):
    picture = tmp_path / "first.png"
    found = browse(page, FIRST_SCREEN, width=width, dark=dark, picture=picture)
    assert max(found["below"][what] for what in ("verdict", "cost", "margin")) <= 0
    for words in ("better than mlp", "0.5× its multiplications", "within 0.5 points"):
        assert words in found["said"]
    assert max(found["cut"].values()) <= 0  # what is compared is in sight without scrolling
    assert found["smallest"] >= 8
    from PIL import Image

    drawn = Image.open(picture).convert("L")
    assert drawn.size == (width, 844)
    assert (drawn.getpixel((2, 2)) > 128) is not dark
    assert len(drawn.getcolors() or []) > 20


def test_tables_sort_by_a_click_and_by_keyboard(page):
    found = look(page)
    numbers = [float(text.replace(",", "") or 0) for text in found["descending"]]
    assert numbers == sorted(numbers, reverse=True)
    assert found["ascending"][-1] == found["descending"][0]
    assert found["sort"] == "descending"
    assert found["focused"]


def test_a_table_is_copied_as_csv_that_no_spreadsheet_runs(page):
    script = """
      navigator.clipboard.writeText = async (text) => { found.copied = text; };
      document.querySelector("#classes tbody th").textContent = '=HYPERLINK("x")';
      const button = document.querySelector("#classes .copy");
      button.click();
      await new Promise((done) => setTimeout(done, 50));
      found.said = button.textContent;
      found.hidden = button.hidden;
      const results = document.querySelector("#results .copy");
      const kept = found.copied;
      results.click();
      await new Promise((done) => setTimeout(done, 50));
      found.results = found.copied;
      found.copied = kept;
    """
    found = browse(page, script)
    assert (found["said"], found["hidden"]) == ("copied", False)
    rows = list(csv.reader(io.StringIO(found["copied"])))
    assert rows[0][:2] == ["class", "test examples"]
    assert rows[1][0] == '\'=HYPERLINK("x")'
    assert [row[0] for row in rows[2:]] == ["1", "2", "3"]
    (_, mlp, *_) = list(csv.reader(io.StringIO(found["results"])))[1:]
    assert (mlp[0], mlp[2]) == ("mlp", "better")
    assert re.fullmatch(r"26\.3 \(18\.1 to 35\.9\)", mlp[1])  # one line, whatever the screen


@pytest.mark.slow
def test_a_page_of_fifty_runs_and_three_hundred_classes_stays_light(tmp_path):
    scores = {"spinal": [0.9] * 20, "mlp": [0.8] * 15, "matched": [0.85] * 15}
    folder = write_comparison(tmp_path, scores, classes=300, epochs=3)
    page = write_report(folder)
    assert page.stat().st_size < 3_000_000
    assert look(page, width=390)["overflow"] <= 0


def test_what_was_published_is_broken_into_lines_and_no_word_leaves_the_screen(tmp_path):
    folder = write_comparison(tmp_path, {"spinal": FIRST, "mlp": OTHER})
    where = "Regression/Regression_NN_and_SpinalNet_of_the_paper.py (docstring); paper, Table I"
    value = PublishedValue("spinal", "the largest accuracy in 200 epochs", 0.97, where)
    Published("a recipe", (), (f"From ({where}).",), (value,), True).save(folder)
    page = write_report(folder)
    script = """
      const area = document.querySelector("#published-values").parentElement;
      found.cut = area.scrollWidth - area.clientWidth;
      const line = document.querySelector("#title-published + p");
      found.long = line.scrollWidth - line.clientWidth;
    """
    assert browse(page, script)["cut"] <= 0
    phone = browse(page, script, width=390)
    assert (phone["long"], phone["overflow"]) == (0, 0)


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_the_page_of_all_recipes_is_whole(tmp_path, width, dark):
    results = Path(__file__).parents[1] / "results" / "recipes"
    page = write_overview(tmp_path / "all.html", results)
    opened = """
      location.hash = "#recipe-mnist-cnn";
      await new Promise((done) => setTimeout(done, 100));
      found.opened = document.getElementById("recipe-mnist-cnn").open;
    """
    found = browse(page, opened, width=width, dark=dark)
    assert found["errors"] == found["requests"] == found["axe"] == []
    assert found["overflow"] <= 0
    assert found["opened"]


def test_axe_would_find_what_is_wrong(page):
    text = page.read_text(encoding="utf-8").replace("--soft: #59636e", "--soft: #c9c9c9")
    spoiled = page.with_name("spoiled.html")
    spoiled.write_text(text.replace('<html lang="en">', "<html>"), encoding="utf-8")
    assert {name for name, *_ in look(spoiled)["axe"]} >= {"color-contrast", "html-has-lang"}
