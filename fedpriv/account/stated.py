"""Stated: somebody else's privacy claim, as a configuration; what it really gives, and why that differs.

What is checked is the arithmetic of the claim: whether the noise covers what the clip lets through, in all rounds, for
the adversary and the unit that are named. Whether an implementation does what its configuration says is another matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from fedpriv.account.composition import Composition
from fedpriv.account.gaussian import zcdp_epsilon
from fedpriv.account.search import COARSE, smallest_multiplier
from fedpriv.base.errors import LedgerError, ParameterError
from fedpriv.base.lazy import dp_accounting
from fedpriv.base.types import Row
from fedpriv.defense.claim import Against, Relation

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=1)]
Accountant = Literal["rdp", "pld"]
#: Under less noise than this PLDs grow too large; Renyi divergences, or the bound without sampling, do then.
_PLD_STARTS = 0.2
#: How far above the stated number a computed one may be, relatively, if only rounding can be why.
_ROUNDING = 1e-3
#: How exact floating-point numbers are here.
_EXACT = 1e-9


class Stated(pydantic.BaseModel):
    """A claim as it is stated, and the configuration it is stated for, all norms in the same unit.

    Raises:
      pydantic.ValidationError: a value is impossible, or does not go with another.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", validate_default=True)

    epsilon: _Positive = Field(description="that is stated.")
    delta: Annotated[float, Field(gt=0, lt=1)] = Field(description="that is stated.")
    clip: _Positive | None = Field(
        default=None, description="norm that each contribution is clipped to; None for none."
    )
    clip_norm: Literal["l2", "l1", "linf"] = Field(default="l2", description="which norm.")
    per: Literal["client", "example"] = Field(default="client", description="whose contribution the clip bounds.")
    unit: Literal["client", "example"] = Field(default="client", description="whom the claim is stated for.")
    noise: Literal["gaussian", "laplace"] = Field(default="gaussian", description="its distribution.")
    stddev: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description=(
            "the noise's standard deviation on each coordinate, where it is added; None takes the textbook's for "
            "`sensitivity`: sensitivity * sqrt(2 ln(1.25 / delta)) / epsilon, or a Laplace scale of sensitivity / "
            "epsilon."
        ),
    )
    added_to: Literal["sum", "mean", "update"] = Field(
        default="sum",
        description="`sum` and `mean` at the server, `update` at each client; the mean is of `cohort` contributions.",
    )
    sensitivity: _Positive | None = Field(default=None, description="that the noise was computed for, if it is told.")
    formula_epsilon: _Positive | None = Field(
        default=None, description="that the textbook's noise was computed for; None is the stated one."
    )
    rounds: _Count = Field(default=1, description="rounds, or steps, in which noise is added.")
    sampling: Literal["poisson", "fixed", "full"] | None = Field(
        default=None, description="how contributions are drawn; None is `poisson` where a rate or population is given."
    )
    rate: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="with which each takes part in a round; or give cohort and population."
    )
    cohort: _Count | None = Field(default=None, description="(expected) contributions a round.")
    population: _Count | None = Field(default=None, description="contributors in all.")
    against: Against = Field(default="released", description="`released` models only, or the `server` too.")
    relation: Relation | None = Field(
        default=None, description="that the claim is stated for; None takes the one that is best for it."
    )
    drawn_by: Literal["server", "client"] = Field(
        default="server",
        description="who draws contributions; a client its own batches, which the server does not see.",
    )
    local_steps: _Count = Field(default=1, description="of a client in each round, with noise and a batch each.")
    dimension: _Count | None = Field(default=None, description="d, for Laplace noise and for clips of other norms.")
    examples: _Count | None = Field(default=None, description="of one client, where the clip is per example.")

    @pydantic.model_validator(mode="after")
    def _fits(self) -> Stated:
        if self.rate is not None and self.population is not None and self.cohort is not None:
            raise ValueError("rate, cohort and population are one too many; give rate, or cohort and population")
        if self.cohort is not None and self.population is not None and self.cohort > self.population:
            raise ValueError(
                f"cohort={self.cohort} of population={self.population} is a rate above 1; give a cohort no larger"
            )
        if self.drawn_by == "client" and (self.per != "example" or self.added_to != "update"):
            raise ValueError(
                "drawn_by=client is about batches of examples that a client draws, with noise in its update; give "
                "per=example and added_to=update"
            )
        if self.local_steps > 1 and self.added_to != "update":
            raise ValueError(
                f"local_steps={self.local_steps} add noise at each client; give added_to=update, or leave them out"
            )
        if self.added_to == "mean" and self.cohort is None:
            raise ValueError("added_to=mean needs cohort, the number that the sum is divided by")
        if self.sampling == "fixed" and (self.cohort is None or self.population is None):
            raise ValueError("sampling=fixed needs cohort and population")
        if self.stddev is None and self.sensitivity is None:
            raise ValueError("neither stddev nor sensitivity tells how much noise there is; give one")
        needs = (self.noise == "laplace" and self.clip_norm != "l1") or self.clip_norm == "linf"
        if needs and self.clip is not None and self.dimension is None:
            raise ValueError(f"{self.noise} noise under a clip of the {self.clip_norm} norm needs dimension, d")
        return self

    @property
    def steps(self) -> int:
        """How often noise is added in all."""
        return self.rounds * self.local_steps

    @property
    def noise_scale(self) -> float:
        """Standard deviation on each coordinate, where it is added."""
        if self.stddev is not None:
            return self.stddev
        assert self.sensitivity is not None
        target = self.formula_epsilon or self.epsilon
        if self.noise == "laplace":
            return math.sqrt(2) * self.sensitivity / target
        return self.sensitivity * math.sqrt(2 * math.log(1.25 / self.delta)) / target

    @property
    def chance(self) -> float:
        """With which each takes part in a round; 1 where nothing is drawn."""
        if self.sampling == "full":
            return 1.0
        if self.rate is not None:
            return self.rate
        return 1.0 if self.cohort is None or self.population is None else self.cohort / self.population

    @property
    def drawn(self) -> Literal["poisson", "fixed", "full"]:
        """How contributions are drawn."""
        return "full" if self.chance == 1 else self.sampling or "poisson"

    @property
    def reach(self) -> float:
        """How far one contribution moves the sum, in the noise's own norm: L2 for Gaussian, L1 for Laplace noise."""
        assert self.clip is not None
        d = self.dimension or 1
        powers = {"gaussian": {"l1": 0.0, "l2": 0.0, "linf": 0.5}, "laplace": {"l1": 0.0, "l2": 0.5, "linf": 1.0}}
        return self.clip * float(d) ** powers[self.noise][self.clip_norm]

    @property
    def on_sum(self) -> float:
        """The noise's standard deviation on the sum, where it is added at the server."""
        return self.noise_scale * (self.cohort or 1) if self.added_to == "mean" else self.noise_scale


@dataclass(frozen=True)
class Reading:
    """One way to read a configuration as a guarantee.

    Attributes:
      against: the adversary.
      relation: what makes two populations neighbours.
      multiplier: the noise's standard deviation over the sensitivity under that relation.
      chance: that amplifies it; 1 where nothing does.
      sampling: of the amplification.
      laplace: whether the noise is Laplace's.
      said: what neighbours are, in words.
      steps: how many neighbours under add_or_remove_one make one such step; 2 for replacing, where it is accounted so.
    """

    against: Against
    relation: Relation
    multiplier: float
    chance: float
    sampling: Literal["poisson", "fixed", "full"]
    laplace: bool
    said: str
    steps: int = 1

    @lru_cache(maxsize=256)  # noqa: B019  a reading holds numbers only
    def epsilon(
        self,
        rounds: int,
        delta: float,
        sizes: tuple[int, int] | None = None,
        group: int = 1,
        accountant: Accountant = "pld",
    ) -> float:
        """The smallest epsilon at `delta` that is known of so many rounds.

        Args:
          rounds: released.
          delta: in (0, 1).
          sizes: cohort and population, where cohorts have a fixed size.
          group: units that are protected together.
          accountant: `rdp` is cheap; `pld` takes whichever of the two is better and can be had.
        """
        if self.multiplier == 0:
            return math.inf
        group *= self.steps
        relation: Relation = "add_or_remove_one" if self.steps > 1 else self.relation
        if self.laplace:
            pure = math.sqrt(2) / self.multiplier
            if self.sampling == "poisson" and self.chance < 1:
                pure = math.log1p(self.chance * math.expm1(pure)) if pure < 700 else pure + math.log(self.chance)
            pure *= group
            return min(rounds * pure, zcdp_epsilon(rounds * pure**2 / 2, delta))
        gaussian = dp_accounting.GaussianDpEvent(self.multiplier)
        plain = Composition([(gaussian, rounds)], relation, "pld").group_epsilon(delta, group)[0]
        if self.chance >= 1:
            return plain
        event: dp_accounting.DpEvent = dp_accounting.PoissonSampledDpEvent(self.chance, gaussian)
        if self.sampling == "fixed":
            assert sizes is not None
            event = dp_accounting.SampledWithoutReplacementDpEvent(sizes[1], sizes[0], gaussian)
        by: Accountant = "rdp" if self.sampling == "fixed" or self.multiplier < _PLD_STARTS else accountant
        try:
            return min(plain, Composition([(event, rounds)], relation, by, COARSE).group_epsilon(delta, group)[0])
        except (
            LedgerError,
            OverflowError,
            ValueError,
        ):  # so little noise that only what holds without sampling is left
            return plain

    @property
    def closed(self) -> bool:
        """Whether epsilon is a closed form, rather than rounded up by an accountant."""
        return self.laplace or self.chance >= 1

    @property
    def how(self) -> str:
        """In words: whom it protects against and what amplifies it."""
        who = "the server" if self.against == "server" else "whoever sees the released models"
        amplified = f", amplified by {self.sampling} sampling" if self.chance < 1 else ""
        return f"{self.relation} ({self.said}), against {who}{amplified}"


@dataclass(frozen=True)
class Verdict:
    """What a stated claim comes to.

    Attributes:
      stated: the claim.
      readings: (reading, epsilon of one round, of all rounds), the best one for the claim first.
      epsilon: what the claim should say, for the best reading that its adversary, unit and relation allow; infinite
        where nothing is bounded.
      holds: whether the stated number is at least that, or that rounded.
      rounded: whether it is at least that only as rounded: a closed form to the stated number's digits, what the
        accountant rounds up itself to a thousandth.
      reasons: why not, or what else to know, in sentences.
      needed: standard deviation, where theirs is added, that would earn the stated number; None where no noise does.
    """

    stated: Stated
    readings: tuple[tuple[Reading, float, float], ...]
    epsilon: float
    holds: bool
    reasons: tuple[str, ...]
    needed: float | None
    rounded: bool = False

    def row(self) -> Row:
        """JSON-able."""
        readings = [
            {
                "against": r.against, "relation": r.relation, "noise_multiplier": r.multiplier,
                "amplified": r.chance < 1, "epsilon_one_round": _number(one), "epsilon": _number(whole),
            }
            for r, one, whole in self.readings
        ]  # fmt: skip
        facts = {
            "holds": self.holds,
            "rounded": self.rounded,
            "stated_epsilon": self.stated.epsilon,
            "delta": self.stated.delta,
        }
        return {
            **facts,
            "epsilon": _number(self.epsilon),
            "readings": readings,
            "reasons": list(self.reasons),
            "stddev": self.stated.noise_scale,
            "stddev_needed": self.needed,
        }

    def describe(self) -> str:
        """In plain words, several lines."""
        s = self.stated
        each = f" of {s.local_steps} local steps each" if s.local_steps > 1 else ""
        place = {"sum": "the sum", "mean": f"the mean of {s.cohort}", "update": "each update"}[s.added_to]
        lines = [
            f"Stated: epsilon {s.epsilon:g} at delta {s.delta:g}, {s.unit} level, after {s.rounds} rounds{each}.",
            f"Noise: {s.noise}, standard deviation {s.noise_scale:.4g} on each coordinate of {place}.",
        ]
        if self.readings:
            lines.append("Really:")
        for reading, one, whole in self.readings:
            lines.append(
                f"- noise multiplier {reading.multiplier:.4g}: epsilon {_said(one)} a round, {_said(whole)} after all "
                f"{s.rounds}; {s.per} level, {reading.how}"
            )
        if self.rounded:
            lines.append(f"The stated number holds, rounded: epsilon is {self.epsilon:.6g}.")
        elif self.holds:
            lines.append(f"The stated number holds: epsilon is {_said(self.epsilon)}.")
        elif math.isinf(self.epsilon):
            lines.append("The stated number does not hold: no epsilon does.")
        else:
            factor = self.epsilon / s.epsilon
            times = f"{factor:.3g}" if factor >= 1.01 else f"{factor:.6g}"
            lines.append(f"The stated number does not hold: epsilon is {_said(self.epsilon)}, {times} times as much.")
        lines += [f"- {reason}." for reason in self.reasons]
        if not self.holds:
            lines.append(
                "No noise earns the stated number in that setting."
                if self.needed is None
                else f"A standard deviation of {self.needed:.4g} on each coordinate of {place} would earn it."
            )
        return "\n".join(lines)


def check_stated(stated: Stated) -> Verdict:
    """What a stated claim really gives, whether it holds, and why not."""
    reasons: list[str] = []
    if stated.clip is None:
        reasons.append(
            "nothing clips a contribution, so one of them moves the result by any amount and no noise covers it; clip "
            "to a norm before noise is added"
        )
        return Verdict(stated, (), math.inf, holds=False, reasons=tuple(reasons), needed=None)
    sizes = (stated.cohort, stated.population) if stated.cohort and stated.population else None
    every = _readings(stated, stated.noise_scale)
    fitting = [r for r in every if _fits(stated, r)]
    if not fitting:
        reasons.append(_nothing_fits(stated, every))
    group, lifted = _group(stated)
    if lifted:
        reasons.append(lifted)

    def whole(reading: Reading, rounds: int | None = None) -> float:
        if group is None:
            return math.inf
        return reading.epsilon(rounds or stated.steps, stated.delta, sizes, group)

    ranked = sorted(((whole(r), i) for i, r in enumerate(fitting)), key=lambda one: one[0])
    real, best = (ranked[0][0], fitting[ranked[0][1]]) if ranked else (math.inf, None)
    shown = [*([best] if best else []), *(r for r in every if r is not best)]
    readings = tuple(
        (r, r.epsilon(stated.local_steps, stated.delta, sizes), r.epsilon(stated.steps, stated.delta, sizes))
        for r in shown
    )
    within = real <= stated.epsilon * (1 + _EXACT)
    holds = within or (best is not None and _rounded(stated.epsilon, real, closed=best.closed))
    if best is not None and not holds:
        reasons += _why(stated, best, whole)
    reasons += _besides(stated)
    needed = None if holds or best is None or group is None else _needed(stated, best, sizes, group)
    return Verdict(stated, readings, real, holds, tuple(reasons), needed, holds and not within)


def _rounded(stated: float, real: float, *, closed: bool) -> bool:
    """Whether rounding alone makes the stated number the smaller one."""
    if real > stated * (1 + _ROUNDING):
        return False
    exponent = Decimal(repr(stated)).normalize().as_tuple().exponent
    return not closed or round(float(real), max(0, -int(exponent))) == stated


def _readings(s: Stated, scale: float) -> list[Reading]:
    """All guarantees that noise of that scale gives."""
    chance, drawn, laplace = s.chance, s.drawn, s.noise == "laplace"
    who = s.per
    found = []
    if s.added_to == "update" and s.drawn_by == "server":
        replaced = scale / (2 * s.reach)
        one = f"one {who}'s contribution against any other"
        none = f"one {who}'s contribution against none at all"
        found.append(Reading("server", "replace_one", replaced, 1.0, "full", laplace, one))
        found.append(Reading("server", "replace_special", 2 * replaced, 1.0, "full", laplace, none))
        if s.cohort is not None and drawn != "poisson" and not laplace and s.local_steps == 1:
            total = replaced * math.sqrt(s.cohort)
            part = f"one {who} replaced by another, all {s.cohort} noises adding up"
            found.append(Reading("released", "replace_one", total, chance, drawn, laplace, part))
        return found
    # A client's own batches are a sum that it makes itself: who sees its update sees no more than who sees that sum.
    against: Against = "server" if s.drawn_by == "client" else "released"
    on_sum = scale * (s.cohort or 1) if s.added_to == "mean" else scale
    if drawn != "fixed":
        said = f"one {who} added or removed"
        found.append(Reading(against, "add_or_remove_one", on_sum / s.reach, chance, drawn, laplace, said))
    if drawn == "poisson":
        said = f"one {who} replaced by another, which is one removed and one added"
        found.append(Reading(against, "replace_one", on_sum / s.reach, chance, drawn, laplace, said, steps=2))
        return found
    amplified = chance if not laplace else 1.0
    said = f"one {who} replaced by another"
    found.append(Reading(against, "replace_one", on_sum / (2 * s.reach), amplified, drawn, laplace, said))
    return found


def _fits(s: Stated, reading: Reading) -> bool:
    """Whether a reading is about what is stated; what holds against the server holds for whoever sees less."""
    seen = s.against == "released" or reading.against == "server"
    return seen and s.relation in (None, reading.relation)


def _nothing_fits(s: Stated, every: list[Reading]) -> str:
    if s.against == "server" and not any(r.against == "server" for r in every):
        return (
            f"noise on the {s.added_to} is added by the server, which sees every contribution before: nothing holds "
            "against it, unless the sum is made without it (a secure sum, and noise in the contributions)"
        )
    known = ", ".join(sorted({r.relation for r in every}))
    return f"nothing follows for {s.relation} under {s.drawn} sampling; what does is stated for {known}"


def _group(s: Stated) -> tuple[int | None, str]:
    """How many of what the clip bounds make one unit of the claim; None where it is not told."""
    if s.unit == s.per or s.unit == "example":
        return 1, ""
    if s.examples is None:
        return None, (
            "the clip bounds one example's share, so that the noise hides one example, but the claim is about a client "
            "with all of its examples; give examples, a client's, to see what follows for groups, or clip per client"
        )
    return s.examples, (
        f"the noise hides one example; a client has {s.examples} of them, and a guarantee for groups of that many is "
        "far weaker"
    )


def _why(s: Stated, best: Reading, whole: Callable[..., float]) -> list[str]:
    """What explains the difference; each explanation is tried."""
    found = []
    if s.noise_scale == 0:
        return ["no noise is added, and clipping alone bounds no epsilon"]
    moved = best.steps * s.noise_scale / best.multiplier  # what one unit moves, where the noise is added
    if s.sensitivity is not None and s.sensitivity < moved * (1 - 1e-6):
        found.append(
            f"the noise is computed for a sensitivity of {s.sensitivity:g}, but what is clipped to {s.clip:g} moves "
            f"what the noise is added to by {moved:.4g} ({best.said}): the noise is {moved / s.sensitivity:.3g} times "
            "too small. A sensitivity follows from the clip; it is no setting of its own"
        )
    if s.noise == "laplace" and s.clip_norm == "l2":
        found.append(
            f"Laplace noise is for the L1 norm, but the clip is of the L2 norm: {s.dimension} coordinates reach an L1 "
            f"norm of {s.reach:.4g}, sqrt(d) times the clip; add Gaussian noise, or clip the L1 norm"
        )
    textbook = s.stddev is None and s.noise == "gaussian"
    assumed = best if s.sensitivity is None else replace(best, multiplier=s.noise_scale / s.sensitivity)
    by_formula = s.stddev is None and s.formula_epsilon is None
    one, many = ("step", s.steps) if s.local_steps > 1 else ("round", s.rounds)
    if many > 1 and (by_formula or _near(whole(assumed, 1), s)):
        found.append(f"the stated number is that of one {one}; {many} {one}s are released, and each adds to it")
    if textbook and (s.formula_epsilon or s.epsilon) > 1:
        found.append(
            "the textbook's formula for Gaussian noise (Dwork, Roth 2014, theorem A.1) holds for epsilon below 1 only; "
            "use the analytic Gaussian mechanism (Balle, Wang 2018)"
        )
    if s.chance < 1 and s.unit == s.per:
        found += _amplified_wrongly(s, best)
    return found


def _near(epsilon: float, s: Stated) -> bool:
    """Whether an epsilon may be how somebody came to the stated one."""
    return 0.5 * s.epsilon <= epsilon <= 1.05 * s.epsilon


def _amplified_wrongly(s: Stated, best: Reading) -> list[str]:
    """Whether the stated number comes out by sampling that does not count, or counts once only."""
    sizes = (s.cohort, s.population) if s.cohort and s.population else None
    if best.chance == 1:
        once = replace(best, chance=s.chance, sampling="poisson", relation="add_or_remove_one")
        if not _near(once.epsilon(s.steps, s.delta, sizes), s):
            return []
        if best.against == "server":
            return [
                "the stated number counts on sampling, which amplifies only against those who do not see who takes "
                "part; the server does"
                + (", unless clients draw batches themselves (drawn_by=client)" if s.per == "example" else "")
            ]
        return [f"the stated number counts on sampling, which amplifies nothing stated for {best.relation} here"]
    twice = replace(best, chance=best.chance**2, sampling="poisson", relation="add_or_remove_one")
    if not _near(twice.epsilon(s.steps, s.delta), s):
        return []
    return ["the stated number comes out if the same sampling is counted twice; it amplifies once"]


def _besides(s: Stated) -> list[str]:
    """What to know whether it holds or not."""
    found = []
    if s.population is not None and s.delta > 1 / s.population:
        found.append(
            f"delta {s.delta:g} is above 1/{s.population}: it would allow the whole data of one {s.per} to be "
            "published; choose one well below"
        )
    if s.added_to == "mean" and s.drawn == "poisson" and s.chance < 1:
        found.append(
            f"the mean must be over the fixed number {s.cohort}, not over how many took part, which tells of them"
        )
    if s.drawn_by == "client" and s.drawn == "poisson" and s.chance < 1:
        found.append(
            "the sum of a batch must be divided by a fixed number, not by how many examples were drawn, which tells of "
            "them"
        )
    by_server = s.added_to == "update" and s.drawn_by == "server"
    if by_server and s.drawn == "poisson" and s.chance < 1 and s.against == "released":
        found.append(
            "where cohorts differ in size so does the noise of their sum, so that sampling amplifies nothing there; "
            "draw cohorts of one size"
        )
    return found


def _needed(s: Stated, best: Reading, sizes: tuple[int, int] | None, group: int) -> float | None:
    """Standard deviation, where theirs is added, that earns the stated number by the best reading."""
    unit = s.noise_scale / best.multiplier if best.multiplier else None
    if unit is None:
        scaled = next(r for r in _readings(s, 1.0) if r.how == best.how)
        unit = 1.0 / scaled.multiplier

    def spent(multiplier: float, by: Accountant, interval: float) -> float:
        del interval  # rounded up as the verdict is
        return replace(best, multiplier=multiplier).epsilon(s.steps, s.delta, sizes, group, by)

    try:
        return unit * smallest_multiplier(spent, s.epsilon, "pld")
    except LedgerError:
        return None


def make_stated(**facts: Any) -> Stated:
    """A Stated, with pydantic's complaints turned into ParameterError."""
    from fedpriv.base.registry import explain

    try:
        return Stated(**facts)
    except pydantic.ValidationError as e:
        raise ParameterError(explain(e, "the claim")) from e


def _said(epsilon: float) -> str:
    return "unbounded" if math.isinf(epsilon) else f"{epsilon:.4g}"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
