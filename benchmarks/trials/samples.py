"""One file of every kind that is read, and what reads it: the prey of `mutate`."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from spinalnet import (
    RunSpec,
    SpinalNet,
    files,
    from_pretrained,
    load_summary,
    run_one,
    save_pretrained,
    summarize,
)
from spinalnet._checks import SpinalnetError
from spinalnet.comparison import TableSpec, load_trained, loading
from spinalnet.comparison.outputs import OUTPUTS_FILE, load_outputs
from spinalnet.comparison.study import StudySpec
from spinalnet.comparison.tables import running as table_running
from spinalnet.data import images
from spinalnet.data.frames import load_table
from spinalnet.data.labels import Labels, find_labelled
from spinalnet.deploy import verify
from spinalnet.models.checkpoints import read_weights
from spinalnet.models.stored import KEY_BYTES, FeatureStore
from spinalnet.paper.records import LastBatches, load_records
from spinalnet.training import runs, states

Read = Callable[[Path], Any]

ROOT = Path(__file__).parents[2]
SPEC = RunSpec.of("digits", limit=60, epochs=2, lr=3e-3, device="cpu", seed=0)
COMPARISON = "comparison"
RUN = f"{COMPARISON}/runs/spinal-seed0"
TABLE_RUN = "table/runs/linear-split0-seed0"
RECORD = ROOT / "results" / "recipes" / "customizable-mnist-honest.json"
_KEYS = [bytes([number]) * KEY_BYTES for number in range(6)]
_PART = "features/part.safetensors"


def make(folder: Path) -> None:
    """Write one file of every kind below a folder, without digests where those can be left out.

    What holds then holds with them.
    """
    _make_comparison(folder)
    run = folder / TABLE_RUN
    table_running.run_table(TableSpec("sklearn:iris", head="linear", tune=2), run)
    _unseal(run)
    _make_state(folder)
    shutil.copy(RECORD, folder / "recipe.json")
    files.write_mapping(folder / "last_batches" / "a.json", {"1": 0.5, "2": 0.25})
    (folder / "study.yaml").write_text(
        "data:\n- digits\n- data: numbers.csv\n  target: y\n  name: numbers\n"
        "heads: spinal,linear\nseeds: 3\nconfirmatory: [linear]\noptions: {epochs: 2}\n"
    )
    _make_weights(folder)
    _make_pictures(folder / "pictures")
    _make_tables(folder)


def _make_comparison(folder: Path) -> None:
    """Write a comparison, a run of which has failed, and beside it a run with its digests."""
    run_one(SPEC, folder / RUN)
    shutil.copytree(folder / RUN, folder / "sealed")  # with digests
    _unseal(folder / RUN)
    folder = folder / COMPARISON
    question = {"heads": ["spinal"], "seeds": [0], "units": ["seed0"], "data": "digits"}
    files.write_mapping(folder / "comparison.yaml", question | {"model": "mnist-cnn"})
    files.write_mapping(folder / "looks.json", {"looks": [1], "stopping": False})
    failed = runs.RunFolder.start(folder / "runs" / "mlp-seed0", {"head": "mlp"})
    told = {"kind": "error", "reason": "x", "label": "mlp", "unit": {"seed": 0, "name": "seed0"}}
    files.write_mapping(failed.path / "failed.json", told)
    times = {"inference": 1.0, "training": 2.0, "inference_quartiles": [0.9, 1.1]}
    timing = {"schema": 3, "batch_size": 64, "device": "cpu", "heads": {"spinal": times}}
    files.write_mapping(folder / "timing.json", timing)
    row = {"label": "spinal", "space": {"lr": "0.1 to 1"}, "trials": 2, "failed": 0}
    row |= {"chosen": {"lr": 0.1}, "curve": [0.5, 0.6], "edges": [], "untuned": False}
    tuning = {"schema": 3, "seed": 1, "trials": 2, "metric": "accuracy", "rows": [row]}
    files.write_mapping(folder / "tuning.json", tuning | {"looked": []})
    files.write_mapping(folder / "summary.json", summarize(folder).to_dict())


def _unseal(run: Path) -> None:
    """Let no digest guard the texts of a run."""
    files.write_kept(run / runs.DONE_FILE, {"digests": {}})
    environment = files.read_json(run / "environment.json") or {}
    files.write_mapping(run / "environment.json", environment)


def _make_state(folder: Path) -> None:
    class Stop(Exception):
        pass

    def stop(spec: Any, progress: Any) -> None:
        if (progress.phase, progress.epoch) == ("train", 2):
            raise Stop

    try:
        run_one(SPEC, folder / "broken", on_progress=stop)
    except Stop:
        shutil.copy(folder / "broken" / states.STATE_FILE, folder / states.STATE_FILE)
    shutil.rmtree(folder / "broken")


def _make_weights(folder: Path) -> None:
    weights = {"a.weight": torch.randn(4, 3), "a.bias": torch.zeros(4)}
    torch.save({"state_dict": weights, "epoch": 3}, folder / "weights.pt")
    save_file(weights, folder / "weights.safetensors")
    save_pretrained(SpinalNet(6, 2, 3, 2), folder / "hub")
    store = FeatureStore(folder / "features")
    store.add(_KEYS, torch.arange(24.0).view(6, 4))
    next((folder / "features").glob("part-*")).rename(folder / _PART)


PICTURES = (
    *("a.png", "deep.png", "palette.png", "a.jpg", "exif.jpg", "a.gif", "a.bmp", "a.webp"),
    *("a.tif", "deep.tif", "a.ppm", "a.ico", "a.tga"),
)


def _make_pictures(folder: Path) -> None:
    folder.mkdir()
    rows, columns = np.mgrid[:24, :20]
    pixels = np.stack([rows * 9, columns * 7, 255 - rows * 4 - columns * 6], 2).astype(np.uint8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in PICTURES:
        one, options = image, dict[str, Any]()
        if name.startswith("deep"):
            one = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
        elif name.startswith("palette"):
            one = image.quantize(16)
        elif name.startswith("exif"):
            options = {"exif": exif}
        one.save(folder / name, None, **options)


_CELLS = "photo,label,part,age\n" + "".join(
    f"pictures/{name},{'ab'[k % 2]},{('train', 'train', 'val', 'test')[k % 4]},{k}\n"
    for k, name in enumerate(PICTURES)
)
_NUMBERS = "a,b,when,kind,y\n" + "".join(
    f'{k / 7:.3f},{k if k % 5 else ""},2024-{k % 12 + 1:02}-03,"x, {k % 3}",{("n", "y")[k % 2]}\n'
    for k in range(40)
)


def _make_tables(folder: Path) -> None:
    import pandas as pd

    (folder / "labels.csv").write_text(_CELLS)
    (folder / "numbers.csv").write_text(_NUMBERS)
    frame = pd.read_csv(io.StringIO(_NUMBERS))
    frame.to_csv(folder / "packed.csv.gz", index=False)
    frame.to_csv(folder / "packed.csv.zip", index=False)
    frame.to_parquet(folder / "numbers.parquet")
    frame.to_feather(folder / "numbers.feather")
    frame.to_excel(folder / "numbers.xlsx", index=False)


def _features(folder: Path) -> Any:
    """Ask a store of features, whose damaged parts it removes."""
    part = next((folder / "features").glob("part*.safetensors"))
    named = part.with_name("part-a.safetensors")
    shutil.copy(part, named)
    try:
        store = FeatureStore(folder / "features")
        return None if store.missing(_KEYS) else store.load(_KEYS)
    finally:
        named.unlink(missing_ok=True)


def _picture(name: str) -> Read:
    def read(folder: Path) -> Any:
        path = str(folder / "pictures" / name)
        images.find_bad([path], thorough=True)
        return images.read_all([path], 3, 16)

    return read


def _table(name: str) -> Read:
    return lambda folder: load_table(str(folder / name), "y")


def _summary(folder: Path) -> Any:
    """Read a comparison in two ways: as a report does, and to find its best run."""
    refused = None
    for read in (summarize, loading.run_of):
        try:
            read(folder / COMPARISON)
        except SpinalnetError as error:
            refused = error
    if refused is not None:
        raise refused


OF_RUNS: dict[str, Read] = {
    f"{RUN}/config.yaml": _summary,
    f"{RUN}/environment.json": _summary,
    f"{RUN}/metrics.jsonl": _summary,
    f"{RUN}/result.json": _summary,
    f"{COMPARISON}/comparison.yaml": _summary,
    f"{COMPARISON}/looks.json": _summary,
    f"{COMPARISON}/timing.json": _summary,
    f"{COMPARISON}/tuning.json": _summary,
    f"{COMPARISON}/runs/mlp-seed0/failed.json": _summary,
    f"{COMPARISON}/summary.json": lambda folder: load_summary(folder / COMPARISON / "summary.json"),
    f"{RUN}/model.safetensors": lambda folder: load_trained(folder / RUN),
    f"{RUN}/{OUTPUTS_FILE}": lambda folder: load_outputs(folder / RUN / OUTPUTS_FILE),
    "sealed/DONE": lambda folder: list(verify(folder / "sealed", models=False)),
    "state.pt": states.load,
    "recipe.json": lambda folder: load_records(folder, "recipe.json"),
    "last_batches/a.json": lambda folder: LastBatches(folder).read_all("a", 2),
    f"{TABLE_RUN}/result.json": lambda folder: summarize(folder / "table"),
    f"{TABLE_RUN}/model.safetensors": lambda folder: loading.load(
        folder / TABLE_RUN / "model.safetensors"
    ),
}
OF_OTHERS: dict[str, Read] = {
    "study.yaml": lambda folder: StudySpec.read(folder / "study.yaml"),
    "weights.pt": lambda folder: read_weights(folder / "weights.pt"),
    "weights.safetensors": lambda folder: read_weights(folder / "weights.safetensors"),
    "hub/config.json": lambda folder: from_pretrained(folder / "hub"),
    "hub/model.safetensors": lambda folder: from_pretrained(folder / "hub"),
    _PART: _features,
    "labels.csv": lambda folder: find_labelled(
        folder, Labels(str(folder / "labels.csv"), image_column="photo", label_column="label")
    ),
    **{
        name: _table(name)
        for name in (
            *("numbers.csv", "packed.csv.gz", "packed.csv.zip", "numbers.parquet"),
            *("numbers.feather", "numbers.xlsx"),
        )
    },
    **{f"pictures/{name}": _picture(name) for name in PICTURES},
}
READERS: dict[str, Read] = {**OF_RUNS, **OF_OTHERS}
"""What reads each of the files, by its path below the folder of `make`."""
