"""The page of sliders, `docs/explorer.html`: its numbers are those of the package."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from browser import browse, with_browser
from spinalnet.nn import LinearHead, MLPHead, SpinalNet, count_macs, count_params

pytestmark = with_browser
PAGE = Path(__file__).parents[1] / "docs" / "explorer.html"

# inputs, slices, width, layers, outputs; slices beyond the layers, and one odd size
CASES = [
    (320, 2, 8, 6, 10),
    (9, 4, 5, 3, 2),
    (1000, 7, 31, 12, 100),
    (8, 1, 50, 1, 1),
    (5, 9, 2, 9, 3),
]
SCRIPT = """
  const type = (name, text, ...events) => {
    fields[name].number.value = text;
    ["input", ...events].forEach((event) => fields[name].number.dispatchEvent(new Event(event)));
  };
  const shown = (name) => [fields[name].slider.value, fields[name].number.value].map(Number);
  found.numbers = CASES.map((given) => {
    given.forEach((value, k) => type(SIZES[k][0], value));
    return [...document.querySelectorAll("tbody tr")].map((row) => [...row.cells].slice(1, 3)
      .map((cell) => Number(cell.textContent.replaceAll(",", ""))));
  });
  found.widths = CASES.map(([inputs, , , , outputs], k) =>
    equalWidth(inputs, outputs, found.numbers[k][0][1]));
  const read = () => /num_splits=(\\d+)/.exec(document.querySelector("#code").textContent)[1];
  found.followed = [];
  document.querySelector("button").click();
  for (const [name, text] of [["in_features", "5000"], ["out_features", "0"], ["num_splits", "99"],
                              ["num_layers", "2.6"]]) {
    type(name, text);
    found.followed.push(shown(name));
  }
  found.followed.push(shown("num_splits"), [Number(read()), fields.num_splits.slider.max - 0]);
  type("hidden_features", "");
  found.typing = fields.hidden_features.number.value;
  type("hidden_features", "", "change");
  type("num_layers", "12");
  found.followed.push(shown("hidden_features"), shown("num_splits"));
  document.querySelector("button").click();
  found.inputs = ["spinal", "mlp"].map((net) => [...document.querySelectorAll(`#${net} rect`)]
    .filter((bar) => bar.textContent.startsWith("inputs"))
    .reduce((high, bar) => high + Number(bar.getAttribute("height")) + 1, 0));
  found.scale = document.querySelector("#scale").textContent;
  const area = document.querySelector(".scroll");
  found.cut = area.scrollWidth - area.clientWidth;
  SIZES.forEach(([name]) => type(name, 1));
  found.ones = document.querySelector("main").textContent;
  document.querySelector("button").click();
  found.drawn = document.querySelectorAll("svg path").length;
  found.code = document.querySelector("#code").textContent;
"""


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_the_sliders_say_what_the_package_counts(width: int, dark: bool) -> None:
    script = SCRIPT.replace("CASES", json.dumps(CASES))
    found = browse(PAGE, script, width=width, dark=dark)
    assert found["errors"] == found["requests"] == found["axe"] == []
    assert found["overflow"] <= 0
    assert found["cut"] <= 0
    assert not re.findall(r"\b1 (?:\w+ )?\w+s\b", found["ones"])
    assert "MLP, 1 hidden unit" in found["ones"]
    for case, numbers, hidden in zip(CASES, found["numbers"], found["widths"], strict=True):
        inputs, splits, size, layers, outputs = case
        heads = (
            SpinalNet(inputs, outputs, size, layers, num_splits=min(splits, inputs)),
            MLPHead(inputs, outputs, hidden),
            LinearHead(inputs, outputs),
        )
        for head, said in zip(heads, numbers, strict=True):
            assert said == [count_params(head).total, count_macs(head, (inputs,)).total]
    # 2.6 layers are 3, which see no more than 3 slices; with 12 layers there are as many again.
    sizes = [4096, 1, 6, 3, 3, 3, 1, 12]
    assert found["followed"] == [[size, size] for size in sizes]
    assert found["typing"] == ""
    assert found["inputs"][0] == pytest.approx(found["inputs"][1], abs=0.1)  # one scale
    assert "one scale" in found["scale"]
    assert found["drawn"] == 5  # the arrows of six layers
    assert "8480" in found["code"]
