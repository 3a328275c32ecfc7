"""Data: sources, formats, and partitions over clients.

`load` is the one door: a registered name or a path in, a training and a test `Dataset` out. `make_partition` deals a
dataset out to clients. Importing this package does not import TensorFlow.
"""

from fedpriv.data.arrays import from_arrays
from fedpriv.data.client_data import from_client_data, from_text_client_data, to_client_data
from fedpriv.data.corpora import plays, sentences
from fedpriv.data.dataset import Dataset
from fedpriv.data.embedded import fashion_small
from fedpriv.data.loading import load
from fedpriv.data.partition import Partition
from fedpriv.data.partitioners import dirichlet, iid, make_partition, natural, quantity_skew, shards
from fedpriv.data.sequences import Cut
from fedpriv.data.sources import cifar10, cifar100, fashion_mnist, mnist
from fedpriv.data.text import from_texts, text
from fedpriv.data.tokenizer import Tokenizer

__all__ = [
    "Cut",
    "Dataset",
    "Partition",
    "Tokenizer",
    "cifar10",
    "cifar100",
    "dirichlet",
    "fashion_mnist",
    "fashion_small",
    "from_arrays",
    "from_client_data",
    "from_text_client_data",
    "from_texts",
    "iid",
    "load",
    "make_partition",
    "mnist",
    "natural",
    "plays",
    "quantity_skew",
    "sentences",
    "shards",
    "text",
    "to_client_data",
]
