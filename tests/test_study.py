"""Several data sets together: ranks, chances, intervals; studies from a file and from folders."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from helpers import command
from spinalnet._checks import InputError
from spinalnet.cli import app
from spinalnet.comparison import across
from spinalnet.comparison.study import StudySpec, read_folders, run_study, together, write_study
from spinalnet.comparison.summary import load_summary
from spinalnet.deploy import verify
from spinalnet.locks import FolderInUse, FolderLock

RNG = np.random.default_rng(7)
DEMSAR = np.array(  # Demsar 2006, table 6: AUC of C4.5, with cut-off, with pruning, with both
    [
        *([0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569]),
        *([0.954, 0.971, 0.968, 0.967], [0.628, 0.661, 0.654, 0.657]),
        *([0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931]),
        *([0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625]),
        *([0.775, 0.838, 0.866, 0.875], [1.000, 1.000, 1.000, 1.000]),
        *([0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669]),
        *([0.972, 0.981, 0.9751, 0.975], [0.957, 0.978, 0.946, 0.970]),
    ]
)


def test_ranks_are_those_of_demsar_s_example():
    found = across.ranks(DEMSAR)
    assert [round(rank, 3) for rank in found.mean] == [3.143, 2.000, 2.893, 1.964]
    # The paper's critical difference: 2.569 sqrt(4 * 5 / (6 * 14)) = 1.25.
    assert found.critical == pytest.approx(1.25, abs=0.005)
    assert found.p_value == pytest.approx(stats.friedmanchisquare(*DEMSAR.T).pvalue)
    assert found.tables == 14


def test_a_bar_joins_what_is_not_shown_to_differ():
    ranks = across.Ranks((1.0, 1.4, 2.6, 3.9), None, 1.25, 10)
    assert ranks.cliques() == [(0, 1), (1, 2)]
    assert across.Ranks((1.0, 3.0), None, 1.0, 5).cliques() == []


@pytest.mark.parametrize(
    "z", [[0.031, 0.023, -0.013, 0.0004, 0.043], [-0.021, 0.015, 0.002, -0.03]]
)
def test_the_signed_rank_test_is_that_of_the_authors(z):
    baycomp = pytest.importorskip("baycomp")
    left, rope, right = baycomp.SignedRankTest.probs(
        np.array(z), np.zeros(len(z)), rope=0.01, nsamples=20_000, random_state=0
    )
    found = across.signed_rank(z, 0.01)
    # Sums that lie on the edge of the region, of which there is none here, it counts half.
    assert (found.better, found.equal, found.worse) == pytest.approx((left, rope, right), abs=0.04)


def test_the_interquartile_mean_is_scipy_s():
    units = [RNG.normal(size=n) for n in (5, 8, 10)]
    expected = stats.trim_mean(np.concatenate(units), 0.25)
    assert across.interquartile_mean(units) == pytest.approx(expected)


def test_the_probability_of_improvement_counts_pairs():
    first, second = [np.array([1, 2, 3.0]), np.array([5.0])], [np.array([2, 2.0]), np.array([9.0])]
    by_hand = []
    for a, b in zip(first, second, strict=True):
        pairs = [(x > y) + 0.5 * (x == y) for x, y in itertools.product(a, b)]
        by_hand.append(np.mean(pairs))
    assert across.probability_of_improvement(first, second) == pytest.approx(np.mean(by_hand))


def test_the_bootstrap_covers_as_it_says():
    hits = 0
    for seed in range(120):
        draw = np.random.default_rng(seed)
        units = [draw.normal(k, 1.0, 20) for k in (0.0, 1.0, 2.0)]
        found = across.bootstrap(
            lambda several: np.mean([one.mean(-1) for one in several], axis=0),
            units,
            draws=300,
            seed=seed,
        )
        hits += found.low <= 1.0 <= found.high
    assert 102 <= hits <= 119  # of 120 at 95 %, a little less for small samples


@pytest.mark.parametrize("scores", [np.ones((1, 3)), np.ones((4, 1)), np.full((4, 2), np.nan)])
def test_too_little_to_rank_is_refused(scores):
    with pytest.raises(InputError, match="ranks need two data sets"):
        across.ranks(scores)


STUDY = """
data:
  - digits
  - {data: digits, name: again}
heads: spinal,linear
seeds: 2
confirmatory: [linear]
options: {epochs: 1, limit: 100}
"""


def test_a_study_runs_goes_on_and_says_it_in_a_page(tmp_path):
    file = tmp_path / "two.yaml"
    file.write_text(STUDY)
    run = ["study", str(file), "--out", str(tmp_path / "s"), "--jobs", "1"]
    done = CliRunner().invoke(app, run)
    assert done.exit_code == 0, done.output
    assert "2 data sets of at least 6: too few to say anything of others" in done.output
    kept = json.loads((tmp_path / "s" / "study.json").read_text())
    assert set(kept["means"]) == {"digits", "again"}
    assert kept["means"]["digits"] == kept["means"]["again"]  # the same seeds
    assert kept["pairs"][0]["confirmatory"] is True
    of_one = load_summary(tmp_path / "s" / "digits" / "summary.json")
    assert str(of_one.command).startswith("spinalnet ")  # what made it
    page = (tmp_path / "s" / "study.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    assert "Bayesian signed-rank" in page
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "s").rglob("model.safetensors")}
    assert len(times) == 8
    assert CliRunner().invoke(app, run).exit_code == 0
    assert all(p.stat().st_mtime_ns == time for p, time in times.items())
    # The same from the folders of the comparisons.
    again = CliRunner().invoke(
        app,
        [
            "study",
            str(tmp_path / "s/digits"),
            str(tmp_path / "s/again"),
            "--out",
            str(tmp_path / "t"),
        ],
    )
    assert again.exit_code == 0, again.output
    assert json.loads((tmp_path / "t" / "study.json").read_text())["means"] == kept["means"]
    # What one tells must be what its runs say; nobody needs a digest for that.
    told = tmp_path / "s" / "again" / "summary.json"
    whole = told.read_text()
    values = json.loads(whole)
    values["heads"][1]["mean"] = 0.99
    del values["blake2b"]
    told.write_text(json.dumps(values))
    folders = [tmp_path / "s" / "digits", tmp_path / "s" / "again"]
    with pytest.raises(InputError, match="tells another result of linear than its runs"):
        read_folders(folders)
    told.write_text(whole)
    (tmp_path / "s" / "again" / "runs" / "linear-seed0" / "result.json").write_text("{")
    read_folders(folders)  # runs are not needed
    shutil.rmtree(tmp_path / "s" / "again" / "runs" / "linear-seed0")
    with pytest.raises(InputError, match="counts 2 runs of linear, of which 1 is done"):
        read_folders(folders)
    # Without the question it is a comparison still.
    (tmp_path / "s" / "again" / "comparison.yaml").unlink()
    found = [one for one in verify(tmp_path / "s", models=False) if one.kind == "comparison"]
    assert [one.run.name for one in found] == ["again", "digits"]
    assert "counts 2 runs of linear" in found[0].damage[0]
    assert not found[1].damage


def test_six_data_sets_are_enough_for_a_sentence():
    one = load_summary(RESULTS / "fashion-mnist.json")
    found = together({f"set{k}": one for k in range(6)}, ["unchained"])
    assert found.headline.startswith(
        "Over data sets like these 6, spinal is most probably equal to unchained (probability 1.00)"
    )
    assert together({f"set{k}": one for k in range(5)}).pairs[0].chances is None


RESULTS = Path(__file__).parents[1] / "results"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data: [digits]\nsead: 3", "did you mean 'seeds'"),
        ("data: digits", "data must be a list"),
        ("data: [3]", "a data set is a name"),
        ("data: [{data: a.csv, tarset: y}]", "did you mean 'target'"),
        ("data: [digits, digits]", "two data sets of a study are called 'digits'"),
        ("data: [{data: digits, name: ../x}]", "no name of a folder"),
        ("data: [{data: digits, name: Aux}]", "no name of a folder"),
        ("data: [digits]\nseeds: 1", "seeds must be a whole number of at least 2"),
        ("data: [digits]\nseeds: true", "seeds must be a whole number"),
        ("data: [digits]\nrope: 2", "rope must be a number between 0 and 1"),
        ("data: [digits]\noptions: 3", "options must be names and values"),
        ("data: [digits]\nheads: spinal,mlp\nconfirmatory: [linear]", "linear"),
        ("- digits", "must hold names and values"),
        ("data: [", "is no YAML"),
        ("a: &a [*a]", "it has aliases"),
        ("data: " + "[" * 20_000, "nested deeper"),
        ("data: !!binary aGk=", "no plain value"),
        ("data: [no]", "a data set is a name"),
        ("data: [{data: digits, name: no}]", "name must be text or an integer, got False"),
        ("data: [{data: digits, name: 010}]", "010 in line 1 is another number to some"),
        ("data: [{data: t.csv, target: on}]", "target must be text or null, got True"),
        ("data: [digits]\nrope: yes", "rope must be a number, got True"),
        ("data: [digits]\nrope: .nan", "rope must be a number between 0 and 1"),
        ("data: [digits]\noptions: {freeze: 'no'}", "freeze must be true or false, got 'no'"),
        ("data: [digits]\noptions: {augment: off}", "augment must be text, got False"),
        ("data: [digits]\noptions: {limit: 1:40}", "1:40 in line 2 is another number to some"),
        ("data: [digits]\noptions: {folds: 1e1}", "folds must be an integer, got '1e1'"),
        ("data: [digits]\noptions: {seeds: 3}", "options must not hold seeds"),
        ("data: [{data: digits, options: {epochs: yes}}]", "epochs must be an integer, got True"),
        ("data: [digits]\n---\nseeds: 3", "found another document"),
        ("", "must hold names and values"),
    ],
)
def test_a_study_file_that_says_something_else_is_refused(tmp_path, text, said):
    file = tmp_path / "s.yaml"
    file.write_text(text)
    done = CliRunner().invoke(app, ["study", str(file), "--out", str(tmp_path / "o")])
    assert done.exit_code == 2 or isinstance(done.exception, InputError)
    with pytest.raises(InputError, match=re.escape(said)):
        StudySpec.read(file)
    assert not (tmp_path / "o").exists()


def test_a_folder_of_a_study_has_no_name_that_windows_keeps(tmp_path):
    names = ["aux.csv", "con", "COM1.tar.csv", "auxiliary.csv", "nul-1.csv", "digits"]
    file = tmp_path / "s.yaml"
    file.write_text(f"data: {json.dumps(names)}")
    kept = ["_aux.csv", "_con", "_COM1.tar.csv", "auxiliary.csv", "nul-1.csv", "digits"]
    assert list(StudySpec.read(file).data) == kept


def test_numbers_of_a_study_file_are_read_as_they_are_meant(tmp_path):
    file = tmp_path / "s.yaml"
    text = (
        "data: [digits]\r\nrope: 1e-2\r\noptions:\r\n  {lr: 1e-3, epochs: 0x10, limit: 1_000}\r\n"
    )
    for more in (b"", b"\xef\xbb\xbf"):
        file.write_bytes(more + text.encode())
        spec = StudySpec.read(file)
        assert spec.rope == 0.01
        assert spec.options == {"lr": 0.001, "epochs": 16, "limit": 1000}
    file.write_bytes(text.encode("utf-16"))
    with pytest.raises(InputError, match="text in UTF-16; save it as UTF-8"):
        StudySpec.read(file)


def test_what_one_data_set_cannot_take_is_refused_before_the_first_run(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text("data: [digits, 'sklearn:iris']\nseeds: 2\noptions: {epochs: 1}\n")
    with pytest.raises(InputError, match="sklearn-iris: epochs has no meaning for a table"):
        run_study(StudySpec.read(file), tmp_path / "o")
    assert not (tmp_path / "o").exists()
    file.write_text(
        "data: [{data: digits, options: {epochs: 1, limit: 60}}, 'sklearn:iris']\n"
        "heads: mlp,linear\nseeds: 2\n"
    )
    found = run_study(StudySpec.read(file), tmp_path / "o", jobs=1)
    assert set(found.means) == {"digits", "sklearn-iris"}


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="no study file"):
        StudySpec.read(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="no finished comparison"):
        read_folders([tmp_path])
    with pytest.raises(InputError, match=r"none' is not there: name a study file"):
        read_folders([tmp_path / "none"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wiring.py", r"is a script, which `python .*wiring.py` starts"),
        ("a.png", "is no such file"),
    ],
)
def test_a_sound_file_of_another_kind_is_not_called_damaged(tmp_path, name, said):
    path = tmp_path / name
    path.write_text("print('*')\n")
    with pytest.raises(InputError, match=said) as refused:
        read_folders([path])
    assert "damaged" not in str(refused.value)
    assert "study file (.yaml)" in str(refused.value)


def test_committed_results_can_be_put_together(tmp_path):
    names = ("digits", "fashion-mnist", "cifar10-features-again")
    summaries = read_folders([RESULTS / f"{name}.json" for name in names])
    found = together(summaries, ["linear", "mlp"])
    assert found.ranks is not None
    assert set(found.means) == set(names)
    exploratory = [pair.minus for pair in found.pairs if not pair.confirmatory]
    assert set(exploratory).isdisjoint({"linear", "mlp"})
    # Corrected over all data sets, an answer can only become weaker.
    for pair in found.pairs:
        for name, code in pair.answers.items():
            alone = next(h for h in summaries[name].heads if h.head == pair.minus).difference.code
            assert code in (alone, "undecided")
    assert write_study(found, tmp_path).exists()


def test_two_studies_do_not_share_a_folder(tmp_path):
    (tmp_path / "s.yaml").write_text("data: [digits]\nheads: mlp,linear\nseeds: 2\n")
    held, enough = threading.Event(), threading.Event()

    def hold():
        with FolderLock(tmp_path / "o"):
            held.set()
            enough.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(60)
    try:
        with pytest.raises(FolderInUse, match="in use by"):
            run_study(StudySpec.read(tmp_path / "s.yaml"), tmp_path / "o", jobs=1)
        done = command("study", tmp_path / "s.yaml", "--out", tmp_path / "o")
        assert (done.returncode, "wait for it with --wait" in done.stderr) == (2, True), done.stderr
    finally:
        enough.set()
        holder.join()
    assert "--wait" in command("study", "--help").stdout
