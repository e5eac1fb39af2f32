"""How to train: `TrainConfig`, and `SCHEDULES`, the one table of learning-rate policies.

This file does not need torch, so that the command line can offer every option without loading it.
One more schedule is one row of `SCHEDULES`; one more option is one field of `TrainConfig`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from spinalnet._checks import InputError, check_positive, read_fields, unknown_name


def _option(
    default: Any,
    help: str,
    choices: tuple[str, ...] = (),
    *,
    also: str = "",
    neutral: bool = False,
    recipe: bool = False,
) -> Any:
    metadata = {"help": help, "choices": choices, "also": also, "neutral": neutral}
    return field(default=default, metadata={**metadata, "recipe": recipe})


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Flat and plain, so it is a YAML mapping and a row of command-line options.

    Each field's `metadata` holds its "help" sentence, its "choices" (empty when free), a word that
    may stand for its number ("also"), whether it is "neutral": a way to the same result, which is
    no part of what a run is asked for, and whether only a "recipe" of the paper has a use for it.

    Raises:
        InputError: If a value is impossible; the sentence names the field.
    """

    epochs: int = _option(20, "Passes over the training data.")
    batch_size: int = _option(
        64, "Examples per step, over all processes; auto: 64 with --accumulate 0.", also="auto"
    )
    accumulate: int = _option(
        1,
        "Parts in which a batch is computed, one after another, to need less memory; 0: as many as "
        "the memory asks for.",
        neutral=True,
    )
    eval_batch_size: int = _option(512, "Examples per batch where nothing is trained.")
    optimizer: str = _option("adamw", "Update rule.", ("adamw", "adam", "sgd"))
    lr: float = _option(
        1e-2,
        "Base learning rate; where a command names none, 0.003 for colour images from scratch, "
        "0.001 for heads on a frozen network.",
    )
    weight_decay: float = _option(0.0, "Weight decay; decoupled with adamw, L2 otherwise.")
    momentum: float = _option(0.9, "Momentum of sgd.")
    schedule: str = _option("cosine", "How the rate moves.")
    warmup_epochs: float = _option(0.0, "Epochs over which the rate rises linearly from zero.")
    step_size: int = _option(7, "Schedule step: epochs between two decays.")
    gamma: float = _option(0.1, "Schedule step: factor of each decay.")
    divide_by: float = _option(
        3.0, "Schedule divide-on-plateau: divisor without improvement.", recipe=True
    )
    redraw_power: float = _option(
        3.0, "Schedules redraw, restart-sgd: p of the draw U**p.", recipe=True
    )
    ties_improve: bool = _option(
        False, "Whether repeating the best score is an improvement.", recipe=True
    )
    restart_from: int = _option(
        0, "Schedule restart-sgd: epochs before the first restart.", recipe=True
    )
    phases: tuple[tuple[float, int], ...] = _option(
        (),
        "Phases (lr, epochs), each with a new optimizer and the schedule from its start; the "
        "best weights are kept over all phases. Sets lr and epochs.",
        recipe=True,
    )
    trunk_lr: float = _option(1.0, "Factor of the rate for all of a model but its head.")
    layer_decay: float = _option(
        1.0, "Factor of the rate per depth group of the trunk, counted from the head down."
    )
    head_epochs: int = _option(0, "First epochs, in which the head alone is trained.")
    unfreeze_every: int = _option(
        0, "Epochs after which one more depth group is trained, from the head down; 0: all at once."
    )
    keep_statistics: bool = _option(
        False, "Normalise batches in the trunk by the statistics it came with, not by their own."
    )
    decay_norms: bool = _option(True, "Whether biases and norms decay as the other weights do.")
    clip_norm: float = _option(0.0, "Largest norm of the gradient; 0 for no limit.")
    label_smoothing: float = _option(0.0, "Share of the target spread over all classes.")
    class_weights: str = _option(
        "none", "Weights of the classes in the training loss.", ("none", "balanced")
    )
    ema_decay: float = _option(0.0, "Decay of the averaged weights that are kept; 0 for none.")
    amp: str = _option(
        "auto",
        "Mixed precision; auto: bf16 (or fp16) on CUDA, off elsewhere.",
        ("auto", "off", "bf16", "fp16"),
    )
    channels_last: bool = _option(
        True, "Keep images and filters channels-last in memory (faster on CPU and tensor cores)."
    )
    early_stopping: int = _option(0, "Stop after so many epochs without a new best; 0: never.")
    augment: str = _option(
        "none", "Augmentation of training images (spinalnet list), such as rotation:10."
    )
    mix: str = _option(
        "none",
        "Mixes the images of a batch, and their classes: mixup:ALPHA, cutmix:ALPHA, one of them at "
        "random (mixup:ALPHA+cutmix:ALPHA), or both, which is mixup:0.2+cutmix:1.",
    )
    seed: int = _option(0, "Seed of every random draw.")
    on_nonfinite: str = _option(
        "stop",
        "A step whose loss or gradient is not finite: end the run with its last good state, or "
        "leave the step out and count it.",
        ("stop", "skip"),
    )
    save_every: str = _option(
        "5m",
        "Time after which a running epoch is saved: 90s, 5m, 2h; 0: at its end only.",
        neutral=True,
    )
    deterministic: bool = _option(False, "Use deterministic kernels only (slower on CUDA).")
    device: str = _option("auto", "Where to train.", ("auto", "cpu", "cuda", "mps"))

    def __post_init__(self) -> None:
        try:
            phases = tuple((float(lr), epochs) for lr, epochs in self.phases)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"phases must be a list of [lr, epochs], got {self.phases!r}."
            ) from error
        object.__setattr__(self, "phases", phases)
        if phases:
            for _, epochs in phases:
                check_positive("the epochs of a phase", epochs)
            object.__setattr__(self, "lr", phases[0][0])
            object.__setattr__(self, "epochs", sum(epochs for _, epochs in phases))
        if isinstance(self.batch_size, str):  # from a command line
            automatic = self.batch_size == "auto"
            size = TrainConfig.batch_size if automatic else _as_integer(self.batch_size)
            object.__setattr__(self, "batch_size", size)
            object.__setattr__(self, "accumulate", 0 if automatic else self.accumulate)
        if self.accumulate != 0:
            check_positive("accumulate", self.accumulate)
        _ = self.save_seconds
        for name in ("epochs", "batch_size", "eval_batch_size", "step_size"):
            check_positive(name, getattr(self, name))
        for option in dataclasses.fields(self):
            value, choices = getattr(self, option.name), option.metadata["choices"]
            if choices and value not in choices:
                raise unknown_name(option.name, value, choices)
        if self.schedule not in SCHEDULES:
            raise unknown_name("schedule", self.schedule, SCHEDULES)
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value < high:
                raise InputError(f"{name} must be in [{low}, {high}), got {value!r}.")
        if not all(0.0 < lr < math.inf for lr in (self.lr, *(lr for lr, _ in phases))):
            raise InputError(f"lr must be a positive number, got {self.phases or self.lr!r}.")
        parse_mix(self.mix)
        for name in ("divide_by", "trunk_lr", "layer_decay"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be above 0, got {getattr(self, name)!r}.")
        if max(self.head_epochs, self.unfreeze_every) >= self.epochs:
            raise InputError(
                f"head_epochs and unfreeze_every must be below epochs={self.epochs}, got "
                f"{self.head_epochs} and {self.unfreeze_every}: nothing but the head would learn."
            )

    @property
    def uses_depth(self) -> bool:
        """Whether the parts of a model are trained differently by their depth."""
        return bool(
            self.head_epochs
            or self.unfreeze_every
            or self.keep_statistics
            or self.trunk_lr != 1.0
            or self.layer_decay != 1.0
        )

    def groups_trained(self, epoch: int, groups: int) -> int:
        """Return how many of the depth groups, head first, learn in `epoch` (from 0)."""
        alone = self.head_epochs or self.unfreeze_every
        if epoch < alone:
            return 1
        if not self.unfreeze_every:
            return groups
        return min(groups, 2 + (epoch - alone) // self.unfreeze_every)

    @property
    def save_seconds(self) -> float:
        """Seconds after which a running epoch is saved; infinity for never."""
        number, unit = self.save_every[:-1], self.save_every[-1:]
        if unit not in _SECONDS:
            number, unit = self.save_every, "s"
        try:
            seconds = float(number) * _SECONDS[unit]
        except ValueError:
            seconds = -1.0
        if not 0.0 <= seconds < math.inf:
            raise InputError(
                f"save_every must be a time such as 90s, 5m or 2h, or 0, got {self.save_every!r}."
            )
        return seconds or math.inf

    def to_dict(self) -> dict[str, Any]:
        """Return what decides the result, as plain values that YAML and JSON hold."""
        options = [option for option in dataclasses.fields(self) if not option.metadata["neutral"]]
        values = {option.name: getattr(self, option.name) for option in options}
        return values | {"phases": [list(phase) for phase in self.phases]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Build the settings from a mapping such as `to_dict` gives; absent fields take defaults.

        Raises:
            InputError: If a field is unknown (the nearest known one is named) or its value wrong.
        """
        return cls(**read_fields(cls, values, "training option"))

    def phase(self, epoch: int) -> tuple[float, int, int]:
        """Return (base rate, first epoch, epochs) of the phase that `epoch` (from 0) is in."""
        first = 0
        for lr, epochs in self.phases:
            if epoch < first + epochs:
                return lr, first, epochs
            first += epochs
        return self.lr, 0, self.epochs


_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _as_integer(text: str) -> int:
    if not text.strip().isdecimal():
        raise InputError(f"batch_size must be an integer >= 1, or auto, got {text!r}.")
    return int(text)


def parse_mix(text: str) -> tuple[tuple[str, float], ...]:
    """Return what `TrainConfig.mix` asks for: names ("mixup", "cutmix") with their alpha.

    Raises:
        InputError: If it asks for something else.
    """
    if text == "none":
        return ()
    found: dict[str, float] = {}
    for part in ("mixup:0.2+cutmix:1" if text == "both" else text).split("+"):
        name, _, number = part.strip().partition(":")
        try:
            alpha = float(number or 1.0)
        except ValueError:
            alpha = 0.0
        if name not in ("mixup", "cutmix") or name in found or not 0.0 < alpha < math.inf:
            raise InputError(
                "mix must be none, mixup:ALPHA, cutmix:ALPHA, the two joined by +, or both, with "
                f"ALPHA above 0; got {text!r}."
            )
        found[name] = alpha
    return tuple(found.items())


_RANGES = (
    ("weight_decay", 0.0, math.inf),
    ("momentum", 0.0, 1.0),
    ("warmup_epochs", 0.0, math.inf),
    ("gamma", 0.0, math.inf),
    ("redraw_power", 0.0, math.inf),
    ("restart_from", 0, math.inf),
    ("head_epochs", 0, math.inf),
    ("unfreeze_every", 0, math.inf),
    ("clip_norm", 0.0, math.inf),
    ("label_smoothing", 0.0, 1.0),
    ("ema_decay", 0.0, 1.0),
    ("early_stopping", 0, math.inf),
    ("seed", 0, 2**63),
)


@dataclass(frozen=True)
class Outcome:
    """What a schedule may know after an epoch of its phase."""

    epochs_done: int  # in this phase
    base_lr: float
    lr: float  # that the epoch was trained with
    score: float  # on the validation data; higher is better: accuracy, or minus the MSE
    best: float  # the best score of the epochs before; -inf at first
    draw: float  # U, uniform in [0, 1), drawn from (seed, epoch)

    def improved(self, ties: bool) -> bool:
        """Return whether the score beats the best so far, or, with `ties`, repeats it."""
        return self.score >= self.best if ties else self.score > self.best


@dataclass(frozen=True)
class Rate:
    """The rate of the next epoch, and whether the optimizer starts anew (momentum lost)."""

    lr: float
    new_optimizer: bool = False


@dataclass(frozen=True)
class Schedule:
    """One row of `SCHEDULES`: a multiple of the base rate over time, or a rule after each epoch.

    `along(config, t, epochs)` gives the multiple at time `t` (in epochs, 0 <= t < epochs) of a
    phase of `epochs` epochs. `after(config, outcome)` gives the rate of the next epoch.
    """

    summary: str
    along: Callable[[TrainConfig, float, float], float] = lambda config, t, epochs: 1.0
    after: Callable[[TrainConfig, Outcome], Rate] | None = None


def _step(config: TrainConfig, t: float, epochs: float) -> float:
    return config.gamma ** (int(t) // config.step_size)


def _cosine(config: TrainConfig, t: float, epochs: float) -> float:
    warmup = min(config.warmup_epochs, epochs)
    if t < warmup or warmup == epochs:
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * (t - warmup) / (epochs - warmup)))


def _one_cycle(config: TrainConfig, t: float, epochs: float) -> float:
    """Rise from 1/25 to 1 over the first 30 %, then fall to 1/10000 (Smith and Topin, 2018)."""
    rise = 0.3 * epochs
    low, share = (1 / 25, t / rise) if t < rise else (1e-4, (epochs - t) / (epochs - rise))
    return low + (1.0 - low) * 0.5 * (1.0 - math.cos(math.pi * share))


def _cnn_a(config: TrainConfig, t: float, epochs: float) -> float:
    """Divide by 3 after the second epoch and after every epoch from the 22nd on."""
    # Paper: the code of the CIFAR-10 CNN; the rate is 1e-9 of the base by epoch 40.
    epoch = int(t)
    return 3.0 ** -((epoch >= 2) + max(0, epoch - 21))


def _redraw(config: TrainConfig, outcome: Outcome) -> Rate:
    if outcome.improved(config.ties_improve):
        # Paper: the code goes on with the last drawn rate, not with the base rate.
        return Rate(outcome.lr)
    return Rate(outcome.base_lr * outcome.draw**config.redraw_power)


def _divide(config: TrainConfig, outcome: Outcome) -> Rate:
    if outcome.improved(config.ties_improve):
        return Rate(outcome.lr)
    return Rate(outcome.lr / config.divide_by)


def _restart_sgd(config: TrainConfig, outcome: Outcome) -> Rate:
    if outcome.epochs_done < config.restart_from:
        return Rate(outcome.lr)
    return Rate(5.0 * outcome.base_lr * outcome.draw**config.redraw_power, new_optimizer=True)


SCHEDULES: dict[str, Schedule] = {
    "constant": Schedule("the base rate throughout"),
    "step": Schedule("times gamma every step_size epochs", along=_step),
    "cosine": Schedule("half a cosine from the base rate to zero", along=_cosine),
    "one-cycle": Schedule("a cosine rise, then a long cosine fall", along=_one_cycle),
    "redraw": Schedule("base * U**redraw_power after no improvement", after=_redraw),
    "divide-on-plateau": Schedule("divided by divide_by after no improvement", after=_divide),
    "restart-sgd": Schedule(
        "after restart_from epochs, each with a new optimizer at 5 * base * U**redraw_power",
        after=_restart_sgd,
    ),
    "cnn-a": Schedule("the paper's CIFAR-10 CNN: divided by 3 in fixed epochs", along=_cnn_a),
}
