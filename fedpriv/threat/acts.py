"""Acts: what a malicious adversary changes; plug-ins of the group `fedpriv.acts`.

An act changes the `broadcast` (the weights that chosen clients get), the `model` or the `procedure`. What a position
can change is in `Position.can_change`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field, PlainSerializer

from fedpriv.base.errors import DataError, FedprivError, ParameterError
from fedpriv.base.registry import load_dotted
from fedpriv.base.types import Array
from fedpriv.models.model import Model
from fedpriv.models.spec import Spec
from fedpriv.procedure.procedure import Procedure
from fedpriv.threat.knowledge import Knowledge
from fedpriv.threat.written import Written, written


@dataclass(frozen=True)
class Occasion:
    """When and at whom an act is done.

    Attributes:
      round: from 0.
      client: its id.
      spec: the weights' layout.
      model: what they are weights of; None where it is not told.
      procedure: how clients will train from them; None where it is not told.
      cohort: ids of all who are sent weights in the round, this client among them; empty where it is not told.
      knowledge: what the adversary holds besides, such as auxiliary data.
    """

    round: int
    client: int
    spec: Spec
    model: Model | None = None
    procedure: Procedure | None = None
    cohort: tuple[int, ...] = ()
    knowledge: frozenset[Knowledge] = frozenset()


class Act(Written):
    """Base of all acts. Override the method that `changes` names.

    An act on the model may override `broadcast` as well: what it has put in gets its weights there, anew each round.
    """

    #: What it changes.
    changes: ClassVar[Literal["broadcast", "model", "procedure"]] = "broadcast"
    #: Whether it also decides who takes part in a round.
    selects_clients: ClassVar[bool] = False

    def describe(self) -> str:
        """What it changes, in a few words, for "It changes: ..."."""
        raise NotImplementedError

    def broadcast(self, weights: np.ndarray, occasion: Occasion) -> np.ndarray:
        """The weights `[d]` that this client gets in place of `weights [d]`; the same array for no change."""
        return weights

    def model(self, model: Model) -> Model:
        """The model that the federation trains in place of `model`."""
        return model

    def carried(self, weights: np.ndarray, before: Model, after: Model) -> np.ndarray:
        """What weights `[d]` of the model before the act are in that after it, for an act on the model.

        Raises:
          ParameterError: the act does not say so, and changes how many there are.
        """
        if before.spec != after.spec:
            raise ParameterError(
                f"act '{self}' changes the model's weights, but does not say what trained ones become; "
                "attack a fresh model, or override Act.carried"
            )
        return weights

    def procedure(self, procedure: Procedure) -> Procedure:
        """The procedure that clients follow in place of `procedure`."""
        return procedure


def _weights(value: Any) -> Any:
    if isinstance(value, str) and ":" in value and Path(value).suffix not in (".npy", ".npz"):
        try:
            value = load_dotted(value, "act 'plant': weights")
        except FedprivError as e:
            raise ValueError(str(e)) from e
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str) and Path(value).suffix not in (".npy", ".npz"):
        raise ValueError("is neither an .npy or .npz file nor a function as package.module:name; give one")
    if not isinstance(value, str) and not callable(value):
        raise ValueError(f"{value!r} is neither a file nor a function (weights, occasion) -> weights; give one")
    return value


class Plant(Act):
    """Sends chosen weights to chosen clients in place of the model.

    What all attacks by a malicious server begin with: weights made so that an update shows single examples, such as
    the trap weights of Boenisch, Dziedzic, Schuster, Shamsabadi, Shumailov, Papernot 2023, "When the Curious Abandon
    Honesty", EuroS&P, arXiv 2112.02918. The server's own model stays what it is, and takes the planted clients'
    updates in like any other.

    Attributes:
      weights: an `.npy` file of `[d]`, an `.npz` file whose only array (or the one called `weights`) is that, or a
        function `(weights [d], occasion) -> weights [d]`, as `package.module:name` or itself.
      clients: ids of those who get them; None is everybody.
      rounds: rounds in which; None is every round.
    """

    name: ClassVar[str] = "plant"
    paper: ClassVar[str] = "Boenisch et al. 2023, arXiv 2112.02918"

    weights: Annotated[str | Callable[..., Array], BeforeValidator(_weights), PlainSerializer(written)]
    clients: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    rounds: tuple[Annotated[int, Field(ge=0)], ...] | None = None

    def describe(self) -> str:
        """In words."""
        who = "every client" if self.clients is None else f"clients {list(self.clients)}"
        when = "" if self.rounds is None else f" in rounds {list(self.rounds)}"
        source = Path(self.weights).name if isinstance(self.weights, str) else written(self.weights)
        return f"the weights it sends to {who}{when} (planted from {source})"

    def broadcast(self, weights: np.ndarray, occasion: Occasion) -> np.ndarray:
        """The planted weights `[d]`, for whom they are meant.

        Raises:
          DataError: the file cannot be read.
          ParameterError: they have another shape, or are not finite.
        """
        if self.clients is not None and occasion.client not in self.clients:
            return weights
        if self.rounds is not None and occasion.round not in self.rounds:
            return weights
        found = self._read() if isinstance(self.weights, str) else self.weights(weights.copy(), occasion)
        planted = np.asarray(found)
        if planted.shape != weights.shape or planted.dtype.kind not in "fiu" or not np.isfinite(planted).all():
            raise ParameterError(
                f"act 'plant': {written(self.weights)} gives weights of shape {list(planted.shape)} and dtype "
                f"{planted.dtype}; the model takes {list(weights.shape)} finite numbers"
            )
        return planted.astype(weights.dtype)

    def _read(self) -> np.ndarray:
        assert isinstance(self.weights, str)
        try:
            found = np.load(self.weights, allow_pickle=False)
            if not isinstance(found, np.lib.npyio.NpzFile):
                return found
            with found:
                names = list(found.files)
                if "weights" not in names and len(names) != 1:
                    raise DataError(f"act 'plant': {self.weights} holds arrays {names}; name the weights 'weights'")
                return found["weights" if "weights" in names else names[0]]
        except (OSError, ValueError) as e:
            if isinstance(e, FedprivError):
                raise
            raise DataError(
                f"act 'plant': weights={self.weights} cannot be read: {e}; give an .npy or .npz file"
            ) from e
