"""A trained model as a folder that others load: plain configuration, safetensors, a card.

`save_pretrained` writes the folder, `push_to_hub` sends it to the Hugging Face hub, and
`from_pretrained` reads either. Nothing in it is code. What is sent names data sets, never the
folders they lie in.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from spinalnet import files
from spinalnet._checks import InputError, install_extra
from spinalnet.comparison import load
from spinalnet.comparison.loading import run_of
from spinalnet.comparison.tables.store import MODEL_FILE
from spinalnet.deploy import card
from spinalnet.models.features import TRUNK_FILE
from spinalnet.nn import ACTIVATIONS, SpinalNet, made_for

if TYPE_CHECKING:
    from spinalnet.comparison import TableModel, TrainedModel

CONFIG_FILE, CARD_FILE = "config.json", "README.md"
_KINDS = ("image", "table", "head")
_WANTED = (CONFIG_FILE, CARD_FILE, MODEL_FILE, TRUNK_FILE)


def save_pretrained(model: str | Path | SpinalNet, folder: str | Path) -> Path:
    """Write a model as a folder that `from_pretrained` reads, with a card about it.

    Args:
        model: Folder of a run (of images or a table) or of a comparison, whose best run is taken;
            or a `SpinalNet` alone. The weights of the latter can be loaded by a class of your own
            that inherits from it and from the hub's `PyTorchModelHubMixin`, too.
        folder: Made if it is missing; files of an earlier model in it are replaced.

    Raises:
        InputError: If there is no such model, or it is not kept as data.
    """
    folder = Path(folder)
    if isinstance(model, nn.Module):
        config = {"spinalnet": "head", **head_arguments(model)}
        folder.mkdir(parents=True, exist_ok=True)
        files.save_weights(folder / MODEL_FILE, model.state_dict(), {"kind": "head"})
        (folder / TRUNK_FILE).unlink(missing_ok=True)
        text = card.of_head(config)
    else:
        run = run_of(Path(model).expanduser())
        load(run)  # refuses what cannot be used, before anything is written
        weights, header = files.load_weights(run / MODEL_FILE)
        header = {**header, "data": Path(str(header.get("data") or "")).name}
        kind = "table" if header.get("format") == "table" else "image"
        if kind == "table" and header.get("not_kept"):
            raise InputError(
                f"{run} does not hold its model as data ({header['not_kept']}): it cannot be "
                "loaded without the table; train another head."
            )
        config = {"spinalnet": kind, **card.facts(run, header)}
        folder.mkdir(parents=True, exist_ok=True)
        files.save_weights(folder / MODEL_FILE, weights, header)
        (folder / TRUNK_FILE).unlink(missing_ok=True)
        if (run / TRUNK_FILE).exists():
            shutil.copyfile(run / TRUNK_FILE, folder / TRUNK_FILE)
        text = card.of_run(run, config)
    files.write_text(folder / CONFIG_FILE, files.to_json(config))
    files.write_text(folder / CARD_FILE, text)
    return folder


def from_pretrained(
    source: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
) -> TrainedModel | TableModel | SpinalNet:
    """Read what `save_pretrained` wrote, from a folder or from the hub.

    Args:
        source: A folder, or the name of a repository, such as "name/model".
        revision: Of the repository: a branch, tag or commit.
        token: For repositories that are not public; the one that is logged in without it.
        cache_dir: Where downloads are kept; the hub's own folder without it.

    Returns:
        A `SpinalNet` in evaluation mode, or what `spinalnet.load` returns.

    Raises:
        InputError: If it is no model of ours, or cannot be fetched.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        folder = _fetched(str(source), revision, token, cache_dir)
    config = files.read_json(folder / CONFIG_FILE)
    kind = config.get("spinalnet") if isinstance(config, dict) else None
    if kind not in _KINDS or config is None:
        raise InputError(
            f"'{source}' holds no model of spinalnet: its {CONFIG_FILE} must say one of "
            f"{', '.join(_KINDS)}, got {kind!r}."
        )
    if kind != "head":
        return load(folder / MODEL_FILE)
    given = {name: value for name, value in config.items() if name != "spinalnet"}
    weights, _ = files.load_weights(folder / MODEL_FILE)
    held = sum(map(Tensor.numel, weights.values()))
    with files.reading(folder / CONFIG_FILE):
        if any(isinstance(value, int) and value > held for value in given.values()):
            raise InputError(f"it names a size that {held:,} weights cannot be of.")
        try:
            with made_for(weights):
                net = SpinalNet(**given)
        except (TypeError, RuntimeError) as error:
            raise InputError(f"it describes no SpinalNet: {str(error).splitlines()[0]}.") from error
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"the weights of '{source}' do not fit its {CONFIG_FILE}: {reason}."
        ) from error
    return net.eval()


def push_to_hub(
    model: str | Path | SpinalNet,
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


def head_arguments(net: nn.Module) -> dict[str, Any]:
    """Return the arguments that make a `SpinalNet` anew.

    Raises:
        InputError: If it is no plain `SpinalNet`, or has an activation without a name.
    """
    if type(net) is not SpinalNet:
        raise InputError(
            f"a {type(net).__name__} is not described by the arguments of SpinalNet: give a "
            "SpinalNet, or the folder of a run."
        )
    spine = net.spine
    names = [name for name, make in ACTIVATIONS.items() if repr(make()) == repr(spine.activation)]
    if not names:
        raise InputError(
            f"the activation {spine.activation!r} has no name, by which it could be made anew: use "
            f"one of {', '.join(ACTIVATIONS)}."
        )
    norms = {"BatchNorm1d": "batch", "LayerNorm": "layer"}
    return {
        "in_features": net.in_features,
        "out_features": net.out_features,
        "hidden_features": spine.hidden_features,
        "num_layers": spine.num_layers,
        "num_splits": spine.num_splits,
        "activation": names[0],
        "norm": norms[type(spine.norms[0]).__name__] if len(spine.norms) else None,
        "dropout": spine.dropout,
        "output_dropout": float(net.output_dropout.p),
        "share_weights": spine.share_weights,
        "bias": net.output.bias is not None,
    }


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
