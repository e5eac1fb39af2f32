"""Where the files of the named data sets come from: addresses, checksums, and where they go.

The checksums are those that the data sets' owners, or torchvision, have published. What is put in
its place is what torchvision's own classes look for, so that one data folder serves both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Download:
    """A file of the network, and what of it goes where.

    Attributes:
        urls: Addresses of the same file, tried in this order.
        digest: Its checksum, "md5:..." or "sha256:...".
        moves: (Path in what was unpacked, path below the data folder), a folder or a file each;
            "." is all that was unpacked. A file that is no archive is found under its own name.
        inner: Archives within the archive that are unpacked too, as patterns; the rest of it is
            left alone then.
    """

    urls: tuple[str, ...]
    digest: str
    moves: tuple[tuple[str, str], ...]
    inner: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file's name."""
        return file_name(self.urls[0])

    def is_here(self, root: Path) -> bool:
        """Return whether everything is where it goes, below a data folder."""
        return all((root / place).exists() for _, place in self.moves)


def file_name(url: str) -> str:
    """Return the name of the file that an address ends in."""
    return url.partition("?")[0].rpartition("/")[2]


def _idx_files(
    folder: str, mirrors: Iterable[str], files: Iterable[tuple[str, str]]
) -> tuple[Download, ...]:
    """Return gzipped IDX files that go to `folder`/raw, given as (name without .gz, MD5)."""
    places = tuple(mirrors)
    return tuple(
        Download(
            tuple(f"{place}{name}.gz" for place in places),
            f"md5:{md5}",
            ((name, f"{folder}/raw/{name}"),),
        )
        for name, md5 in files
    )


def _of_mnist(*md5s: str) -> list[tuple[str, str]]:
    names = (
        *("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        *("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
    )
    return list(zip(names, md5s, strict=True))


MNIST = _idx_files(
    "MNIST",
    (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    ),
    _of_mnist(
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
)

FASHION_MNIST = _idx_files(
    "FashionMNIST",
    (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    _of_mnist(
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
)

KMNIST = _idx_files(
    "KMNIST",
    ("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
    _of_mnist(
        "bdb82020997e1d708af4cf47b453dcf7",
        "e144d726b3acfaa3e44228e80efcd344",
        "5c965bf0a639b31b8f53240b1b52f4d7",
        "7320c461ea6c1c855c0b718fb2a4b134",
    ),
)

QMNIST = _idx_files(
    "QMNIST",
    ("https://raw.githubusercontent.com/facebookresearch/qmnist/master/",),
    (
        ("qmnist-train-images-idx3-ubyte", "ed72d4157d28c017586c42bc6afe6370"),
        ("qmnist-train-labels-idx2-int", "0058f8dd561b90ffdd0f734c6a30e5e4"),
        ("qmnist-test-images-idx3-ubyte", "1394631089c404de565df7b7aeaf9412"),
        ("qmnist-test-labels-idx2-int", "5b5b05890a5e13444e108efe57b788aa"),
    ),
)

# One archive of six data sets, of which three are known here: fetched for one, it serves all.
EMNIST = (
    Download(
        ("https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",),
        "md5:58c8d27c78d21e728a6bc7b3cc06412e",
        tuple(
            (f"emnist-{split}-{part}-{kind}", f"EMNIST/raw/emnist-{split}-{part}-{kind}")
            for split in ("digits", "letters", "balanced")
            for part in ("train", "test")
            for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
        ),
        inner=tuple(f"gzip/emnist-{split}-*.gz" for split in ("digits", "letters", "balanced")),
    ),
)

CIFAR10 = (
    Download(
        ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
        "md5:c58f30108f718f92721af3b95e74349a",
        (("cifar-10-batches-py", "cifar-10-batches-py"),),
    ),
)

CIFAR100 = (
    Download(
        ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
        "md5:eb9058c3a382ffc7106e4002c42a8d85",
        (("cifar-100-python", "cifar-100-python"),),
    ),
)

SVHN = tuple(
    Download(
        (f"http://ufldl.stanford.edu/housenumbers/{part}_32x32.mat",),
        f"md5:{md5}",
        ((f"{part}_32x32.mat", f"{part}_32x32.mat"),),
    )
    for part, md5 in (
        ("train", "e26dedcc434d2e4c54c9b2d4a06d8373"),
        ("test", "eb5a983be6a315427106f1b164d9cef3"),
    )
)

STL10 = (
    Download(
        ("http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",),
        "md5:91f7769df0f17e558f3565bffb0c7dfb",
        (("stl10_binary", "stl10_binary"),),
    ),
)

FLOWERS102 = tuple(
    Download(
        (f"https://www.robots.ox.ac.uk/~vgg/data/flowers/102/{name}",),
        f"md5:{md5}",
        ((inside, f"flowers-102/{inside}"),),
    )
    for name, inside, md5 in (
        ("102flowers.tgz", "jpg", "52808999861908f626f3c1f4e79d11fa"),
        # Behind the photographs: where these are, those are whole.
        ("imagelabels.mat", "imagelabels.mat", "e0620be6f572b9609742df49c70aed4d"),
        ("setid.mat", "setid.mat", "a5357ecc9cb78c4bef273ce3793fc85c"),
    )
)

CALTECH101 = (
    Download(
        (
            "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
            "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip?download=1",
        ),
        "md5:3138e1922a9193bfa496528edbbc45d0",
        (("101_ObjectCategories", "caltech101/101_ObjectCategories"),),
        inner=("caltech-101/101_ObjectCategories.tar.gz",),
    ),
)

CINIC10 = (
    Download(
        (
            "https://datashare.ed.ac.uk/bitstream/handle/10283/3192/CINIC-10.tar.gz",
            "https://datashare.ed.ac.uk/server/api/core/bitstreams/"
            "e8e186cc-2688-48f1-aa5a-3fda1a43f8b6/content",
        ),
        "md5:6ee4d0c996905fe93221de577967a372",
        ((".", "cinic-10"),),
    ),
)

HYMENOPTERA = (
    Download(
        ("https://download.pytorch.org/tutorial/hymenoptera_data.zip",),
        "sha256:fbc41b31d544714d18dd1230b1e2b455e1557766e13e67f9f5a7a23af7c02209",
        (("hymenoptera_data", "hymenoptera_data"),),
    ),
)
