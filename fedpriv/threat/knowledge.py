"""Knowledge: what an adversary holds besides what passes its position; plug-ins of the group `fedpriv.knowledge`.

Some of it is told by the run (`fill`), such as labels and the procedure; some the adversary has of its own, such as
auxiliary data, which attacks ask for with `Adversary.held`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.base.types import Nested
from fedpriv.data.kind import Kind
from fedpriv.data.kinds.tokens import Tokens
from fedpriv.data.loading import load
from fedpriv.defense.stations import Defense, Station
from fedpriv.federation.federation import Federation
from fedpriv.models.model import Model, Moments
from fedpriv.procedure.procedure import Procedure
from fedpriv.threat.position import Position
from fedpriv.threat.written import Written


@dataclass(frozen=True, eq=False)
class Facts:
    """What a run can tell an adversary about one view, if it is to know it.

    Attributes:
      kind: what the view is of, as in `View.kind`.
      labels: `[n]` int of the examples behind the view.
      num_examples: example counts by client behind the view.
      procedure: the local procedure.
      client_rate: client learning rate of the round.
      defenses: all that run.
      states: the state of each, as broadcast.
      moments: computes the batch-norm statistics of the examples behind the view, at the broadcast weights.
      lengths: computes how many tokens each of them has, int `[n]`.
    """

    kind: str
    labels: np.ndarray
    num_examples: tuple[int, ...]
    procedure: Procedure
    client_rate: float
    defenses: tuple[Defense, ...]
    states: tuple[Nested, ...]
    moments: Callable[[], Moments]
    lengths: Callable[[], np.ndarray]


class Knowledge(Written):
    """Base of all knowledge: its fields say what exactly is known."""

    def describe(self) -> str:
        """What is known, in a few words, for "It also knows: ..."."""
        raise NotImplementedError

    def check(self, federation: Federation, position: Position) -> None:
        """Raises CapabilityError where there is no such thing to know in that federation."""

    def fill(self, facts: Facts) -> Mapping[str, Any]:
        """Fields of the View that it fills, by name; others are kept in `View.told`. Copies, nothing shared."""
        return {}


class Labels(Knowledge):
    """The labels of the examples behind the update, in the clients' order."""

    name: ClassVar[str] = "labels"

    def describe(self) -> str:
        """In words."""
        return "the labels of the examples behind the update"

    def fill(self, facts: Facts) -> Mapping[str, Any]:
        """`labels`."""
        return {"labels": facts.labels.copy()}


class NumExamples(Knowledge):
    """How many examples each client trained on; clients send it wherever updates are weighed by it."""

    name: ClassVar[str] = "num_examples"

    def describe(self) -> str:
        """In words."""
        return "how many examples each client trained on"

    def fill(self, facts: Facts) -> Mapping[str, Any]:
        """`num_examples`."""
        return {"num_examples": facts.num_examples}


class KnownProcedure(Knowledge):
    """Local epochs, batch size, learning rate and client optimizer; what it takes to replay the client."""

    name: ClassVar[str] = "procedure"

    def describe(self) -> str:
        """In words."""
        return "local epochs, batch size, learning rate and client optimizer"

    def fill(self, facts: Facts) -> Mapping[str, Any]:
        """`procedure` and `client_rate`."""
        return {"procedure": facts.procedure, "client_rate": facts.client_rate}


class KnownDefense(Knowledge):
    """Which defenses run, with their parameters and public states, not their random draws."""

    name: ClassVar[str] = "defense"

    def describe(self) -> str:
        """In words."""
        return "which defenses run, with their parameters (not their random draws)"

    def fill(self, facts: Facts) -> Mapping[str, Any]:
        """`defenses` and `states`."""
        return {"defenses": facts.defenses, "states": facts.states}


class BatchStatistics(Knowledge):
    """The batch-norm statistics of the client's batch, as clients that send their buffers give away.

    Huang, Gupta, Song, Li, Arora 2021, "Evaluating Gradient Inversion Attacks and Defenses in Federated Learning",
    arXiv 2112.00059, show how much stronger an adversary is with them.
    """

    name: ClassVar[str] = "batch_statistics"
    paper: ClassVar[str] = "Huang et al. 2021, arXiv 2112.00059"

    def describe(self) -> str:
        """In words."""
        return "the batch-norm statistics of the client's batch, as clients that send their buffers give away"

    def check(self, federation: Federation, position: Position) -> None:
        """Refuses where there is no one batch, or no statistics of it."""
        model, procedure = federation.model, federation.procedure
        several = [n for n in map(len, federation.partition.indices) if procedure.local_steps(n) > 1]
        changing = [d.name for d in federation.defenses if d.acts_at(Station.BATCH) or d.acts_at(Station.DATA)]
        if model.moments is None:
            why = f"model '{model.name}' has no batch normalization (or does not say what enters it); use one that has"
        elif model.draws:
            why = (
                f"model '{model.name}' draws random numbers in training ('{model.draws[0].name}'), on which its "
                "statistics depend; use one that draws none"
            )
        elif federation.line.protocol is not None or not position.sees_messages:
            why = "it sees a sum over clients, each with a batch of its own; let it be a server without a secure sum"
        elif several:
            why = (
                f"a client of {several[0]} examples makes {procedure.local_steps(several[0])} local steps, each with "
                "statistics of its own; use one step on the full batch"
            )
        elif changing:
            why = (
                f"defense '{changing[0]}' changes the batch, so its statistics are not those of the data; leave it out"
            )
        else:
            return
        raise CapabilityError(f"this adversary cannot know the client's 'batch_statistics': {why}")

    def fill(self, facts: Facts) -> Mapping[str, Any]:
        """`batch_statistics`, of single clients' updates."""
        return {"batch_statistics": facts.moments()} if facts.kind == "update" else {}


class SequenceLengths(Knowledge):
    """How many tokens each sequence behind the update has, in the clients' order.

    Balunovic, Dimitrov, Jovanovic, Vechev 2022 (arXiv 2202.08827) take it to be known. Of a single sequence a model
    with learned positions gives it away, and of several the longest one's.
    """

    name: ClassVar[str] = "sequence_lengths"
    paper: ClassVar[str] = "Balunovic, Dimitrov, Jovanovic, Vechev 2022, arXiv 2202.08827"

    def describe(self) -> str:
        """In words."""
        return "how many tokens each sequence behind the update has"

    def check(self, federation: Federation, position: Position) -> None:
        """Refuses where examples are no sequences."""
        if not isinstance(federation.train.kind, Tokens):
            raise CapabilityError(
                "this adversary cannot know 'sequence_lengths': examples are "
                f"{federation.train.kind.noun}s, which have none; use text, or leave it out"
            )

    def fill(self, facts: Facts) -> Mapping[str, Any]:
        """`lengths`, kept in `View.told`."""
        return {"lengths": facts.lengths()}


class Auxiliary(Knowledge):
    """Public examples of the same kind as the clients', with their labels ("surrogate data" in the literature).

    Attributes:
      data: a dataset's name or path; its training set.
      examples: at most that many, from the first on; None is all of them.
    """

    name: ClassVar[str] = "auxiliary"
    bare: ClassVar[str] = "data"

    data: str
    examples: Annotated[int, Field(ge=1)] | None = None

    def describe(self) -> str:
        """In words."""
        many = "" if self.examples is None else f"the first {self.examples} "
        return f"auxiliary data of the same kind ({many}examples of '{Path(self.data).name}', with their labels)"

    def load(self, model: Model, per_class: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The examples, in the dataset's order.

        Args:
          model: what they are for.
          per_class: at most that many of each class, the first ones; None is all.

        Returns:
          `x [m, *input_shape]` float32 in [0, 1] and labels `y [m]` int64.

        Raises:
          ParameterError: the examples or classes do not fit the model.
          UnknownNameError, DataError: no such data.
        """
        x, y, classes, _ = _examples(self.data, self.examples, per_class)
        if x.shape[1:] != tuple(model.input_shape) or classes != model.num_classes:
            raise ParameterError(
                f"auxiliary data '{self.data}' have examples {list(x.shape[1:])} of {classes} classes, but model "
                f"'{model.name}' takes {list(model.input_shape)} and {model.num_classes} classes; give data of that "
                "shape"
            )
        return x, y

    def kind(self) -> Kind:
        """What its examples are; errors as `load`'s, but for the model."""
        return _examples(self.data, self.examples, None)[3]


class Generator(Knowledge):
    """A generator of examples of the same kind, trained on public data.

    Attributes:
      source: its name, as attacks know it, or the path of its file.
    """

    name: ClassVar[str] = "generator"
    bare: ClassVar[str] = "source"

    source: str

    def describe(self) -> str:
        """In words."""
        return f"a generator of examples of the same kind ('{Path(self.source).name}')"


class Statistics(Knowledge):
    """Public statistics of data of the same kind, such as how bright and how smooth images are.

    Attributes:
      of: what they are of, in words.
    """

    name: ClassVar[str] = "statistics"
    bare: ClassVar[str] = "of"

    of: Annotated[str, Field(min_length=1)] = "such data"

    def describe(self) -> str:
        """In words."""
        return f"public statistics of {self.of}"


@functools.lru_cache(maxsize=4)
def _examples(data: str, most: int | None, per_class: int | None) -> tuple[np.ndarray, np.ndarray, int, Kind]:
    train, _ = load(data)
    labels = train.y[:most]
    chosen = np.arange(len(labels))
    if per_class is not None:
        rows = [np.flatnonzero(labels == c)[:per_class] for c in range(train.num_classes)]
        chosen = np.sort(np.concatenate(rows))
    return train.floats(chosen), labels[chosen].astype(np.int64), train.num_classes, train.kind
