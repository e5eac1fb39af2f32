"""A model is tried in a browser: what it answers, and the page that asks it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from spinalnet._checks import InputError
from spinalnet.cli import app, looking
from spinalnet.comparison import RunSpec, TableSpec, load, running
from spinalnet.comparison.tables import running as table_running
from spinalnet.deploy import demo, demo_page, predict_images
from spinalnet.training import stopping

SMALL = {"limit": 200, "epochs": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "spinal"
    running.run_one(RunSpec.of("digits", **SMALL), out)
    return out


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pd = pytest.importorskip("pandas")
    folder = tmp_path_factory.mktemp("demo")
    rng = np.random.default_rng(0)
    size, colour = rng.normal(50, 9, 200), rng.choice(["red", "green"], 200)
    price = 3 * size + 40 * (colour == "red") + rng.normal(0, 1, 200)
    kind = np.where(price > np.median(price), "dear", "cheap")
    frame = pd.DataFrame({"size": size, "colour": colour, "kind": kind})
    frame.to_csv(folder / "homes.csv", index=False)
    spec = TableSpec(str(folder / "homes.csv"), "kind", head="linear")
    table_running.run_table(spec, folder / "run")
    return folder / "run"


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    pixels = np.zeros((40, 40), np.uint8)
    pixels[5:35, 17:23] = 255  # a one
    Image.fromarray(pixels).save(tmp_path / "one.png")
    return tmp_path / "one.png"


def test_an_image_is_answered_as_predict_does(images: Path, digit: Path) -> None:
    asked = demo.demo_of(images)
    answer = asked.ask(Image.open(digit))
    (said,) = predict_images(images, digit, device="cpu")
    assert next(iter(answer.probabilities)) == said.class_name
    assert answer.probabilities[said.class_name] == pytest.approx(said.probability, abs=1e-5)
    assert list(answer.probabilities.values()) == sorted(answer.probabilities.values())[::-1]


def test_a_drawing_is_what_the_model_learned_on(images: Path, digit: Path) -> None:
    asked = demo.demo_of(images)
    drawing = Image.fromarray(255 - np.array(Image.open(digit)))  # black on white
    of_file, of_drawing = asked.ask(Image.open(digit)), asked.ask(drawing, drawn=True)
    assert of_drawing.probabilities == pytest.approx(of_file.probabilities)
    clear = Image.new("RGBA", (40, 40))  # strokes without a ground
    clear.paste((0, 0, 0, 255), (17, 5, 23, 35))
    assert asked.ask(clear, drawn=True).probabilities == pytest.approx(of_file.probabilities)


def test_layers_speak_for_classes_and_add_up(images: Path, digit: Path) -> None:
    asked = demo.demo_of(images)
    answer = asked.ask(Image.open(digit))
    shown = list(answer.probabilities)[:3]
    assert answer.shares_of == ("layer", "slice", *shown)
    assert len(answer.shares) == asked.model.head.spine.num_layers
    bias = asked.model.head.output.bias.tolist()
    logits = [
        sum(float(row[2 + k]) for row in answer.shares) + bias[int(name)]
        for k, name in enumerate(shown)
    ]
    apart = np.log(answer.probabilities[shown[0]] / answer.probabilities[shown[1]])
    assert logits[0] - logits[1] == pytest.approx(apart, abs=0.05)  # shown with three digits


def test_the_nearest_mistakes_are_mistakes_of_the_validation_part(
    images: Path, digit: Path
) -> None:
    answer = demo.demo_of(images).ask(Image.open(digit))
    val = json.loads((images / "result.json").read_text())["val"]
    wrong = round((1 - val["accuracy"]) * val["n"])
    assert len(answer.mistakes) == min(wrong, demo.SHOWN)
    for pixels, caption in answer.mistakes:
        assert pixels.shape == (28, 28, 3)
        true, taken = caption.split(", taken for ")
        assert true != taken


def test_data_that_are_gone_are_told_and_the_rest_works(
    images: Path, digit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spinalnet.comparison.trained import TrainedModel

    def gone(*_: object, **__: object) -> None:
        raise InputError("its data are gone.")

    monkeypatch.setattr(TrainedModel, "load_data", gone)
    told: list[str] = []
    answer = demo.demo_of(images, told.append).ask(Image.open(digit))
    assert told == ["mistakes cannot be shown: its data are gone."]
    assert answer.probabilities
    assert answer.mistakes == []


def test_nothing_is_asked_without_a_picture(images: Path) -> None:
    with pytest.raises(InputError, match="there is no picture yet"):
        demo.demo_of(images).ask(None)


def test_a_row_is_answered_with_what_spoke_for_it(table: Path) -> None:
    asked = demo.demo_of(table)
    assert asked.names == ["size", "colour"]
    answer = asked.ask(80.0, "red")
    assert next(iter(answer.probabilities)) == "dear"
    import pandas as pd

    row = pd.DataFrame({"size": [80.0], "colour": ["red"]})
    known = dict(zip(*(load(table).class_names, load(table).predict_proba(row)[0]), strict=True))
    assert answer.probabilities == pytest.approx(known)
    assert answer.shares_of == ("column", "spoke for dear by")
    assert {name: float(by) > 0 for name, by in answer.shares} == {"size": True, "colour": True}
    header, *rows = answer.mistaken_rows or [["", "size", "colour"]]
    assert header == ["", "size", "colour"]
    assert all(", taken for " in row[0] for row in rows)
    assert asked.ask(*asked.start()).probabilities
    assert asked.ask(None, None).probabilities  # missing values are allowed, as in predict
    with pytest.raises(InputError, match="a row has 2 values, got 1"):
        asked.ask(80.0)


def test_a_missing_gradio_is_one_sentence(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match=r"pip install '\.\[demo\]'"):
        demo_page.interface(images)


def test_a_missing_gradio_is_told_before_anything_is_loaded() -> None:
    code = (
        "import sys; sys.modules['gradio'] = None; sys.argv = ['spinalnet', 'demo', 'runs/x']\n"
        "from spinalnet.cli import root\n"
        "try: root.main()\n"
        "except SystemExit as stop: print(stop.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n"
    assert "the demo needs Gradio" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_as_announced(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []

    class Page:
        def block_thread(self) -> None:
            raise stopping.Interrupted(number)

        def close(self, *, verbose: bool) -> None:
            closed.append(verbose)

    monkeypatch.setattr(looking, "find_spec", lambda _: True)
    monkeypatch.setattr(demo_page, "interface", lambda *_: Page())
    monkeypatch.setattr(demo_page, "serve", lambda *_, **__: "http://127.0.0.1:7860/")
    if number == signal.SIGTERM:
        with pytest.raises(stopping.Interrupted):
            CliRunner().invoke(app, ["demo", "run"], catch_exceptions=False)
        return
    done = CliRunner().invoke(app, ["demo", "run"])
    assert done.exit_code == 0, done.output
    assert closed == [False]
    assert "the demo has ended" in done.output


# In a process of its own: Gradio leaves event loops and sockets to be collected.
PAGE = """
import json, sys, urllib.request
from spinalnet.deploy import demo_page

def fetch(address, **data):
    body = json.dumps(data).encode() if data else None
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(address, body, headers), timeout=200) as got:
        return got.status, got.read().decode()

images, table = sys.argv[1:]
page = demo_page.interface(images)
assert len(page.config["dependencies"]) == 3
address = demo_page.serve(page, browser=False, block=False)
assert address.startswith("http://127.0.0.1:"), address
assert page.share_url is None
assert fetch(address)[0] == 200
page.close()
page = demo_page.interface(table)
address = demo_page.serve(page, browser=False, block=False)
event = json.loads(fetch(f"{address}gradio_api/call/ask", data=[80.0, "red"])[1])["event_id"]
print(fetch(f"{address}gradio_api/call/ask/{event}")[1])
page.close()
"""


@pytest.mark.slow
def test_the_page_is_served_here_alone_and_answers(images: Path, table: Path) -> None:
    pytest.importorskip("gradio")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PAGE, images, table],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert '"label": "dear"' in done.stdout
    assert "spoke for dear by" in done.stdout
