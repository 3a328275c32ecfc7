"""Setting: one column of the paper's table, as a federation, and the number the paper prints for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedpriv.data import Dataset, make_partition
from fedpriv.procedure import Sampling, make_procedure

if TYPE_CHECKING:
    from fedpriv.federation import Federation
    from fedpriv.models.model import Model


@dataclass(frozen=True)
class Setting:
    """Which examples go to which client.

    Attributes:
      name: `iid` or `shards`.
      words: for figures and tables.
      partition: as `fedpriv.data.make_partition` takes it.
      paper: rounds to the target in the paper.
      cap: rounds after which a run is given up unless told otherwise.
    """

    name: str
    words: str
    partition: str
    paper: int
    cap: int


#: Table 1, 2NN, C=0.1, B=10 (the table's E is 1).
SETTINGS: Mapping[str, Setting] = {
    "iid": Setting("iid", "IID", "iid", 87, 300),
    "shards": Setting("shards", "two-class shards", "shards(per_client=2)", 664, 1500),
}


@dataclass(frozen=True)
class Scale:
    """What is trained, and how far.

    Attributes:
      train, test: the data.
      model: the network.
      target: test accuracy to reach, in (0, 1).
      clients: K.
      cohort: clients a round; C is `cohort / clients`.
      batch: B.
    """

    train: Dataset
    test: Dataset
    model: Model
    target: float
    clients: int = 100
    cohort: int = 10
    batch: int = 10

    def federation(self, setting: Setting, rate: float, seed: int) -> Federation:
        """FedAvg at one client learning rate; the seed fixes partition, initial weights, cohorts and batches."""
        from fedpriv.federation import Federation

        procedure = make_procedure(
            local_epochs=1,
            batch_size=self.batch,
            client={"kind": "sgd", "learning_rate": rate},
            sampling=Sampling.fixed(self.cohort),
        )
        partition = make_partition(setting.partition, self.train, self.clients, seed)
        return Federation(self.model, self.train, partition, procedure, (), self.test, seed=seed)
