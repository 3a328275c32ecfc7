"""Inversion: gradient inversion as a composition of parts. Every optimization paper is a preset of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pydantic
from pydantic import BeforeValidator, Field

from fedpriv.base.errors import CapabilityError
from fedpriv.base.types import Array
from fedpriv.data.kinds.tokens import Tokens
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.knowledge import Knowledge
from fedpriv.threat.view import View
from fedpriv_attacks.inversion.matching import Ease, Recipe, Restarts, checked_update, reconstruct
from fedpriv_attacks.inversion.stages import heaviest, joined, unsettled_mismatch
from fedpriv_attacks.labels.inference import Joint, LabelInference
from fedpriv_attacks.parts.component import WRITTEN, Component, changed, create, read, saved
from fedpriv_attacks.parts.coordinates import Coordinates, Smooth
from fedpriv_attacks.parts.initializers import Initializer, Normal, Points
from fedpriv_attacks.parts.known_noise import averaged
from fedpriv_attacks.parts.moves import Moves
from fedpriv_attacks.parts.objectives import Objective, SquaredError
from fedpriv_attacks.parts.optimizers.lbfgs import LBFGS
from fedpriv_attacks.parts.optimizers.minimum import Optimizer
from fedpriv_attacks.parts.priors import Prior
from fedpriv_attacks.parts.replay import Exact, Replay

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]

#: The composition's fields and the role of what they hold.
PARTS = {
    "objective": "objective",
    "priors": "prior",
    "replay": "replay",
    "initializer": "initializer",
    "coordinates": "coordinates",
    "labels": "labels",
    "optimizer": "optimizer",
    "moves": "moves",
}


def _list(value: Any) -> Any:
    """Priors as a list, whether one, several or none were written."""
    if value is None:
        return ()
    return tuple(create("prior", v) for v in (value if isinstance(value, list | tuple) else [value]))


ObjectivePart = Annotated[Objective, read("objective"), saved]
PriorParts = Annotated[
    tuple[Annotated[Prior, saved], ...], BeforeValidator(_list, json_schema_input_type=WRITTEN | list[WRITTEN] | None)
]
ReplayPart = Annotated[Replay, read("replay"), saved]
InitializerPart = Annotated[Initializer, read("initializer"), saved]
CoordinatesPart = Annotated[Coordinates, read("coordinates"), saved]
LabelsPart = Annotated[LabelInference, read("labels"), saved]
OptimizerPart = Annotated[Optimizer, read("optimizer"), saved]
MovesPart = Annotated[
    Moves | None, BeforeValidator(lambda v: create("moves", v), json_schema_input_type=WRITTEN | None), saved
]


class Inversion(Attack):
    """Gradient inversion from parts: argmin over examples of objective(replay, observed) + priors.

    Any part can be exchanged by name, with parameters in brackets: `inversion(objective=cosine,
    priors=[total_variation(weight=0.01)], optimizer=signed_adam(steps=4000))`. A parameter inside a part is
    reached by dots: `inverting_gradients(optimizer.steps=8000, priors.total_variation.weight=0.001)`. The presets
    `dlg`, `inverting_gradients` and so on are this attack with the choices of a paper as defaults.
    """

    name: ClassVar[str] = "inversion"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.REAL_UPDATE, Capability.NUM_EXAMPLES})
    reads_parts: ClassVar[bool] = True
    #: What its coordinates are on tokens where nobody has set others; None refuses tokens.
    on_tokens: ClassVar[Coordinates | None] = None

    objective: ObjectivePart = Field(
        default=SquaredError(), description="distance of the simulated and the observed update."
    )
    priors: PriorParts = Field(default=(), description="penalties added to it, each with its weight.")
    replay: ReplayPart = Field(
        default=Exact(),
        description="how an update is simulated from dummy examples: exactly, or by a stand-in.",
    )
    initializer: InitializerPart = Field(default=Normal(), description="where the dummy examples start.")
    coordinates: CoordinatesPart = Field(default=Smooth(), description="the variables in place of pixels.")
    labels: LabelsPart = Field(
        default=Joint(),
        description="how labels are found: `joint` optimizes them along with the examples.",
    )
    optimizer: OptimizerPart = Field(default=LBFGS(), description="how the sum is minimized.")
    moves: MovesPart = Field(
        default=None,
        description="changes that no gradient leads to, made between the optimizer's steps, or None.",
    )
    constraint: Literal["box"] | None = Field(
        default=None,
        description="`box` keeps pixels in [0, 1] at every step, by projection; `none` clips at the end only.",
    )
    restarts: Count = Field(
        default=1, description="largest number of starts; the one with the lowest objective is kept."
    )
    ensemble: Count = Field(
        default=1,
        description="with more than one, so many starts are made in place of `restarts`, matched one-to-one and pooled "
        "(see the module `ensemble`); how far they agree is their uncertainty.",
    )
    group: Count = Field(
        default=1,
        description="starts optimized jointly, for priors that tie them together; counts in the evaluations.",
    )
    target: NonNegative = Field(
        default=0.0,
        description="objective at which a start stops, its work done. It never goes on below the noise floor, which is "
        "computed from the update's precision (`matching.noise_floor`).",
    )
    tolerance: NonNegative | None = Field(
        default=None,
        description="objective at which no further start is made; none once half of the update's digits are explained "
        "(`matching.Restarts`).",
    )
    stages: Count = Field(
        default=1,
        description="minimizations one after another, each from where the last ended and under priors that weigh less "
        "(see the module `stages`).",
    )
    easing: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.3,
        description="factor on the priors' weights from stage to stage; a first-order optimizer's rate falls by its "
        "fourth root.",
    )
    label_spread: Positive | None = Field(
        default=None,
        description="standard deviation of the dummy label logits at the start; None is 0.1 for one example and 1 for "
        "more, which must start apart.",
    )
    side_by_side: Count = Field(default=1, description="starts run at once, one thread each.")
    path: bool = Field(default=False, description="keep the examples along the way, for film strips.")

    @pydantic.model_validator(mode="before")
    @classmethod
    def _reach_into_parts(cls, values: Any) -> Any:
        """Parameters written with dots change a part's own parameters."""
        if not isinstance(values, Mapping):
            return values
        plain = {k: v for k, v in values.items() if "." not in k}
        for key, value in values.items():
            head, dot, rest = key.partition(".")
            if not dot:
                continue
            if head not in PARTS:
                raise ValueError(f"'{key}': '{head}' has no parameters of its own; parts are {', '.join(PARTS)}")
            current = plain.get(head, cls.model_fields[head].default)
            current = _list(current) if head == "priors" else create(PARTS[head], current)
            plain[head] = changed(current, rest, value)
        return plain

    @pydantic.model_validator(mode="after")
    def _parts_fit(self) -> Inversion:
        if self.constraint == "box" and not self.optimizer.projects:
            raise ValueError(
                f"optimizer '{self.optimizer.kind}' cannot keep pixels in a box; use a first-order one such as "
                "signed_adam, the prior 'box', or constraint=none"
            )
        if self.constraint == "box" and not self.coordinates.invertible:
            raise ValueError(f"coordinates '{self.coordinates.kind}' cannot be projected; use constraint=none")
        if self.coordinates.space != self.initializer.space and "initializer" in self.model_fields_set:
            raise ValueError(
                f"initializer '{self.initializer.kind}' gives {self.initializer.space}, but coordinates "
                f"'{self.coordinates.kind}' start from {self.coordinates.space}; use 'points' with 'embedding', and "
                "others with other coordinates"
            )
        if self.moves is not None and not self.optimizer.leaps:
            raise ValueError(
                f"optimizer '{self.optimizer.kind}' takes no moves between its steps; use a first-order one such as "
                "adam, or moves=none"
            )
        if self.group > 1 and (self.moves is not None or self.initializer.tries() != (1, 0)):
            raise ValueError(
                f"group={self.group} optimizes starts jointly, which allows no moves and no choice among "
                "starts; use group=1"
            )
        if any(p.over == "group" for p in self.priors) and self.group < 2:
            raise ValueError("a prior over the group of starts needs group=2 or more")
        if self.ensemble > 1 and (self.group > 1 or self.stages > 1):
            what = f"group={self.group}" if self.group > 1 else f"stages={self.stages}"
            raise ValueError(
                f"ensemble={self.ensemble} pools independent starts, which {what} are not; leave one of them at 1"
            )
        if self.tolerance is not None and self.tolerance < self.target:
            raise ValueError(
                f"tolerance={self.tolerance} is below the target {self.target} at which a start stops, so every "
                "start would be repeated; raise the tolerance"
            )
        return self

    def components(self) -> tuple[Component, ...]:
        """All parts."""
        return (
            self.objective,
            *self.priors,
            self.replay,
            self.initializer,
            self.coordinates,
            self.labels,
            self.optimizer,
            *(() if self.moves is None else (self.moves,)),
        )

    def requirements(self) -> frozenset[Capability]:
        """What the parts need together."""
        return frozenset().union(self.needs, *(part.requirements() for part in self.components()))

    def brings(self) -> tuple[Knowledge, ...]:
        """What the parts bring in."""
        return tuple(dict.fromkeys(known for part in self.components() for known in part.brings()))

    def equipped(self, view: View) -> Inversion:
        """This attack with what the adversary holds where its coordinates say `held`, and fit for the examples' kind.

        On tokens, coordinates that nobody has set are those of the class for tokens, and so is the initializer.
        """
        coordinates, fields = self.coordinates.equipped(view), type(self).model_fields
        if isinstance(view.data_kind, Tokens) and self.on_tokens and coordinates == fields["coordinates"].default:
            coordinates = self.on_tokens
        changes: dict[str, Component] = {} if coordinates is self.coordinates else {"coordinates": coordinates}
        points = coordinates.space == "points" and self.initializer.space != "points"
        if points and self.initializer == fields["initializer"].default:
            changes["initializer"] = Points()
        return self.with_(**changes) if changes else self

    def attack(self, view: View, seed: int) -> Finding:
        """Finds labels, then matches the update; see `matching.reconstruct` for the finding's fields and errors."""
        return self.attack_together((view,), seed)

    def attack_together(self, views: Sequence[View], seed: int) -> Finding:
        """Matches several views of the same clients on the same examples at once; labels are those of their mean."""
        view, *others = views
        self.coordinates.check(view)
        for one in views:
            checked_update(one)
        if self.ensemble > 1 and view.data_kind.dtype != "float32":
            raise CapabilityError(
                f"ensemble={self.ensemble} takes means, and examples of kind '{view.data_kind.name}' have none; use "
                "restarts"
            )
        seen = view if not others else replace(view, observed=averaged(views).astype(view.model.spec.dtype))
        inferred = self.labels(seen, seed)
        labels = None if inferred is None else inferred.y
        recipe, restarts = self.recipe(), self.starts(view.total_examples)
        prepared = [recipe.objective.prepared(one) for one in views]
        if others and view.model.draws:
            recipe = replace(recipe, replay=recipe.replay.together())
        recipe, views = replace(recipe, objective=prepared[0][0]), [one for _, one in prepared]
        view, *others = views
        finding = reconstruct(view, recipe, restarts, self.initializer, labels, seed, others=others)
        if self.stages > 1:
            finding = self._eased(views, recipe, restarts, finding, labels, seed)
        source = "optimized" if inferred is None else inferred.source
        extra = {k: v for k, v in finding.extra.items() if k != "memory"}
        extra |= {"coordinates": self.coordinates.kind, "label_source": source}
        return replace(finding, extra=extra)

    def _eased(
        self, views: Sequence[View], recipe: Recipe, restarts: Restarts, first: Finding, labels: Array | None, seed: int
    ) -> Finding:
        """The best of all stages, at the cost of all, with the way to it; `extra["stages"]` has each one's error."""

        def error(finding: Finding) -> float:
            return float(np.mean([unsettled_mismatch(view, finding, recipe) for view in views]))

        found, errors = [first], [error(first)]
        wholes = [first]
        for stage in range(1, self.stages):
            if errors[-1] <= first.extra["noise_floor"]:
                break
            slower = self.easing ** (stage / 4)
            ease = Ease(self.easing**stage, slower)
            same = recipe.optimizer.paced  # other optimizers are another graph, unless they have nothing to slow
            eased = recipe if same else replace(recipe, optimizer=recipe.optimizer.slowed(slower))
            before, once = found[-1].extra, replace(restarts, most=1)
            start = before["variables"], before["memory"]
            found.append(
                reconstruct(views[0], eased, once, self.initializer, labels, seed, *start, others=views[1:], ease=ease)
            )
            errors.append(error(found[-1]))
            wholes.append(joined(wholes[-1], found[-1]))
        kept = heaviest(errors)
        best = found[kept]
        return replace(
            wholes[-1],
            x=best.x,
            y=best.y,
            objective=best.objective,
            history=wholes[kept].history,
            path=wholes[kept].path,
            extra={**best.extra, "stages": errors},
        )

    def recipe(self) -> Recipe:
        """The parts that make the compiled graph."""
        return Recipe(
            self.objective,
            self.priors,
            self.replay,
            self.coordinates,
            self.optimizer.with_(path=True) if self.path else self.optimizer,
            self.constraint == "box",
            self.group,
            self.path,
            self.moves,
            self.initializer.tries(),
        )

    def starts(self, examples: int) -> Restarts:
        """How often to start."""
        spread = self.label_spread or (0.1 if examples == 1 else 1.0)
        pooled = self.ensemble > 1
        most = self.ensemble if pooled else self.restarts
        return Restarts(most, self.target, self.tolerance, self.side_by_side, spread, pooled)


def by_optimization(value: Attack, such: str) -> Inversion:
    """An attack given as another's `inner`, if it matches an update by optimization.

    Raises:
      ValueError: it does not; `such` names ones that do.
    """
    if not isinstance(value, Inversion):
        raise ValueError(f"'{value.name}' does not match an update by optimization; use one that does, such as {such}")
    return value
