"""Fishing: last layers planted so that one example's gradient dominates the mean over a large batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.models.model import Model
from fedpriv.threat.acts import Act, Occasion
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.knowledge import Auxiliary, Knowledge
from fedpriv.threat.view import View
from fedpriv_attacks.inversion.matching import checked_update
from fedpriv_attacks.labels.last_layer import check_linear
from fedpriv_attacks.modern import AttackPart

Numbers = tuple[Annotated[int, Field(ge=0)], ...] | None

_PAPER = "Wen, Geiping, Fowl, Goldblum, Goldstein 2022, arXiv 2202.00580"

#: How much less likely than another class the fished class is made, as a logit: e^-40 is nothing beside rounding.
_DEPTH = 40.0
#: How far from a whole number the count of caught examples may be for it to be a count.
_WHOLE = 0.1


class FishingAct(Act):
    """Sends a last layer in which only examples of one class, or few of them, have a gradient.

    Wen, Geiping, Fowl, Goldblum, Goldstein 2022, "Fishing for User Data in Large-Batch Federated Learning via Gradient
    Magnification", ICML, arXiv 2202.00580. Class fishing: the columns of all other classes are zero, and the fished
    class's bias makes it next to impossible. Before the last layer an example's gradient is then its column times
    (p - y): nothing for other classes, all of it for the fished one. Feature fishing, where several examples share the
    class: the fished class's logit is a steep function of one direction of the features, so that the class is certain,
    and its gradient vanishes, for all examples above a threshold. The threshold is a quantile of that direction over
    auxiliary examples of the class (`data`), which the adversary must hold. It is for clients with one class: examples
    of others above the threshold would be caught too.

    How it shows: the last kernel has rank 1, with columns of zeros; a client that evaluates what it gets finds that it
    never predicts the class (or nothing else), and a loss of about 40 on its own examples of it. A client that looks at
    single examples' gradients sees one that is all of the mean. Everybody can get the same broadcast, so comparing
    those sees nothing. Clipping each example's gradient bounds what dominates; with its noise nothing is left.

    Attributes:
      label: the fished class.
      data: auxiliary data for the threshold of feature fishing; None is class fishing.
      quantile: share of the class's examples that are to be caught.
      steepness: of the logit, by standard deviation of the direction over the class.
      gain: length of the fished column in class fishing relative to that of the broadcast one.
      seed: of the direction.
      clients: ids of those who get it; None is everybody.
      rounds: rounds in which; None is every round.
    """

    name: ClassVar[str] = "fishing"
    paper: ClassVar[str] = _PAPER

    label: Annotated[int, Field(ge=0)] = 0
    data: str | None = None
    quantile: Annotated[float, Field(gt=0, lt=1)] = 0.1
    steepness: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1000.0
    gain: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    seed: Annotated[int, Field(ge=0)] = 0
    clients: Numbers = None
    rounds: Numbers = None

    def describe(self) -> str:
        """In words."""
        who = "every client" if self.clients is None else f"clients {list(self.clients)}"
        when = "" if self.rounds is None else f" in rounds {list(self.rounds)}"
        what = f"examples of class {self.label}"
        if self.data is not None:
            what += f" below the {self.quantile:g} quantile of a direction of the features, by data '{self.data}'"
        return f"the weights it sends to {who}{when} (a last layer in which only {what} have a gradient)"

    def broadcast(self, weights: np.ndarray, occasion: Occasion) -> np.ndarray:
        """The planted weights `[d]`, for whom they are meant.

        Raises:
          CapabilityError: the model is no softmax classifier whose last layer is dense with a bias, or the auxiliary
            data have too few examples of the class.
          ParameterError: no such class, or the occasion does not say of which model the weights are.
        """
        if self.clients is not None and occasion.client not in self.clients:
            return weights
        if self.rounds is not None and occasion.round not in self.rounds:
            return weights
        model = occasion.model
        if model is None:
            raise ParameterError(f"act '{self.name}': the occasion names no model; give Occasion(..., model=model)")
        kernel, bias = _last(model, f"act '{self.name}'")
        if self.label >= model.num_classes:
            raise ParameterError(
                f"act '{self.name}': label={self.label}, but model '{model.name}' has classes 0 to "
                f"{model.num_classes - 1}; give one of them"
            )
        found = weights.copy()
        columns = found[kernel].reshape(-1, model.num_classes)
        column = columns[:, self.label] * self.gain
        columns[...] = 0
        found[bias] = 0
        if self.data is None:
            columns[:, self.label] = column
            # As deep below the others as any logit of the column can lift it on the usual input.
            level = np.abs(_logits(model, found, _probe(model), self.label)).max()
            found[bias][self.label] = -_DEPTH - 3 * level
            return found
        x, y = Auxiliary(data=self.data).load(model)
        ours = x[y == self.label]
        if len(ours) * self.quantile < 1:
            raise CapabilityError(
                f"act '{self.name}': '{self.data}' has {len(ours)} examples of class {self.label}, too few for "
                f"quantile={self.quantile:g}; give more data, or a larger quantile"
            )
        direction = np.random.default_rng(self.seed).normal(size=len(columns))
        columns[:, self.label] = direction / np.linalg.norm(direction)
        along = _logits(model, found, ours, self.label)
        spread = float(along.std())
        if not spread > 0:
            raise CapabilityError(
                f"act '{self.name}': the features of class {self.label} do not vary at the weights of round "
                f"{occasion.round}; use another seed, or class fishing"
            )
        slope = self.steepness / spread
        columns[:, self.label] *= slope
        found[bias][self.label] = np.log(model.num_classes - 1) - slope * float(np.quantile(along, self.quantile))
        return found


class Fishing(Attack):
    """Attacks the one gradient that act `fishing` lets through.

    Wen et al. 2022, arXiv 2202.00580; see the act, without which this attack is refused:
    `server(acts=[fishing(label=3)])`. The fished class's bias says how many examples were caught, exactly for one local
    step of SGD: its gradient is minus their share of the batch. Of the last layer others blur all columns but the
    fished one; for what was caught these follow from it, since the other classes are alike. The inner attack is then
    given an update of as few examples as were caught, with their labels.

    It gives no example where none of the class is there, and refuses several local steps. Where noise or clipping of
    single examples changes the update, the count is no whole number, and nothing is claimed.
    """

    name: ClassVar[str] = "fishing"
    paper: ClassVar[str] = _PAPER
    needs: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.REAL_UPDATE,
            Capability.NUM_EXAMPLES,
            Capability.PROCEDURE,
            Capability.SINGLE_STEP,
            Capability.SOFTMAX,
        }
    )

    then: AttackPart = Field(
        default="modern",  # type: ignore[assignment]
        description="the attack that is given what was caught, such as `first_layer` or `inverting_gradients`.",
    )
    most: Annotated[int, Field(ge=1)] = Field(default=8, description="examples caught above which it gives up.")

    def brings(self) -> tuple[Knowledge, ...]:
        """What the inner attack brings in."""
        return self.then.brings()

    def attack(self, view: View, seed: int) -> Finding:
        """The inner attack's finding on what was caught; other examples are not-a-number.

        `extra` has `caught` (as a real number, before it is rounded) and `reason` (why nothing is claimed, else "").

        Raises:
          CapabilityError: no such act in this round, or the inner attack does not apply.
          DivergenceError: the update is not finite.
        """
        who = f"attack '{self.name}'"
        acts = [a for a in view.adversary.acts if isinstance(a, FishingAct)]
        if len(acts) != 1 or not _planted(view, acts[0]):
            raise CapabilityError(
                f"{who} reads what a planted last layer lets through, but that of round {view.round} is none: all "
                "clients behind the update must get it, in this round too; let the adversary be "
                "server(acts=[fishing(label=0)])"
            )
        check_linear(view.procedure)
        # Above a feature's threshold nothing moves; class fishing always moves the last bias.
        if acts[0].data is None or np.any(np.asarray(view.observed)):
            checked_update(view)
        label, model, n = acts[0].label, view.model, view.total_examples
        kernel, bias = _last(model, who)
        observed = np.asarray(view.observed, np.float64) * n
        caught = float(observed[bias][label]) / float(view.client_rate or 1.0)
        count = round(caught)
        reason = ""
        if count < 1 and abs(caught) < _WHOLE:
            reason = f"no example of class {label} was caught"
        elif count < 1 or abs(caught - count) > _WHOLE * count:
            reason = f"{caught:.3g} examples were caught, which is no count: noise, clipping, or several half caught"
        elif count > self.most:
            reason = f"{count} examples were caught, more than most={self.most}; fish by a feature (data=...)"
        x = np.full((n, *model.input_shape), np.nan, np.float32)
        if reason:
            return Finding(x=x, y=np.full(n, -1, np.int32), extra={"caught": caught, "reason": reason})
        classes = model.num_classes
        columns = observed[kernel].reshape(-1, classes)
        others = np.arange(classes) != label
        columns[:, others] = -columns[:, [label]] / (classes - 1)
        observed[bias] = np.where(others, -observed[bias][label] / (classes - 1), observed[bias])
        alone = replace(
            view,
            kind="update",
            observed=(observed / count).astype(model.spec.dtype),
            clients=1,
            num_examples=(count,),
            labels=np.full(count, label, np.int32),
            defenses=(),
            states=(),
            payloads=None,
            own=None,
        )
        found = self.then.run(alone, seed)
        y = np.full(n, -1, np.int32)
        y[:count] = label
        if found.x is not None:
            x[: len(found.x)] = found.x[:n]
        return replace(found, x=x, y=y, path=None, extra={**found.extra, "caught": caught, "reason": ""})


def _planted(view: View, act: FishingAct) -> bool:
    """Whether the last kernel that clients got has no column but the fished one."""
    kernel, _ = _last(view.model, "attack 'fishing'")
    columns = view.weights[kernel].reshape(-1, view.model.num_classes)
    return act.label < view.model.num_classes and not np.delete(columns, act.label, axis=1).any()


def _last(model: Model, who: str) -> tuple[slice, slice]:
    kernel, bias = model.classifier_kernel(), model.classifier_bias()
    if kernel is None or bias is None:
        raise CapabilityError(
            f"{who} needs a softmax classifier whose last layer is dense with a bias, but model '{model.name}' is "
            "none; use a model such as '2nn' or 'cnn'"
        )
    return kernel, bias


def _probe(model: Model) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 1, (16, *model.input_shape))


def _logits(model: Model, weights: np.ndarray, x: np.ndarray, label: int) -> np.ndarray:
    given = tf.constant(x, model.spec.dtype)
    return np.asarray(model.logits(tf.constant(weights), given))[:, label].astype(np.float64)
