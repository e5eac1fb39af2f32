"""A trained model as a folder that others load: plain configuration, safetensors, a card.

`save_pretrained` writes the folder, `push_to_hub` sends it to the Hugging Face hub, and
`from_pretrained` reads either. Nothing in it is code. What is sent names data sets, never the
folders they lie in.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spinalnet import files
from spinalnet._checks import InputError, install_extra
from spinalnet.comparison import Comparison, TableModel, TrainedModel, load
from spinalnet.comparison.loading import run_of
from spinalnet.comparison.passed_on import CONFIG_FILE, KIND, read_config, write_config
from spinalnet.comparison.tables.store import MODEL_FILE
from spinalnet.comparison.trained import Description
from spinalnet.deploy import card
from spinalnet.models import ImageModel, zoo
from spinalnet.models.assembly import make_trunk
from spinalnet.models.features import TRUNK_FILE
from spinalnet.nn import (
    HEADS,
    SpinalLayer,
    describe_head,
    largest_size,
    load_weights,
    made_for,
    make_described,
)
from spinalnet.training import runs

if TYPE_CHECKING:
    Savable = str | Path | nn.Module | TrainedModel | TableModel | Comparison

CARD_FILE = "README.md"
_KINDS = ("image", "table", "head", "network")
_WANTED = (CONFIG_FILE, CARD_FILE, MODEL_FILE, TRUNK_FILE)
_OF_NETWORK = ("model", "neck", "in_channels", "image_size", "head")


def save_pretrained(model: Savable, folder: str | Path) -> Path:
    """Write a model as a folder that `from_pretrained` reads, with a card about it.

    Args:
        model: What is written:

            - the folder of a run (of images or a table) or of a comparison, whose best run is
              taken; a `Comparison`; or what `spinalnet.load` returned. Weights that were changed
              since are written as they are, without the results of the run.
            - a head. It can be loaded by a class of your own that inherits from its class and from
              the hub's `PyTorchModelHubMixin`, too.
            - a network of `create_model`, also with another head put in.
            - any other network with a head or a hidden layer of this package: its weights, which
              `from_pretrained` puts into a network that you make (`into`).
        folder: Made if it is missing; files of an earlier model in it are replaced.

    Raises:
        InputError: If there is no such model, or it is not kept as data.
    """
    folder = files.expanded(folder)
    if runs.is_run(folder) or (folder / "comparison.yaml").is_file():
        raise InputError(f"{folder} is the folder of a run or a comparison: name another one.")
    if isinstance(model, Comparison):
        model = model.folder
    if isinstance(model, TableModel):
        model = model.source
    if isinstance(model, TrainedModel):
        config, weights, header, text = _of_trained(model)
    elif isinstance(model, nn.Module):
        config = _describe(model)
        # Of weights that are tied each name gets its own copy.
        state = {key: value.clone() for key, value in model.state_dict().items()}
        weights, header = {MODEL_FILE: state}, {"kind": config[KIND]}
        text = card.of_head(config) if config[KIND] == "head" else card.of_network(config)
    elif isinstance(model, str | Path):
        config, weights, header, text = _of_run(run_of(model))
    else:
        raise InputError(
            f"a {type(model).__name__} cannot be written: give the folder of a run or of a "
            "comparison, what spinalnet.load returned, a head, or a network with one. (An "
            "estimator is written as the run that compare or train makes of it.)"
        )
    with files.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name in (MODEL_FILE, TRUNK_FILE):
        if isinstance(found := weights.get(name), Path):
            if not (folder / name).exists() or not found.samefile(folder / name):
                shutil.copyfile(found, folder / name)
        elif found is not None:
            files.save_weights(folder / name, found, header)
        else:
            (folder / name).unlink(missing_ok=True)
    write_config(folder, config)
    files.write_text(folder / CARD_FILE, text)
    return folder


_Parts = tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]


def _of_run(run: Path) -> _Parts:
    """Return configuration, weights by file, header and card of a run, or of a file."""
    load(run)  # refuses what cannot be used, before anything is written
    file = run if run.is_file() else run / MODEL_FILE
    weights, header = files.load_weights(file)
    header = {**header, "data": Path(str(header.get("data") or "")).name}
    kind = "table" if header.get("format") == "table" else "image"
    if kind == "table" and header.get("not_kept"):
        raise InputError(
            f"{run} does not hold its model as data ({header['not_kept']}): it cannot be "
            "loaded without the table; train another head."
        )
    config = {**card.facts(file.parent, header), KIND: kind}
    trunk = file.parent / TRUNK_FILE
    parts = {MODEL_FILE: weights} | ({TRUNK_FILE: trunk} if trunk.exists() else {})
    return config, parts, header, card.of_run(file.parent, config)


def _of_trained(trained: TrainedModel) -> _Parts:
    """Return the same of a model in memory; the results of its run, if its weights are those."""
    weights = trained.model.state_dict()
    if trained.source is not None and trained.source.exists():
        kept = load(trained.source)
        assert isinstance(kept, TrainedModel)
        there = kept.model.state_dict()
        if there.keys() == weights.keys() and all(
            torch.equal(value, weights[key].to(value.device)) for key, value in there.items()
        ):
            return _of_run(trained.source)
    about = asdict(Description.of(trained.spec, trained.info))
    header = {**about, "data": Path(str(about.get("data") or "")).name}
    config = {**card.facts(None, header), KIND: "image"}
    if not trained.spec.model.freeze:
        return config, {MODEL_FILE: weights}, header, card.of_run(None, config)
    trunk = {key: value for key, value in weights.items() if key.startswith("trunk.")}
    head = {key: value for key, value in weights.items() if key not in trunk}
    return config, {MODEL_FILE: head, TRUNK_FILE: trunk}, header, card.of_run(None, config)


def _describe(model: nn.Module) -> dict[str, Any]:
    """Return the configuration of a head, or of a network with one."""
    if isinstance(model, ImageModel) and (given := _as_made(model)) is not None:
        return {KIND: "network", **given}
    classes = (row.options for row in HEADS.values() if isinstance(row.options, type))
    ours = (*classes, SpinalLayer)
    inner = [module for module in model.modules() if isinstance(module, ours)]
    if not inner or inner[0] is model:
        return {KIND: "head", **describe_head(model)}
    found = {"network": type(model).__name__, "holds": type(inner[0]).__name__}
    return {KIND: "network", **found}


def _as_made(model: ImageModel) -> dict[str, Any] | None:
    """Return what makes a network of `create_model` anew; None of another one, or a changed one."""
    if model.trunk_of is None:
        return None
    try:
        with torch.device("meta"):
            twin = make_trunk(model.name, **model.trunk_of)
        shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (twin, model.trunk)]
        if shapes[0] != shapes[1]:
            return None
        return {"model": model.name, **model.trunk_of, "head": describe_head(model.head)}
    except InputError:
        return None


def from_pretrained(
    source: str | Path,
    *,
    into: nn.Module | None = None,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
) -> TrainedModel | TableModel | nn.Module:
    """Read what `save_pretrained` wrote, from a folder or from the hub.

    Args:
        source: A folder, or the name of a repository, such as "name/model".
        into: A network that the weights are put into, for one that this package did not make:
            made by the code that made the one that was written, its head put in as there.
        revision: Of the repository: a branch, tag or commit.
        token: For repositories that are not public; the one that is logged in without it.
        cache_dir: Where downloads are kept; the hub's own folder without it.

    Returns:
        A head or a network in evaluation mode, or what `spinalnet.load` returns.

    Raises:
        InputError: If it is no model of ours, or cannot be fetched; or if its weights do not fit.
    """
    folder = files.expanded(source)
    if not folder.is_dir():
        folder = _fetched(str(source), revision, token, cache_dir)
    config = read_config(folder)
    kind = config.get(KIND) if isinstance(config, dict) else None
    if kind not in _KINDS or config is None:
        raise InputError(
            f"'{source}' holds no model of spinalnet: its {CONFIG_FILE} must say one of "
            f"{', '.join(_KINDS)}, got {kind!r}."
        )
    if into is None and kind in ("image", "table"):
        return load(folder / MODEL_FILE)
    weights, _ = files.load_weights(folder / MODEL_FILE)
    if (folder / TRUNK_FILE).is_file():
        weights |= files.load_weights(folder / TRUNK_FILE)[0]
    if into is not None:
        net = into
    elif "network" in config:
        raise InputError(
            f"'{source}' holds the weights of a {config['network']}, whose code is not part of "
            "them: make that network, put the head in as its author did, and give it as into=..."
        )
    else:
        with files.reading(folder / CONFIG_FILE):
            net = _made(config, weights)
    try:
        return load_weights(net, weights)
    except InputError as error:
        what = f"its {CONFIG_FILE}" if into is None else "the network given as into"
        raise InputError(f"the weights of '{source}' do not fit {what}: {error}") from error


def _made(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    """Make what a configuration describes, unless the weights cannot be of it."""
    given = {name: value for name, value in config.items() if name != KIND}
    held = sum(map(Tensor.numel, weights.values()))
    if largest_size(given) > held:
        raise InputError(f"it names a size that {held:,} weights cannot be of.")
    if config[KIND] == "head":
        try:
            with made_for(weights):
                return make_described(given)
        except RuntimeError as error:
            raise InputError(f"it describes no head: {str(error).splitlines()[0]}.") from error
    if unknown := sorted(set(given) ^ set(_OF_NETWORK)):
        raise InputError(f"it describes no network: see {', '.join(unknown)}.")
    name, head = str(given.pop("model")), given.pop("head")
    if not isinstance(head, Mapping):
        raise InputError("it describes no network: its head must be a class with its arguments.")
    try:
        with made_for(weights, spare=zoo.spare_parameters(name)):
            model = ImageModel(make_trunk(name, **given), make_described(head), name)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"it describes no network: {str(error).splitlines()[0]}.") from error
    model.trunk_of = given
    return model


def push_to_hub(
    model: Savable,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    message: str = "Upload a model trained with spinalnet",
) -> str:
    """Send a model to the hub; return the address of its page.

    Args:
        model: As `save_pretrained` takes it.
        repo_id: Name of the repository, "name/model"; made if it is missing.
        private: Whether a new repository is seen by you alone.
        token: The one that is logged in without it.
        message: Of the commit.

    Raises:
        InputError: If there is no such model, or the hub refuses.
    """
    hub = _client()
    with tempfile.TemporaryDirectory() as temporary:
        folder = save_pretrained(model, temporary)
        api = hub.HfApi(token=token)
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            return str(
                api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
            )
        except (hub.errors.HfHubHTTPError, hub.errors.HFValidationError, OSError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"the hub did not take '{repo_id}': {reason}.") from error


def _client() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise InputError(
            f"the hub needs huggingface_hub, which is not installed: {install_extra('hub')}."
        ) from error
    return huggingface_hub


def _fetched(
    name: str, revision: str | None, token: str | None, cache_dir: str | Path | None
) -> Path:
    hub = _client()
    try:
        return Path(
            hub.snapshot_download(
                name,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                allow_patterns=list(_WANTED),
            )
        )
    except (
        hub.errors.HFValidationError,
        hub.errors.HfHubHTTPError,
        hub.errors.LocalEntryNotFoundError,
        OSError,
    ) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"'{name}' is no folder here, and could not be fetched from the hub: {reason}."
        ) from error
