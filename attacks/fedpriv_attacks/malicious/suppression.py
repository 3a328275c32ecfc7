"""Gradient suppression: all but one client of a secure sum get dead weights, so that the sum is that client's."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.defense.codec import Codec
from fedpriv.defense.protocol import Protocol
from fedpriv.models.model import Model
from fedpriv.threat.acts import Act, Occasion
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.knowledge import Knowledge
from fedpriv.threat.view import View
from fedpriv_attacks.inversion.matching import checked_update
from fedpriv_attacks.labels.last_layer import check_linear
from fedpriv_attacks.modern import AttackPart

_PAPER = "Pasquini, Francati, Ateniese 2022, arXiv 2111.07380"


class SuppressionAct(Act):
    """Sends dead weights to all clients but the targets.

    Pasquini, Francati, Ateniese 2022, "Eluding Secure Aggregation in Federated Learning via Model Inconsistency", CCS,
    arXiv 2111.07380. Kernels before the last layer become negative, biases -1, so that on inputs that are not negative
    no ReLU fires: every gradient is exactly zero but that of the last bias. Where that does not silence a model, all
    its weights are zero, which does the same. A target gets the model, but for one unit of the last hidden dense layer
    that is always 1: its row of the last kernel's gradient is the last bias's gradient, which others would blur.

    How it shows: a client that evaluates what it gets finds chance accuracy, and one that looks at its own update finds
    zeros everywhere but in the last bias. A target sees next to nothing: its model is as good as before. Two clients
    that compare what they got (a hash of the broadcast, agreed upon before they send, or masks derived from it) see it
    in any case, since the act needs different weights for different clients.

    Attributes:
      target: ids of those who get working weights; at most one of them in a sum.
      rounds: rounds in which; None is every round.
    """

    name: ClassVar[str] = "suppression"
    paper: ClassVar[str] = _PAPER

    target: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    rounds: tuple[Annotated[int, Field(ge=0)], ...] | None = None

    def describe(self) -> str:
        """In words."""
        when = "" if self.rounds is None else f" in rounds {list(self.rounds)}"
        return (
            f"the weights it sends to every client but {list(self.target)}{when} (no unit fires, no gradient is left)"
        )

    def broadcast(self, weights: np.ndarray, occasion: Occasion) -> np.ndarray:
        """Dead weights `[d]`, or for a target the same with a unit that is always 1.

        Raises:
          CapabilityError: the model's gradient cannot be silenced, or its last layer is not dense.
          ParameterError: the occasion does not say of which model the weights are.
        """
        if self.rounds is not None and occasion.round not in self.rounds:
            return weights
        if occasion.model is None:
            raise ParameterError(f"act '{self.name}': the occasion names no model; give Occasion(..., model=model)")
        kernel, _ = _last(occasion.model, f"act '{self.name}'")
        if occasion.client in self.target:
            return _with_constant(occasion.model, weights, kernel)
        return _dead(occasion.model, weights)


class Suppression(Attack):
    """Takes a target's update from a secure sum whose other clients got dead weights, and attacks it.

    Pasquini, Francati, Ateniese 2022, arXiv 2111.07380; see the act `suppression`, without which this attack is
    refused: `server(acts=[suppression(target=[0])])`. The secure sum is executed, and is the target's weighted update
    to the bit but for the last bias, which is read off the unit that is always 1, or hidden from the inner attack where
    there is none. It fails where all clients got the same weights, where the target did not take part, and behind
    whatever fills the zeros: noise on each update.
    """

    name: ClassVar[str] = "suppression"
    paper: ClassVar[str] = _PAPER
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.REAL_UPDATE, Capability.NUM_EXAMPLES})

    then: AttackPart = Field(
        default="modern",  # type: ignore[assignment]
        description="the attack that is given the target's update, such as `first_layer` or `inverting_gradients`.",
    )

    def brings(self) -> tuple[Knowledge, ...]:
        """What the inner attack brings in."""
        return self.then.brings()

    def attack(self, view: View, seed: int) -> Finding:
        """The inner attack's finding on the target's update; `extra` has `target` and `suppressed` (how many others).

        Raises:
          CapabilityError: no such act, no target or several in the sum, or its members are unknown.
          DivergenceError: the sum is not finite.
        """
        target, alone = isolated(view)
        found = self.then.run(alone, seed)
        return replace(found, extra={**found.extra, "target": target, "suppressed": len(view.num_examples or ()) - 1})


def isolated(view: View) -> tuple[str, View]:
    """The target's name, and its view as if it had sent its update alone; errors as `Suppression.attack`'s."""
    who = "attack 'suppression'"
    acts = [a for a in view.adversary.acts if isinstance(a, SuppressionAct)]
    if len(acts) != 1 or (acts[0].rounds is not None and view.round not in acts[0].rounds):
        raise CapabilityError(
            f"{who} reads sums whose other clients got dead weights, but nobody sent any in round {view.round}; let "
            "the adversary be server(acts=[suppression(target=[0])])"
        )
    (act,) = acts
    if view.members is None or view.num_examples is None:
        raise CapabilityError(f"{who} must know who is in the sum; let clients connect under their names")
    names = {f"client {t}": t for t in act.target}
    there = [i for i, member in enumerate(view.members) if member in names]
    if len(there) != 1:
        raise CapabilityError(
            f"{who} needs one target in the sum, but {len(there)} of {list(act.target)} are among its "
            f"{len(view.members)} members ({', '.join(view.members[:8])}); name one client of each sum as target"
        )
    (slot,) = there
    check_linear(view.procedure)
    checked_update(view)
    name, spec = view.members[slot], view.model.spec
    counts = view.num_examples if view.plan.weighting == "examples" else (1,) * len(view.members)
    observed = np.asarray(view.observed, np.float64) * (sum(counts) / counts[slot])
    occasion = Occasion(view.round, names[name], spec, view.model)
    base = view.weights
    weights = act.broadcast(base, occasion) if len(view.members) > 1 else base
    visible = None if view.visible is None else view.visible.copy()
    kernel, bias = _last(view.model, who)
    if bias is not None and len(view.members) > 1:
        where, unit = spec.slice_of(bias), _constant_unit(view.model, kernel)
        if unit is not None:
            shape = spec.shapes[spec.names.index(kernel)]
            observed[where] = observed[spec.slice_of(kernel)].reshape(shape)[unit]
        else:
            visible = np.ones(spec.size, bool) if visible is None else visible
            visible[where] = False
            observed[where] = 0
    links = [(d, len(list(d.parts()))) for d in view.defenses]
    starts = np.cumsum([0, *(size for _, size in links)])
    kept = [
        (d, view.states[s : s + size])
        for (d, size), s in zip(links, starts)
        if not all(isinstance(p, Protocol | Codec) for p in d.parts())
    ]
    start = sum(view.num_examples[:slot])
    n = view.num_examples[slot]
    return name, replace(
        view,
        kind="update",
        weights=weights,
        observed=observed.astype(spec.dtype),
        visible=visible,
        clients=1,
        num_examples=(n,),
        labels=None if view.labels is None else view.labels[start : start + n],
        defenses=tuple(d for d, _ in kept),
        states=tuple(s for _, several in kept for s in several),
        pseudonym=name,
        members=(name,),
        payloads=None,
    )


def _last(model: Model, who: str) -> tuple[str, str | None]:
    """Names of the last kernel, and of its bias."""
    spec = model.spec
    if spec.shapes and len(spec.shapes[-1]) == 2:
        return spec.names[-1], None
    if len(spec.shapes) > 2 and len(spec.shapes[-2]) == 2 and spec.shapes[-1] == spec.shapes[-2][1:]:
        return spec.names[-2], spec.names[-1]
    raise CapabilityError(
        f"{who} needs a dense last layer behind a hidden one, but model '{model.name}' has weights of shapes "
        f"{', '.join(map(str, spec.shapes))}; use a model such as '2nn' or 'cnn'"
    )


def _constant_unit(model: Model, kernel: str) -> int | None:
    """The unit of the last hidden dense layer that a target gets as a constant 1, or None where it has none."""
    spec = model.spec
    i = spec.names.index(kernel)
    features = spec.shapes[i][0]
    return 0 if i >= 2 and spec.shapes[i - 1] == (features,) and spec.shapes[i - 2][1:] == (features,) else None


def _with_constant(model: Model, weights: np.ndarray, kernel: str) -> np.ndarray:
    unit = _constant_unit(model, kernel)
    if unit is None:
        return weights
    found = weights.copy()
    i = model.spec.names.index(kernel)
    parts = model.spec.unflatten_numpy(found)
    parts[i - 2][:, unit] = 0
    parts[i - 1][unit] = 1
    x = _probe(model)
    base, changed = (np.asarray(model.logits(tf.constant(w), x)) for w in (found, _moved(model, found, i, unit)))
    if not np.allclose(changed - base, 1, atol=1e-3):  # no layer whose unit passes 1 on
        return weights
    return found


def _moved(model: Model, weights: np.ndarray, kernel: int, unit: int) -> np.ndarray:
    moved = weights.copy()
    model.spec.unflatten_numpy(moved)[kernel][unit] += 1
    return moved


def _probe(model: Model) -> np.ndarray:
    draws = np.random.default_rng(0)
    return draws.uniform(0, 1, (4, *model.input_shape)).astype(model.spec.dtype)


def _dead(model: Model, weights: np.ndarray) -> np.ndarray:
    """Weights at which no gradient but the last bias's is left."""
    kernel, bias = _last(model, "act 'suppression'")
    spec, found = model.spec, weights.copy()
    parts = spec.unflatten_numpy(found)
    for i, name in enumerate(spec.names):
        if i < model.buffers or name in (kernel, bias):
            continue
        parts[i][...] = -np.abs(parts[i]) if parts[i].ndim > 1 else -1
    if _silent(model, found, bias):
        return found
    for i, name in enumerate(spec.names):
        if i >= model.buffers and name != bias:
            parts[i][...] = 0
    if _silent(model, found, bias):
        return found
    raise CapabilityError(
        f"act 'suppression' found no weights at which the gradient of model '{model.name}' vanishes; use a model whose "
        "hidden layers end in ReLU, such as '2nn' or 'cnn'"
    )


def _silent(model: Model, weights: np.ndarray, bias: str | None) -> bool:
    flat = tf.constant(weights)
    x = tf.constant(_probe(model))
    with tf.GradientTape() as tape:
        tape.watch(flat)
        out = model.logits(flat, x, True)
        loss = tf.reduce_sum(out * tf.constant(np.random.default_rng(1).normal(size=out.shape), out.dtype))
    slope = tape.gradient(loss, flat).numpy()
    if bias is not None:
        slope[model.spec.slice_of(bias)] = 0
    return not slope[model.buffer_size :].any()
