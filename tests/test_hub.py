"""Models passed on: folders, the hub's own mixin on the other side, and cards."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import spinalnet
from helpers import command
from spinalnet import (
    SpinalNet,
    create_model,
    from_pretrained,
    load_trained,
    make_head,
    push_to_hub,
    replace_head_,
    save_pretrained,
)
from spinalnet._checks import InputError
from spinalnet.comparison.outputs import class_columns
from spinalnet.deploy import card
from spinalnet.nn import describe_head, heads, use_head

hub = pytest.importorskip("huggingface_hub")

HEADS = [
    {"hidden_features": 4, "num_layers": 3},
    {"hidden_features": 3, "num_layers": 5, "num_splits": 3, "activation": "tanh", "norm": "batch"},
    {"hidden_features": 4, "num_layers": 2, "dropout": 0.2, "output_dropout": 0.5, "norm": "layer"},
    {"hidden_features": 4, "num_layers": 4, "share_weights": True, "bias": False},
    {"hidden_features": 4, "num_layers": 2, "activation": "leaky_relu"},
]


@pytest.mark.parametrize("options", HEADS)
def test_a_head_comes_back(tmp_path, options):
    torch.manual_seed(0)
    net = SpinalNet(11, 3, **options)
    if options.get("norm") == "batch":
        net(torch.randn(30, 11))  # statistics of its own
    folder = save_pretrained(net, tmp_path / "head")
    back = from_pretrained(folder)
    x = torch.randn(6, 11)
    assert torch.equal(back(x), net.eval()(x))
    assert describe_head(back) == describe_head(net)


OTHERS = {
    "unchained": {"hidden_features": [3, 4, 5], "num_layers": 3, "num_splits": 3, "norm": "layer"},
    "unchained-matched": {"num_params": 150},
    "spinal-shared": {"hidden_features": 3},
    "mlp": {"hidden_features": [4, 5], "dropout": [0.1, 0.2, 0.3], "norm": "batch"},
    "matched": {"num_params": 100, "bias": False, "activation": "tanh"},
    "linear": {"dropout": 0.2},
    "progressive": {"hidden_features": 3, "num_layers": 2, "norm": "batch"},
    "spinal-taps": {"hidden_features": 2, "tap_features": [6, 5], "layers_per_tap": [3, 2]},
    "spinal-tiled": {"hidden_features": 3, "num_splits": 4, "num_layers": 3},
    "spinal-reused": {"hidden_features": 3, "reuse": [(4, 2), (5, 3)]},
}


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("name", OTHERS)
def test_any_head_comes_back(tmp_path, name, double):
    torch.manual_seed(0)
    head, x = make_head(name, 11, 3, **OTHERS[name]), torch.randn(6, 11)
    if double:
        head, x = head.double(), x.double()
    head(x)  # norms have statistics of their own
    folder = save_pretrained(head.eval(), tmp_path / "head")
    back = from_pretrained(folder)
    assert torch.equal(back(x), head(x))
    assert type(back) is type(head)
    assert describe_head(back) == describe_head(head)
    assert f"# A {type(head).__name__} head" in (folder / "README.md").read_text()


@pytest.mark.parametrize("name", ["unchained", "mlp", "linear", "progressive", "spinal-taps"])
def test_the_hub_s_own_mixin_loads_any_head(tmp_path, name):
    head, x = make_head(name, 11, 3, **OTHERS[name]).eval(), torch.randn(5, 11)
    net = type("Net", (type(head), hub.PyTorchModelHubMixin), {})
    back = net.from_pretrained(str(save_pretrained(head, tmp_path / "head")))
    assert torch.equal(back.eval()(x), head(x))
    again = from_pretrained(save_pretrained(back, tmp_path / "again"))  # it computes the same
    assert torch.equal(again(x), head(x))


def test_a_head_of_ones_own_comes_back_where_it_is_in_use(tmp_path, monkeypatch):
    (tmp_path / "ownhead.py").write_text(
        "from torch import nn\n\n\nclass Mine(nn.Linear):\n"
        "    def __init__(self, in_features, out_features, *, scale=1.0):\n"
        "        super().__init__(in_features, out_features)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    use_head("ownhead:Mine")
    try:
        head = make_head("ownhead:Mine", 5, 2, scale=2.0)
        folder = save_pretrained(head, tmp_path / "head")
        assert torch.equal(from_pretrained(folder)(torch.ones(1, 5)), head(torch.ones(1, 5)))
        model = create_model("mnist-cnn", 4, head="ownhead:Mine").eval()
        back = from_pretrained(save_pretrained(model, tmp_path / "net"))
        x = torch.rand(2, 1, 28, 28)
        assert torch.equal(back(x), model(x))
        import ownhead  # pyright: ignore[reportMissingImports]

        with pytest.raises(InputError, match=r"make it by its place.*use_head\('ownhead:Mine'\)"):
            save_pretrained(ownhead.Mine(3, 2), tmp_path / "no")
    finally:
        del heads.HEADS["ownhead:Mine"]
    with pytest.raises(InputError, match="is its author's code, which is never run because a file"):
        from_pretrained(tmp_path / "head")


def test_a_network_comes_back(tmp_path):
    model = create_model("mnist-cnn", 10, head="mlp", seed=0).eval()
    x = torch.rand(2, 1, 28, 28)
    folder = save_pretrained(model, tmp_path / "net")
    back = from_pretrained(folder)
    assert type(back) is type(model)
    assert torch.equal(back(x), model(x))
    assert torch.equal(from_pretrained(save_pretrained(back, tmp_path / "again"))(x), model(x))
    replace_head_(model, "spinal", 5, input_shape=(1, 28, 28))
    back = from_pretrained(save_pretrained(model, folder))
    assert torch.equal(back(x), model.eval()(x))
    say(folder, model="mnist-cnm")
    with pytest.raises(InputError, match="unknown model 'mnist-cnm'"):
        from_pretrained(folder)
    say(folder, model="mnist-cnn", more=1)
    with pytest.raises(InputError, match="describes no network: see more"):
        from_pretrained(folder)
    say(folder, head="os.system")
    with pytest.raises(InputError, match="describes no network"):
        from_pretrained(folder)


def test_the_weights_of_any_network_come_back_into_one_like_it(tmp_path):
    def network():
        made = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))
        return replace_head_(made, "spinal", num_classes=4)

    net, other = network(), network()
    folder = save_pretrained(net, tmp_path / "net")
    assert 'from_pretrained("NAME/OF-THIS-REPOSITORY", into=network)' in (
        (folder / "README.md").read_text()
    )
    with pytest.raises(InputError, match=r"weights of a Sequential, whose code.*into=\.\.\."):
        from_pretrained(folder)
    assert from_pretrained(folder, into=other) is other
    x = torch.randn(2, 5)
    assert torch.equal(other(x), net.eval()(x))
    with pytest.raises(InputError, match=r"do not fit the network given as into: '0\.weight' is"):
        from_pretrained(folder, into=nn.Sequential(nn.Linear(5, 9)))
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), SpinalNet(4, 2, 2))
    tied[1].weight = tied[0].weight
    save_pretrained(tied, tmp_path / "tied")
    changed = create_model("mnist-cnn", 3)
    changed.trunk[0] = nn.Conv2d(1, 10, 5, bias=False)
    folder = save_pretrained(changed, tmp_path / "changed")
    with pytest.raises(InputError, match="weights of a ImageModel, whose code"):
        from_pretrained(folder)


def test_the_hub_s_own_mixin_loads_a_head(tmp_path):
    class Net(SpinalNet, hub.PyTorchModelHubMixin):
        pass

    net = SpinalNet(9, 4, 5, 6, num_splits=3, activation="gelu").eval()
    back = Net.from_pretrained(str(save_pretrained(net, tmp_path / "head")))
    x = torch.randn(5, 9)
    assert torch.equal(back.eval()(x), net(x))


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "private name"
    return spinalnet.compare(
        "digits", "spinal,linear", seeds=2, epochs=2, limit=120, out=folder, jobs=1
    ).folder


def test_a_run_comes_back_with_a_card(compared, tmp_path):
    run = compared / "runs" / "spinal-seed0"
    folder = save_pretrained(run, tmp_path / "out")
    back, first = from_pretrained(folder), spinalnet.load(run)
    x = torch.rand(4, 1, 28, 28)
    assert torch.equal(back.model.eval()(x), first.model.eval()(x))
    assert back.info.class_names == first.info.class_names
    card = (folder / "README.md").read_text(encoding="utf-8")
    result = json.loads((run / "result.json").read_text())
    assert f"{result['test']['accuracy']:.4g}" in card
    assert "library_name: spinalnet" in card
    assert spinalnet.Comparison.load(compared).verdict.split(":")[0] in card
    number = r"-?[\d.]+"
    assert re.search(rf"\n\| linear \| {number} \| {number} to {number} \| [\w-]+ \|\n", card)
    assert "answers with one of its classes" in card
    assert hub.ModelCard(card).data.library_name == "spinalnet"
    # Nothing says where it was made.
    for path in folder.iterdir():
        assert str(compared).encode() not in path.read_bytes()


def run_card(folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch, **files: Path) -> str:
    """Do all that the card of a folder shows, in another folder; return what it printed."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    places = {"NAME/OF-THIS-REPOSITORY": folder, "FOLDER": folder, **files}
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(str(home))
    said = ""
    for kind, block in re.findall(r"```(python|bash)\n(.*?)```", card, re.DOTALL):
        text = re.sub("|".join(places), lambda found: str(places[found[0]]), block)
        if kind == "python":
            with redirect_stdout(io.StringIO()) as out:
                exec(compile(text, "card", "exec"), {"__name__": "card"})
            said += out.getvalue()
            continue
        for line in text.splitlines():
            program, *words = shlex.split(line)
            if program == "spinalnet":
                done = command(*words)
            else:
                assert program == "python"
                words = [sys.executable, *words]
                done = subprocess.run(words, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            said += done.stdout
    sys.modules.pop("model_preprocess", None)
    return said


def test_all_that_a_card_of_images_shows_runs(compared, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    Image.new("L", (20, 20), 90).save(tmp_path / "a.png")
    folder = save_pretrained(compared / "runs" / "spinal-seed0", tmp_path / "out")
    said = run_card(folder, tmp_path, monkeypatch, **{"PICTURE.png": tmp_path / "a.png"})
    (found,) = spinalnet.predict_images(compared / "runs" / "spinal-seed0", tmp_path / "a.png")
    assert said.count(f"{found.class_name} {found.probability}") == 1
    assert f"'{found.class_name}': {found.probability:.4f}"[:-1] in said
    card = (folder / "README.md").read_text(encoding="utf-8")
    for row in (
        "| seed | 0 |",
        "| examples | 120 training, 216 validation, 359 test |",
        "| first weights of the trunk | random |",
        "| epochs | 2 of at most 2 |",
        "| batch size | 64 |",
        "| optimiser | adamw, rate 0.01, schedule cosine |",
        "| augmentation | none |",
    ):
        assert f"\n{row}\n" in card
    assert re.search(r"\| choice of the epoch \| the best on validation: epoch [12] \|", card)
    assert "(2 seeds of each head)" in card
    again = save_pretrained(folder, tmp_path / "again")  # it keeps what it knows
    assert json.loads((again / "config.json").read_text()) == json.loads(
        (folder / "config.json").read_text()
    )


def test_what_cannot_be_written_is_refused_in_a_sentence(compared, tmp_path):
    for wrong in (3, None, {"a": 1}, spinalnet.SpinalClassifier()):
        with pytest.raises(InputError, match="cannot be written: give the folder of a run"):
            save_pretrained(wrong, tmp_path / "x")
    with pytest.raises(InputError, match="is the folder of a run or a comparison"):
        save_pretrained(compared, compared / "runs" / "spinal-seed0")
    (tmp_path / "file").touch()
    with pytest.raises(spinalnet.SpinalnetError, match="cannot write"):
        save_pretrained(SpinalNet(4, 2, 2), tmp_path / "file")
    net = SpinalNet(4, 2, 2)
    net.output = nn.Sequential(nn.Linear(8, 2))
    with pytest.raises(InputError, match="a SpinalNet that was changed since it was made"):
        save_pretrained(net, tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("target", ["kind", "price"])
def test_all_that_a_card_of_a_table_shows_runs(tmp_path, monkeypatch, target):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("onnxruntime")
    from spinalnet.comparison.tables.running import run_table

    frame = pd.DataFrame({"size": range(60), "city|": ["a", None, "b"] * 20})
    frame["kind"] = ["x" if value > 30 else "y" for value in frame["size"]]
    frame["price"] = frame["size"] * 2.5
    if target == "price":
        frame["when"] = pd.date_range("2020-01-01", periods=60).astype(str)
    frame.to_csv(tmp_path / "homes.csv", index=False)
    other = {"kind": "price", "price": "kind"}[target]
    options = {"epochs": 2, "ensemble_size": 2}
    table = str(tmp_path / "homes.csv")
    spec = spinalnet.TableSpec(table, target, head_options=options, ignore=(other,))
    run_table(spec, tmp_path / "r")
    folder = save_pretrained(spinalnet.load(tmp_path / "r"), tmp_path / "out")
    frame.drop(columns=[target, other]).to_csv(tmp_path / "new.csv", index=False)
    said = run_card(folder, tmp_path, monkeypatch, **{"ROWS.csv": tmp_path / "new.csv"})
    new = frame.drop(columns=[target, other])
    model, told = spinalnet.load(folder), spinalnet.predict_frame(folder, new)
    assert told["prediction"].tolist() == model.predict(new).tolist()
    if target == "kind":
        assert [*told.columns] == ["prediction", "probability", "x", "y"]
        assert told[["x", "y"]].to_numpy().tolist() == model.predict_proba(new).tolist()
    assert target in spinalnet.load(folder)._repr_html_()
    assert "<svg" in spinalnet.load(tmp_path / "r")._repr_html_()
    assert ("'probabilities'" if target == "kind" else "'values'") in said
    card = (folder / "README.md").read_text(encoding="utf-8")
    for row in (
        "| examples | 45 training, 15 test |",
        "| nets | 2, averaged |",
        "| epochs | at most 2 of each net (4 of all nets) |",
        "| optimiser | adamw, rate 0.003, schedule cosine, weight decay 0.01 |",
    ):
        assert f"\n{row}\n" in card
    assert ("Of the columns when the file takes parts" in card) == (target == "price")


def test_a_card_says_the_epochs_that_the_number_of_rows_set():
    params = spinalnet.SpinalClassifier().get_params()
    made = card.of_table({}, {"train_size": 45, "epochs_run": 60}, {"params": params})
    assert made["epochs"] == "at most 100 of each net (60 of all nets)"
    assert made["batch size"] == 64


def test_a_folder_that_is_passed_on_is_taken_where_a_run_is(compared, tmp_path):
    run = compared / "runs" / "spinal-seed0"
    folder = save_pretrained(run, tmp_path / "out")
    Image.new("L", (20, 20), 90).save(tmp_path / "a.png")
    first, second = (command("predict", one, tmp_path / "a.png") for one in (run, folder))
    assert (second.returncode, second.stdout) == (0, first.stdout)
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(load_trained(folder).model(x), load_trained(run).model(x))
    assert spinalnet.load(folder).source == folder / "model.safetensors"
    scored = spinalnet.evaluate_run(folder, "digits")
    assert scored.metrics["accuracy"] == spinalnet.evaluate_run(run).metrics["accuracy"]
    assert command("explain", folder, "--out", tmp_path / "shown").returncode == 0
    exported = spinalnet.export_program(folder, tmp_path / "model.pt2")
    assert exported.path.is_file()
    head = save_pretrained(SpinalNet(4, 2, 2), tmp_path / "head")
    done = command("predict", head, tmp_path / "a.png")
    assert done.returncode == 2
    assert "holds a head alone" in done.stderr
    assert "from_pretrained" in done.stderr


def test_a_model_in_memory_is_written_as_it_is(compared, tmp_path):
    trained = spinalnet.load(compared / "runs" / "linear-seed0")
    kept = save_pretrained(compared / "runs" / "linear-seed0", tmp_path / "run")
    same = save_pretrained(trained, tmp_path / "same")
    for name in ("config.json", "README.md", "model.safetensors"):
        assert (same / name).read_bytes() == (kept / name).read_bytes()
    with torch.no_grad():
        trained.model.head.output.bias += 1
    card = (save_pretrained(trained, tmp_path / "other") / "README.md").read_text()
    assert "It has not been tested." in card  # these weights were not
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(from_pretrained(tmp_path / "other").model(x), trained.model(x))
    (found,) = {
        json.loads((save_pretrained(one, tmp_path / "c") / "config.json").read_text())["head"]
        for one in (spinalnet.Comparison.load(compared), compared)
    }
    assert found in ("spinal", "linear")


def test_a_trained_model_shows_itself_in_a_notebook(compared, tmp_path):
    run = compared / "runs" / "spinal-seed0"
    trained = spinalnet.load(run)
    shown = trained._repr_html_()
    accuracy = json.loads((run / "result.json").read_text())["test"]["accuracy"]
    for part in ("<svg", "mnist-cnn", "10: 0, 1, 2", f"accuracy {accuracy:.4g}", "359 examples"):
        assert part in shown
    assert trained.spine_diagram() in shown
    passed_on = spinalnet.load(save_pretrained(run, tmp_path / "out"))
    assert f"accuracy {accuracy:.4g}" in passed_on._repr_html_()
    hostile = replace(trained, info=replace(trained.info, name="<script>"), source=None)
    assert "<script>" not in hostile._repr_html_()


def test_predictions_are_a_frame_with_classes_as_columns(compared, tmp_path):
    pytest.importorskip("pandas")
    Image.new("L", (20, 20), 90).save(tmp_path / "a.png")
    run = compared / "runs" / "spinal-seed0"
    told = spinalnet.predict_frame(run, tmp_path / "a.png")
    (one,) = spinalnet.predict_images(run, tmp_path / "a.png")
    assert [*told.columns] == ["prediction", "probability", *"0123456789"]
    assert told.loc[str(tmp_path / "a.png"), one.class_name] == one.probability
    assert told["prediction"].tolist() == [one.class_name]
    tested = spinalnet.Comparison.load(compared).predictions_frame("spinal", unit="seed0")
    accuracy = json.loads((run / "result.json").read_text())["test"]["accuracy"]
    right = [a == b for a, b in zip(tested["true"], tested["prediction"], strict=True)]
    assert sum(right) / len(right) == pytest.approx(accuracy)
    assert tested[[*"0123456789"]].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-4)
    assert class_columns(["a", "true"], ["true"]) == ["a", "p_true"]


def test_a_comparison_gives_its_best_run(compared, tmp_path):
    config = json.loads((save_pretrained(compared, tmp_path / "out") / "config.json").read_text())
    assert config["spinalnet"] == "image"
    assert config["head"] in ("spinal", "linear")


def test_a_folder_of_photographs_is_named_not_told(tmp_path):
    from helpers import write_images

    write_images(tmp_path / "secret place" / "photos", {"a": 12, "b": 12}, size=(30, 30))
    spec = spinalnet.RunSpec.of(
        str(tmp_path / "secret place" / "photos"),
        train=spinalnet.TrainConfig(epochs=1),
        image_size=28,
    )
    spinalnet.run_one(spec, tmp_path / "run")
    folder = save_pretrained(tmp_path / "run", tmp_path / "out")
    for path in folder.iterdir():
        assert b"secret place" not in path.read_bytes()
    assert from_pretrained(folder).info.name == "photos"


def test_a_table_s_model_comes_back(tmp_path):
    pd = pytest.importorskip("pandas")
    from spinalnet.comparison.tables.running import run_table

    frame = pd.DataFrame({"size": range(40), "city": ["a", "b"] * 20})
    frame["kind"] = ["x" if value > 20 else "y" for value in frame["size"]]
    frame.to_csv(tmp_path / "homes.csv", index=False)
    run_table(
        spinalnet.TableSpec(str(tmp_path / "homes.csv"), "kind", head="spinal"), tmp_path / "r"
    )
    back = from_pretrained(save_pretrained(tmp_path / "r", tmp_path / "out"))
    first = spinalnet.load(tmp_path / "r")
    rows = frame[["size", "city"]]
    assert (back.predict(rows) == first.predict(rows)).all()
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "the columns size, city" in card or "the columns size and city" in card
    assert str(tmp_path) not in card


def say(folder: Path, **values: object) -> None:
    """Let a model describe itself otherwise, as its author may."""
    kept = json.loads((folder / "config.json").read_text())
    kept.pop("blake2b", None)
    (folder / "config.json").write_text(json.dumps(kept | values))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "config.json").unlink(), "holds no model of spinalnet"),
        (lambda folder: (folder / "config.json").write_text("[]"), "holds no model|cannot be"),
        (lambda folder: (folder / "config.json").write_text('{"spinalnet": "os"}'), "got 'os'"),
        (
            lambda folder: (folder / "config.json").write_text(
                '{"spinalnet": "head", "in_features": 4, "evil": 1}'
            ),
            "describes no (SpinalNet|head)",
        ),
        (
            lambda folder: (folder / "config.json").write_text(
                json.dumps(
                    {"spinalnet": "head", "in_features": 8, "out_features": 2, "hidden_features": 2}
                )
            ),
            "do not fit its config.json",
        ),
        (lambda folder: say(folder, hidden_features=10**12), "a size that 47 weights cannot be of"),
        (lambda folder: say(folder, hidden_features=40, num_layers=40), "do not fit|parameters"),
        (lambda folder: say(folder, hidden_features=[1]), "describes no SpinalNet|hidden_features"),
        (lambda folder: say(folder, activation="os.system"), "activation"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path, spoil, said):
    folder = save_pretrained(SpinalNet(6, 2, 3, 2), tmp_path / "head")
    spoil(folder)
    with pytest.raises(InputError, match=said):
        from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_of_another_model_is_noticed(tmp_path, name):
    """Weights of the same shapes fit any activation."""
    for activation in ("relu", "tanh"):
        save_pretrained(SpinalNet(8, 3, 4, 2, activation=activation), tmp_path / activation)
    config = tmp_path / "relu" / "config.json"
    whole = config.read_text()
    config.write_text(whole.replace('"relu"', '"tanh"'))
    with pytest.raises(InputError, match=r"config\.json is damaged"):
        from_pretrained(tmp_path / "relu")
    config.write_text(whole)
    from_pretrained(tmp_path / "relu")
    shutil.copy(tmp_path / "tanh" / name, tmp_path / "relu" / name)
    with pytest.raises(InputError, match=r"is not what config\.json beside it was written with"):
        from_pretrained(tmp_path / "relu")


def test_what_cannot_be_described_is_refused(tmp_path):
    class Other(nn.Module):
        pass

    with pytest.raises(InputError, match="a Other is not described"):
        save_pretrained(Other(), tmp_path / "x")
    odd = SpinalNet(4, 2, 2, 2, activation=lambda: nn.Hardtanh(-3, 3))
    with pytest.raises(InputError, match="has no name"):
        save_pretrained(odd, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_pushing_sends_the_folder(compared, tmp_path, monkeypatch):
    sent = {}

    class Api:
        def __init__(self, token=None):
            sent["token"] = token

        def create_repo(self, repo_id, *, private, exist_ok):
            sent["made"] = (repo_id, private, exist_ok)

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            sent["files"] = sorted(path.name for path in folder_path.iterdir())
            return f"https://example.org/{repo_id}"

    monkeypatch.setattr(hub, "HfApi", Api)
    page = push_to_hub(compared / "runs" / "spinal-seed0", "me/digits", private=True, token="t")
    assert page == "https://example.org/me/digits"
    assert sent["made"] == ("me/digits", True, True)
    assert sent["files"] == ["README.md", "config.json", "model.safetensors"]

    def refuse(self, *args, **more):
        raise hub.errors.HFValidationError("Repo id must be\nso and so")

    monkeypatch.setattr(Api, "create_repo", refuse)
    with pytest.raises(InputError, match="the hub did not take 'me me': Repo id must be so and so"):
        push_to_hub(compared / "runs" / "spinal-seed0", "me me")


def test_names_in_a_card_stay_text(compared, tmp_path):
    from spinalnet.deploy.card import of_run

    config = {
        **{"spinalnet": "image", "task": "classification", "data": "<img src=x>|", "head": "a*b_"},
        **{"class_names": ["[x](http://y)", "`z`"], "model": "m", "input_shape": [1, 2, 2]},
    }
    card = of_run(tmp_path / "a" / "b", config)
    assert "<img" not in card
    assert "[x](" not in card


def test_a_head_that_would_fill_the_memory_is_not_made(tmp_path):
    net = SpinalNet(1000, 2, 1000, 2)
    folder = save_pretrained(net, tmp_path / "head")
    say(folder, hidden_features=1_000_000, num_layers=1_000_000)  # petabytes, lazily
    with pytest.raises(InputError, match=r"describes a network (of [\d,]+ parameters|that no mem)"):
        from_pretrained(folder)


def test_verify_knows_a_folder_that_was_passed_on(tmp_path):
    folder = save_pretrained(SpinalNet(6, 2, hidden_features=3).eval(), tmp_path / "head")
    done = command("verify", folder)
    assert (done.returncode, "whole" in done.stdout) == (0, True), done.stderr
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = command("verify", folder)
    assert (done.returncode, "damaged" in done.stdout) == (2, True), done.stdout
    spinalnet.run_one(spinalnet.RunSpec.of("digits", limit=60, epochs=1), folder / "runs" / "a")
    done = command("verify", folder)  # runs are what a folder is checked for
    assert (done.returncode, "runs/a: whole" in done.stdout) == (0, True), done.stdout
