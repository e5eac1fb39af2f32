"""What the folders of a data set are: parts (train, val, test), classes, or neither.

Folders are called as people call them, so a name alone does not decide: a class may be called
train, and a folder beside train/ may hold anything. What can be read in two ways is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from spinalnet._checks import InputError, some
from spinalnet.data.walking import UNASKED_FOLDER, Level, Reason, Walk, instead
from spinalnet.texts import shown

PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "eval"),
    "test": ("test", "testing"),
}
# Beside the word of a part in a folder's name: train_images, training-set, seg_train.
_FILLERS = frozenset(
    (
        *("images", "imgs", "image", "img", "pics", "pictures", "photos", "set", "data"),
        *("dataset", "split", "folder", "dir", "files", "jpg", "png", "seg"),
    )
)
# What people call folders beside train/ that hold no class.
_NO_CLASSES = frozenset(
    (
        *("sample", "samples", "dev", "unlabeled", "unlabelled", "unsup", "unsupervised", "extra"),
        *("annotations", "annotation", "labels", "label", "masks", "mask", "docs", "doc", "meta"),
        *("metadata", "models", "model", "logs", "log", "runs", "results", "output", "outputs"),
        *("code", "scripts", "src", "tmp", "temp", "backup", "thumbs", "thumbnails", "demo"),
        *("example", "examples", "predict", "pred", "seg_pred", "prediction", "predictions"),
        *("single_prediction", "submission", "raw", "original", "originals"),
    )
)


def base_name(path: str) -> str:
    """Return the last name in a path."""
    return path.rsplit(os.sep, 1)[-1]


def part_of(name: str) -> str | None:
    """Return which part a folder of this name is: train, train_images, TRAINING-SET; None: none."""
    words = re.split(r"[\s_.-]+", re.sub(r"^(train|test|val)(set|data)$", r"\1", name.lower()))
    left = [word for word in words if word not in _FILLERS]
    known = {word: part for part, names in PARTS.items() for word in names}
    return known.get(left[0]) if len(left) == 1 else None


def has_parts(folder: Path) -> bool:
    """Return whether a folder holds folders of parts (train, test, ...)."""
    if not folder.is_dir():
        return False
    return any(part_of(base_name(path)) for path in Walk().level(str(folder)).folders)


class Layout:
    """Which folders of a data set are parts, and which are classes of its one part, "train".

    Attributes:
        folder: The data set.
        top: What lies directly in it.
        parts: Folder of every part that has one.
        levels: What lies directly in the folder of every part; where there is none, `top`.
        notes: What was decided, where another reading would be possible.

    Raises:
        InputError: If it can be read in two ways, or a part has no classes.
    """

    def __init__(self, folder: str, walk: Walk, *, trains: bool = True) -> None:
        self.folder, self.walk, self.notes = folder, walk, []
        self.top = walk.level(folder)
        self.parts, self._others = self._by_name(), []
        self._others = [sub for sub in self.top.folders if sub not in self.parts.values()]
        self.levels = {part: self._level_of(path) for part, path in self.parts.items()}
        if "train" in self.parts:
            self._with_train()
        elif self.parts:
            self._without_train(trains)
        if not trains:  # one part is enough
            for part in ("test", "val", "train"):
                if part in self.parts:
                    self.parts, self.levels = {part: self.parts[part]}, {part: self.levels[part]}
                    break
        self._put_down_rest()
        self._refuse_parts_without_classes()

    def name_of(self, part: str) -> str:
        """Return what the folder of a part is called."""
        return base_name(self.parts[part])

    def _by_name(self) -> dict[str, str]:
        parts: dict[str, str] = {}
        for sub in self.top.folders:
            part = part_of(base_name(sub))
            if part is None:
                continue
            if part in parts:
                raise InputError(
                    f"'{self.folder}' has two folders for {part}, '{base_name(parts[part])}' and "
                    f"'{base_name(sub)}'; keep one of them, or leave one out with ignore=NAME."
                )
            parts[part] = sub
        return parts

    def _level_of(self, path: str) -> Level:
        """Return what lies in the folder of a part; some archives hold training/training/CLASS."""
        level = self.walk.level(path)
        inner = level.folders[0] if len(level.folders) == 1 else ""
        is_same = base_name(inner).lower() == base_name(path).lower()
        return self.walk.level(inner) if is_same else level

    def _class_names(self, part: str) -> set[str]:
        return {base_name(path) for path in self.levels[part].folders}

    def _with_train(self) -> None:
        """See whether what is called train is a part, or one of the classes."""
        candidates = [
            path
            for path in self._others
            if base_name(path).lower() not in _NO_CLASSES and self.walk.holds_images(path)
        ]
        train = self.levels["train"]
        if not any(map(self.walk.holds_images, train.folders)):
            if candidates and train.images:  # bus/, car/, train/ with images in them
                self._refuse_mixed([path for part, path in self.parts.items() if part != "train"])
                self._take_for_classes()
            return
        agree = [p for p in self.parts if self._class_names(p) & self._class_names("train")]
        if candidates and agree == ["train"]:
            name, inside = self.name_of("train"), sorted(self._class_names("train"))
            others = [base_name(path) for path in candidates]
            beside = [f"{other}/" for other in others]
            raise InputError(
                f"'{self.folder}' can be read in two ways: {name}/ is the training part, with the "
                f"classes {some(inside, 3)}, or it is a class beside {some(beside, 3)}; leave out "
                f"what is no data (ignore={','.join(others)}), or rename {name}/."
            )

    def _without_train(self, trains: bool) -> None:
        """See whether what is called test or val is a part, or one of the classes."""
        if self._others:
            self._refuse_mixed([*self.parts.values()])
            self._take_for_classes()
        elif trains:
            names = " and ".join(sorted(self.parts))
            raise InputError(f"'{self.folder}' has {names} but no train folder.")

    def _refuse_mixed(self, paths: Sequence[str]) -> None:
        """Refuse folders of parts that hold the classes they lie beside."""
        beside = {base_name(path) for path in self.top.folders} - set(map(base_name, paths))
        for path in paths:
            both = sorted(beside & {base_name(sub) for sub in self._level_of(path).folders})
            if both:
                name = base_name(path)
                raise InputError(
                    f"'{self.folder}' holds the class folder{'s' * (len(both) > 1)} "
                    f"{some(both, 3)} beside {name}/, which has such folders too: "
                    "move the training classes into a folder train/, "
                    f"or leave out {name}/ with ignore={name}."
                )

    def _take_for_classes(self) -> None:
        named = [f"{base_name(path)}/" for path in self.parts.values()]
        is_are, part = ("is a class", "a part") if len(named) == 1 else ("are classes", "parts")
        self.notes.append(
            f"{' and '.join(named)} {is_are} like the folders beside, not {part} of the data; "
            "where that is wrong, put the classes into a folder train/."
        )
        self.parts, self.levels = {}, {}

    def _put_down_rest(self) -> None:
        """Put down what lies beside the parts, and images beside the classes."""
        if self.parts:
            first = "train" if "train" in self.parts else next(iter(self.parts))
            beside = f"{shown(self.name_of(first))}/"
            for path in self._others:
                reason = Reason(f"folder {shown(base_name(path))}/ beside {beside}", UNASKED_FOLDER)
                self.walk.tally.add(reason, path, self.walk.counted(path))
            self._put_down(self.top.images, beside)
        else:
            self.levels = {"train": self.top}
        for level in self.levels.values():
            if level.folders:
                self._put_down(level.images, "the class folders")

    def _put_down(self, images: Sequence[str], beside: str) -> None:
        for path in images:
            self.walk.tally.add(Reason(f"image beside {beside}", f"images beside {beside}"), path)

    def _refuse_parts_without_classes(self) -> None:
        """Refuse folders of parts that hold no classes, all of them at once."""
        wrong, flat, spare = [], False, []
        for part, path in self.parts.items():
            level = self.levels[part]
            if any(map(self.walk.holds_images, level.folders)):
                continue
            if part != "train":
                spare.append(base_name(path))
            if level.images:
                flat = True
                later = "" if part == "train" else f" (use: spinalnet predict RUN '{path}')"
                count = images_in_words(len(level.images))
                wrong.append(f"'{path}' holds {count} without classes{later}")
            else:
                self.walk.images(path)  # for the tally
                wrong.append(f"'{path}' holds no images ({instead(self.walk, path)})")
        if wrong:
            mend = "give every image a folder named after its class" if flat else "fill the folder"
            if spare:
                mend += f", or do without the part: ignore={','.join(spare)}"
            raise InputError(f"{' and '.join(wrong)}; {mend}.")


def images_in_words(count: int) -> str:
    """Return "1 image", "2 images"."""
    return f"{count} image{'s' * (count != 1)}"
