import dataclasses

import pytest
import yaml

from spinalnet._checks import InputError
from spinalnet.training.config import SCHEDULES, Outcome, TrainConfig, parse_mix


def test_config_round_trips_through_yaml():
    config = TrainConfig(lr=1e-5, phases=((0.1, 3), (1e-4, 2)), deterministic=True)
    assert (config.lr, config.epochs) == (0.1, 5)
    text = yaml.safe_dump(config.to_dict())
    assert TrainConfig.from_dict(yaml.safe_load(text)) == config
    read = TrainConfig.from_dict({"lr": "1e-2", "clip_norm": 1})
    assert read == TrainConfig(lr=0.01, clip_norm=1.0)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"epoch": 3}, "unknown training option 'epoch'; did you mean 'epochs'"),
        ({"optimizer": "adamv"}, "unknown optimizer 'adamv'; did you mean 'adam"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'; did you mean 'cosine'"),
        ({"amp": "fp8"}, "unknown amp"),
        ({"epochs": 0}, "epochs must be an integer >= 1"),
        ({"epochs": 2.5}, "epochs must be an integer"),
        ({"lr": 0}, "lr must be a positive number"),
        ({"lr": "fast"}, "lr must be a number, got 'fast'"),
        ({"lr": float("nan")}, "lr must be a positive number"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0.0, 1.0\)"),
        ({"ema_decay": -0.1}, "ema_decay must be in"),
        ({"early_stopping": -1}, "early_stopping must be in"),
        ({"divide_by": 0.0}, "divide_by must be above 0"),
        ({"trunk_lr": 0.0}, "trunk_lr must be above 0"),
        ({"layer_decay": float("inf")}, "layer_decay must be above 0"),
        ({"head_epochs": 20}, "must be below epochs=20, got 20 and 0: nothing but the head"),
        ({"unfreeze_every": 3, "epochs": 3}, "must be below epochs=3, got 0 and 3"),
        ({"head_epochs": -1}, "head_epochs must be in"),
        ({"mix": "mixup:0"}, "mix must be none, mixup:ALPHA.*got 'mixup:0'"),
        ({"mix": "cutmix:a"}, "mix must be none"),
        ({"mix": "mixup+mixup"}, "mix must be none"),
        ({"mix": "blend"}, "mix must be none"),
        ({"deterministic": "yes"}, "deterministic must be true or false"),
        ({"phases": [[0.1, 0]]}, "epochs of a phase must be an integer >= 1"),
        ({"phases": [[-0.1, 1]]}, "lr must be a positive number"),
        ({"phases": [0.1]}, "phases must be"),
    ],
)
def test_impossible_settings_are_one_sentence(values, sentence):
    with pytest.raises(InputError, match=sentence):
        TrainConfig.from_dict(values)


def test_every_option_has_a_help_sentence():
    for option in dataclasses.fields(TrainConfig):
        assert option.metadata["help"].endswith(".")
    assert all(row.summary for row in SCHEDULES.values())


def test_the_rule_of_the_cifar_cnn_gives_the_published_rates():
    config = TrainConfig(epochs=50, lr=1e-3, schedule="cnn-a")
    rate = [1e-3 * SCHEDULES["cnn-a"].along(config, epoch, 50) for epoch in range(41)]
    assert rate[:2] == [1e-3, 1e-3]
    assert rate[2:22] == pytest.approx([3.33e-4] * 20, rel=2e-3)
    assert rate[22] == pytest.approx(1.11e-4, rel=2e-3)
    assert (rate[25], rate[30], rate[40]) == pytest.approx((4e-6, 1.7e-8, 3e-13), rel=0.05)


OUTCOME = Outcome(epochs_done=3, base_lr=0.1, lr=0.04, score=0.5, best=0.6, draw=0.5)


@pytest.mark.parametrize(
    ("schedule", "options", "outcome", "lr", "new"),
    [
        ("redraw", {}, {}, 0.1 * 0.5**3, False),
        ("redraw", {"redraw_power": 5.0}, {}, 0.1 * 0.5**5, False),
        ("redraw", {}, {"score": 0.7}, 0.04, False),
        ("redraw", {}, {"score": 0.6}, 0.1 * 0.5**3, False),
        ("redraw", {"ties_improve": True}, {"score": 0.6}, 0.04, False),
        ("divide-on-plateau", {}, {}, 0.04 / 3, False),
        ("divide-on-plateau", {"divide_by": 2.0}, {}, 0.02, False),
        ("divide-on-plateau", {}, {"score": 0.7}, 0.04, False),
        ("divide-on-plateau", {"ties_improve": True}, {"score": 0.6}, 0.04, False),
        ("restart-sgd", {"restart_from": 4}, {}, 0.04, False),
        ("restart-sgd", {"restart_from": 3}, {}, 5 * 0.1 * 0.5**3, True),
        ("restart-sgd", {}, {"score": 0.7}, 5 * 0.1 * 0.5**3, True),
    ],
)
def test_rules_after_an_epoch(schedule, options, outcome, lr, new):
    config = TrainConfig(schedule=schedule, **options)
    rate = SCHEDULES[schedule].after(config, dataclasses.replace(OUTCOME, **outcome))
    assert rate.lr == pytest.approx(lr)
    assert rate.new_optimizer is new


def test_mixes_are_read():
    assert parse_mix("none") == ()
    assert parse_mix("cutmix") == (("cutmix", 1.0),)
    assert parse_mix("both") == parse_mix("mixup:0.2+cutmix:1.0")
