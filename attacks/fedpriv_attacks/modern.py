"""Modern: the suite's own default. Several attacks in order of strength, until one accounts for the update."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import BeforeValidator, Field, PlainSerializer, SerializeAsAny

from fedpriv.base import registry
from fedpriv.base.errors import CapabilityError, DivergenceError, FedprivError, ModelError
from fedpriv.base.types import Config
from fedpriv.data.kinds.tokens import Tokens
from fedpriv.models.kinks import has_kinks
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.knowledge import Knowledge
from fedpriv.threat.view import View
from fedpriv_attacks.exact.dense_input import find_dense_input
from fedpriv_attacks.inversion.inversion import Inversion
from fedpriv_attacks.inversion.matching import checked_update, half_of_digits, noise_floor
from fedpriv_attacks.inversion.stages import mismatch, replayed_error, unsettled
from fedpriv_attacks.parts.priors import TotalVariation

#: Root mean square by which clipping may move examples, in parts of their range: at best 20 dB from the truth.
MOVED = 0.1

#: What is tried on text where nobody has said what else.
ON_TOKENS = (
    "dager(seconds=60)",
    "dlg(labels=auto,restarts=1,optimizer.max_evaluations=2000)",
    "lamp",
)


#: What is tried first on models that begin with a dense layer and a ReLU, where nobody has said what else.
ON_DENSE = "peel"

#: What follows the exact attacks on images and models with rectifiers, where nobody has said what else. L-BFGS ends
#: at the kinks, so the two DLGs are left out. Fewer and longer stages, smaller steps and more momentum find in half of
#: the default's evaluations what it finds.
ON_KINKS = (
    "inverting_gradients(objective=l1,optimizer=adam(steps={steps},learning_rate=0.04,decay=cosine,beta_1=0.95),"
    "priors.total_variation.weight=1,stages=3,easing=0.09)"
)
#: Its steps a stage, and where it is to be thorough.
STEPS, THOROUGH_STEPS = 667, 1333


def _attack(value: Any) -> Any:
    """An attack from its name, its `config()`, or itself."""
    try:
        if isinstance(value, str):
            return registry.attacks.create(value)
        if isinstance(value, dict):
            return registry.attacks.create(str(value.get("name")), **{k: v for k, v in value.items() if k != "name"})
    except FedprivError as e:
        raise ValueError(str(e)) from e
    return value


AttackPart = Annotated[
    SerializeAsAny[Attack],
    BeforeValidator(_attack, json_schema_input_type=str | dict[str, Any]),
    PlainSerializer(lambda attack: attack.config()),
]


class Modern(Attack):
    """Exact attacks first, then matching in two ways; the first finding that explains the update is taken.

    An update that a finding reproduces, down to rounding, leaves no doubt about the finding, whatever found it. So
    the attacks are tried in order: those that are exact where they apply (analytic inversion of a first dense layer,
    R-GAP on chains of invertible layers, SPEAR on batches through a ReLU); then, for smooth networks, L-BFGS on the
    squared distance as in DLG, with so little total variation that it decides only what the update leaves open,
    with labels read off the update, then with labels optimized; then Adam on the absolute distance: on ReLU networks,
    whose gradient is piecewise smooth, that distance led to the examples themselves, before and after training, where
    the cosine of Geiping et al. 2020 (arXiv 2003.14053) led to their likeness. Both go through stages of ever less
    total variation (`fedpriv_attacks.inversion.stages`), since no one weight suits all networks and images: Adam's
    begin where full contrast costs as much as the whole update, for under a light prior from the start the absolute
    distance ends in minima of its own. Examples that are no images are matched without total variation. Attacks that
    do not apply to the view are passed over. If none reproduces the update, the one with the smallest error is taken,
    or the last one whose error is within `leeway` times that. Of d numbers of noise, n free values fit n/d: so the
    truth may have an error 1 / (1 - n/d) times that of a free fit; within that factor a later attack's prior decides.

    An error is that of the examples as they were minimized: clipping takes images nearer to the true ones, but the
    update that they give farther from the observed one. Where clipping moves them by more than a tenth of the range,
    the error is that of the clipped ones: what explains the update by values that no image has explains nothing.
    Of texts it is that of the tokens, not of the points that were minimized.

    On images and models with rectifiers (ReLU), unless `attacks` says what else, the two L-BFGS attacks are left out
    and Adam takes fewer, longer stages and half of the evaluations (`ON_KINKS`); `thorough` gives it as many as
    elsewhere.

    On models that begin with a dense layer and a ReLU, unless `attacks` says what else, `peel` is tried before all
    others: what it finds is proven example by example.

    On text, unless `attacks` says what else, it is DAGER, which is exact where a batch has fewer tokens than the model
    is wide, then points of the embedding matched by DLG and by LAMP.

    Evaluations and seconds are those of all attacks tried together. `extra["tried"]` says what each came to.
    """

    name: ClassVar[str] = "modern"
    paper: ClassVar[str] = "a portfolio; see its attacks"
    needs: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.REAL_UPDATE, Capability.NUM_EXAMPLES, Capability.PROCEDURE}
    )
    reads_parts: ClassVar[bool] = True

    attacks: Annotated[tuple[AttackPart, ...], Field(min_length=1)] = Field(
        default=(  # type: ignore[arg-type]
            "first_layer",
            "rgap(max_unknowns=4096)",
            "spear(seconds=60)",
            "dlg(labels=auto,restarts=1,optimizer.max_evaluations=1500,"
            "priors=[total_variation(weight=3e-5,opponents=auto)],stages=4,easing=0.1)",
            "dlg(restarts=1,optimizer.max_evaluations=1500,"
            "priors=[total_variation(weight=3e-5,opponents=auto)],stages=4,easing=0.1)",
            "inverting_gradients(objective=l1,optimizer=adam(steps=800,learning_rate=0.05,decay=cosine),"
            "priors.total_variation.weight=1,stages=5)",
        ),
        description="tried in this order.",
    )
    tolerance: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="relative squared error of the replayed update at which a finding is accepted; none once it "
        "explains half of the update's digits (`matching.Restarts`).",
    )
    leeway: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = Field(
        default=None,
        description="factor on the smallest error within which the later attack is preferred; none computes it from "
        "the numbers of unknown values and of the update's, at most 10.",
    )
    thorough: bool = Field(
        default=False,
        description="give Adam 1333 steps a stage in place of 667 on images and models with rectifiers: a few dB more "
        "where matching is hard, in twice the time.",
    )
    path: bool = Field(
        default=False,
        description="keep the examples along the way of the attack whose finding is taken, for film strips; exact "
        "attacks have none.",
    )

    def config(self) -> Config:
        """As of any attack; results from before ways were kept, or thoroughness asked for, stay valid."""
        config = super().config()
        for name in ("path", "thorough"):
            if not getattr(self, name):
                del config[name]
        return config

    def brings(self) -> tuple[Knowledge, ...]:
        """What its attacks bring in."""
        return tuple(dict.fromkeys(known for attack in self.attacks for known in attack.brings()))

    def attack(self, view: View, seed: int) -> Finding:
        """The first finding that reproduces the update, or else the one that comes nearest; see the class."""
        _, norm = checked_update(view)
        floor = noise_floor(view, norm)
        content = half_of_digits(floor) if self.tolerance is None else max(self.tolerance, floor)
        tried: list[dict[str, Any]] = []
        found: list[tuple[float, Attack, Finding]] = []
        for attack in self.tried_on(view):
            try:
                finding = self._suited(attack, view).run(view, seed)
            except (CapabilityError, ModelError, DivergenceError) as e:
                tried.append({"attack": attack.name, "refused": str(e)})
                continue
            error = _error(attack, view, finding)
            found.append((error, attack, finding))
            tried.append({"attack": attack.name, "mismatch": error, "evaluations": finding.evaluations})
            if error <= content:
                break
        if not found:
            reasons = "; ".join(dict.fromkeys(f"{t['attack']}: {t['refused']}" for t in tried))
            raise CapabilityError(f"none of the attacks of 'modern' applies to this view. {reasons}")
        least = min(error for error, _, _ in found)
        leeway = _leeway(view) if self.leeway is None else self.leeway
        last = max(i for i, (error, _, _) in enumerate(found) if error <= leeway * least)
        _, chosen, best = found[last]
        findings = [finding for _, _, finding in found]
        history = best.history
        if history is not None:  # its first column counts evaluations
            history = history + np.array([sum(f.evaluations for f in findings[:last]), 0.0])
        return replace(
            best,
            history=history,
            evaluations=sum(f.evaluations for f in findings),
            seconds=sum(f.seconds for f in findings),
            compile_seconds=sum(f.compile_seconds for f in findings),
            extra={**best.extra, "chosen": chosen.name, "tried": tried},
        )

    def tried_on(self, view: View) -> tuple[Attack, ...]:
        """The attacks; unless others than the default were asked for, on text those for text, or `peel` before them.

        On images and models with rectifiers the optimization attacks are one: `ON_KINKS`.

        What a view adds is no part of `config()`, so that the identity of stored results stays what it was.
        """
        if self.attacks != type(self)().attacks:
            return self.attacks
        if isinstance(view.data_kind, Tokens):
            return tuple(registry.attacks.create(text) for text in ON_TOKENS)
        tried = self.attacks
        if len(view.model.input_shape) == 3 and has_kinks(view.model):
            exact = (attack for attack in tried if not isinstance(attack, Inversion))
            adam = registry.attacks.create(ON_KINKS.format(steps=THOROUGH_STEPS if self.thorough else STEPS))
            tried = (*exact, adam)
        return (registry.attacks.create(ON_DENSE), *tried) if _begins_rectified(view) else tried

    def _suited(self, attack: Attack, view: View) -> Attack:
        """The same attack without total variation where examples have no neighbouring values; asked for its way."""
        if not isinstance(attack, Inversion):
            return attack
        suited: Attack = attack.with_(path=True) if self.path else attack
        if len(view.model.input_shape) == 3:
            return suited
        left = tuple(p for p in attack.priors if not isinstance(p, TotalVariation))
        suited = suited.with_(priors=left, stages=attack.stages if left else 1)
        return suited


def _begins_rectified(view: View) -> bool:
    """Whether the model begins with a dense layer and a ReLU."""
    try:
        return find_dense_input(view.model).rectified
    except CapabilityError:
        return False


def _error(attack: Attack, view: View, finding: Finding) -> float:
    """How much of the update a finding leaves unexplained; see the class."""
    free = None
    if isinstance(attack, Inversion) and finding.x is not None:
        free = unsettled(view, finding, attack.equipped(view).recipe())
    if free is None or finding.x is None or free.shape != finding.x.shape:  # points of an embedding are no tokens
        return mismatch(view, finding)
    kind = view.data_kind
    moved = np.sqrt(np.mean((kind.to_unit(free) - kind.to_unit(finding.x)) ** 2))
    if moved > MOVED:
        return mismatch(view, finding)
    return replayed_error(view, free, finding.extra["label_probabilities"], finding.extra.get("draws", ()))


def _leeway(view: View) -> float:
    """By what factor a fit of as many free values as the examples have may go below the truth's error, at most 10."""
    share = view.total_examples * math.prod(view.model.input_shape) / view.update_size
    return min(10.0, 1 / (1 - share)) if share < 1 else 10.0
