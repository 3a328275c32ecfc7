"""Acts: what a malicious adversary changes; plug-ins of the group `fedpriv.acts`.

An act changes the `broadcast` (the weights that chosen clients get), the `model` or the `procedure`. What a position
can change is in `Position.can_change`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from weakref import WeakKeyDictionary

import numpy as np
from pydantic import BeforeValidator, Field, PlainSerializer

from fedpriv.base.errors import CapabilityError, DataError, FedprivError, ParameterError
from fedpriv.base.registry import load_dotted
from fedpriv.models.model import Model
from fedpriv.models.spec import Spec
from fedpriv.procedure.procedure import Procedure
from fedpriv.threat.written import Written, written

if TYPE_CHECKING:
    from fedpriv.federation.federation import Federation
    from fedpriv.threat.tap import Tap


@dataclass(frozen=True)
class Occasion:
    """When and at whom an act is done.

    Attributes:
      round: from 0.
      client: its id.
      spec: the weights' layout.
    """

    round: int
    client: int
    spec: Spec


class Act(Written):
    """Base of all acts. Override the method that `changes` names."""

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

    weights: Annotated[str | Callable[..., Any], BeforeValidator(_weights), PlainSerializer(written)]
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


def planted(
    taps: Iterable[Tap], weights: np.ndarray, clients: Sequence[int], round_number: int, spec: Spec
) -> dict[int, np.ndarray]:
    """The weights `[d]` that single clients are sent in place of `weights [d]`, by id, by the acts of `taps`."""
    acts = [act for tap in taps for act in tap.adversary.acts if act.changes == "broadcast"]
    found: dict[int, np.ndarray] = {}
    for client in clients if acts else ():
        sent = weights
        for act in acts:
            sent = act.broadcast(sent, Occasion(round_number, client, spec))
        if sent is not weights:
            found[client] = sent
    return found


def enacted(federation: Federation, acts: Sequence[Act]) -> Federation:
    """The federation as the acts that change its model or procedure leave it; itself, if none does.

    Raises:
      FedprivError: it cannot work so changed; see Federation.
    """
    model, procedure = federation.model, federation.procedure
    for act in acts:
        if act.changes == "model":
            model = act.model(model)
        elif act.changes == "procedure":
            procedure = act.procedure(procedure)
    if model is federation.model and procedure is federation.procedure:
        return federation
    changed = replace(federation, model=model, procedure=procedure)
    _ENACTED[changed] = tuple(acts)
    return changed


#: Which federations `enacted` has made, and by which acts.
_ENACTED: WeakKeyDictionary[Federation, tuple[Act, ...]] = WeakKeyDictionary()


def check_enacted(federation: Federation, acts: Sequence[Act]) -> None:
    """Raises CapabilityError for an act on the model or the procedure that this federation was made without."""
    missing = [a for a in acts if a.changes != "broadcast" and a not in _ENACTED.get(federation, ())]
    if missing:
        raise CapabilityError(
            f"'{missing[0]}' changes the {missing[0].changes}, which is fixed when a federation is made; run "
            "fedpriv.threat.acts.enacted(federation, adversary.acts) in its place"
        )
