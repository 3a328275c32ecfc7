"""Facts about the public datasets: shapes, counts, class names, and where their files come from."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class KnownSet:
    """What one public dataset looks like.

    Attributes:
      name: registered name.
      title: the name people write.
      shape: of one example, `(height, width, channels)`.
      train: number of training examples.
      test: number of test examples.
      class_names: one a class.
      folders: subfolders of a data folder where its files often lie, and system folders that hold it.
      cached: paths below Keras's `datasets` cache folder that must exist for it to need no network.
      url: one of the files Keras's loader fetches.
      files: the files to get by hand, for messages.
    """

    name: str
    title: str
    shape: tuple[int, int, int]
    train: int
    test: int
    class_names: tuple[str, ...]
    folders: tuple[str, ...]
    cached: tuple[str, ...]
    url: str
    files: str
    system_folders: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


_IDX_FILES = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte"
_GOOGLE = "https://storage.googleapis.com/tensorflow/tf-keras-datasets"
_TORONTO = "https://www.cs.toronto.edu/~kriz"

_CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""

KNOWN: dict[str, KnownSet] = {
    k.name: k
    for k in (
        KnownSet(
            name="mnist",
            title="MNIST",
            shape=(28, 28, 1),
            train=60_000,
            test=10_000,
            class_names=tuple("0123456789"),
            folders=("mnist", "MNIST/raw"),
            cached=("mnist.npz",),
            url=f"{_GOOGLE}/mnist.npz",
            files=f"{_IDX_FILES} (.gz or not)",
        ),
        KnownSet(
            name="fashion_mnist",
            title="Fashion-MNIST",
            shape=(28, 28, 1),
            train=60_000,
            test=10_000,
            class_names=(
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ),
            folders=("fashion_mnist", "fashion-mnist", "FashionMNIST/raw"),
            cached=(
                "fashion-mnist/train-images-idx3-ubyte.gz",
                "fashion-mnist/train-labels-idx1-ubyte.gz",
                "fashion-mnist/t10k-images-idx3-ubyte.gz",
                "fashion-mnist/t10k-labels-idx1-ubyte.gz",
            ),
            url=f"{_GOOGLE}/train-labels-idx1-ubyte.gz",
            files=f"{_IDX_FILES} (.gz or not)",
            system_folders=("/usr/share/datasets/fashion-mnist",),  # Debian's package dataset-fashion-mnist
        ),
        KnownSet(
            name="cifar10",
            title="CIFAR-10",
            shape=(32, 32, 3),
            train=50_000,
            test=10_000,
            class_names=(
                "airplane",
                "automobile",
                "bird",
                "cat",
                "deer",
                "dog",
                "frog",
                "horse",
                "ship",
                "truck",
            ),
            folders=("cifar10", "cifar-10-batches-py", "cifar-10-batches-bin"),
            cached=("cifar-10-batches-py.tar.gz",),
            url=f"{_TORONTO}/cifar-10-python.tar.gz",
            files="data_batch_1 to data_batch_5 and test_batch (python form, or binary with .bin)",
        ),
        KnownSet(
            name="cifar100",
            title="CIFAR-100",
            shape=(32, 32, 3),
            train=50_000,
            test=10_000,
            class_names=tuple(_CIFAR100_CLASSES.split()),
            folders=("cifar100", "cifar-100-python", "cifar-100-binary"),
            cached=("cifar-100-python.tar.gz",),
            url=f"{_TORONTO}/cifar-100-python.tar.gz",
            files="train and test (python form, or binary with .bin)",
        ),
    )
}


def known_by_file_name(stem: str) -> KnownSet | None:
    """The public set that a file or folder is named after: `cifar100_test_first20` is cut from `cifar100`."""
    stem = stem.lower().replace("-", "_")
    for name, known in KNOWN.items():
        spellings = {name, known.title.lower().replace("-", "_"), *(f.lower().replace("-", "_") for f in known.folders)}
        if any(re.match(rf"{re.escape(s)}($|[_.\s])", stem) for s in spellings):
            return known
    return None
