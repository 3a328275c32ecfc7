"""DPFTRL: client-level differential privacy by noise that is correlated over rounds, without amplification."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import pydantic
from pydantic import Field

from fedpriv.account.correlated import tree_sensitivity
from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import dp_accounting, tf
from fedpriv.base.types import Flat, Nested, Scalar
from fedpriv.defense.claim import Check, Claim, Relation
from fedpriv.defense.domain import Domain, Real
from fedpriv.defense.noise import Noise, given_multiplier
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Context, Defense, Plan
from fedpriv_defenses.central_claim import trusts_the_server
from fedpriv_defenses.clip import Clip, Norm
from fedpriv_defenses.correlated.banded import banded_coefficients, unmixed
from fedpriv_defenses.correlated.tree import grown, tree_levels
from fedpriv_defenses.gaussian_query import noise_assumptions
from fedpriv_defenses.noise_multiplier import Multiplier, require_uniform, warning

#: Rounds that a tree has room for where nobody plans how many there are.
OPEN_ROUNDS = (1 << 16) - 1
#: Most bands taken by default: each but one is a vector of the model's size that the server keeps.
MOST_BANDS = 32
#: What such a claim takes for granted and a run may break.
_CHECKS: frozenset[Check] = frozenset({"cohorts are drawn", "rounds are finished", "cohort sizes stay unpublished"})

_sensitivity = functools.lru_cache(maxsize=None)(tree_sensitivity)


class DPFTRL(Defense):
    """Clips each update at its client; the server adds noise to the sums that partly cancels from round to round.

    What counts for the model is the sum of all rounds so far. Each round's noise is the difference of that sum's noise
    to the last round's, so that any server optimizer works with it (DP-FTRL's residuals; Kairouz, McMahan, Song,
    Thakkar, Thakurta, Xu 2021, arXiv 2103.00039). `tree` noises the nodes of a binary tree, begun anew every
    `restart_every` rounds; `banded` takes a banded Toeplitz matrix optimized for the planned rounds (Choquette-Choo et
    al. 2023, arXiv 2306.08153). The noise that is kept between rounds never leaves the server.

    Formal guarantee, client level, against whoever sees released models, of the whole run, amplified by nothing: it is
    one Gaussian mechanism of multiplier noise_multiplier / s, with s the sensitivity under the participation that the
    selection allows (`cyclic`, `min_separation`; elsewhere every client may be in every round). For `banded` s is the
    root of the number of a client's participations. Neighbours are, under full participation and Poisson sampling, one
    client added or removed; elsewhere one client whose updates are replaced by zeros (`replace_special`), or, with
    twice the sensitivity, by another's. Uniform weighting is required.

    Log: at the client `norm` and `clipped` as for Clip; at the server `noise_norm`, of the round's noise, and
    `signal_to_noise`.
    """

    name: ClassVar[str] = "dp_ftrl"
    paper: ClassVar[str] = "Kairouz et al. 2021, arXiv 2103.00039; Choquette-Choo et al. 2023, arXiv 2306.08153"
    replayable: ClassVar[bool] = False
    adaptive_attack: ClassVar[str] = "maximum_posterior"
    plans_rounds: ClassVar[bool] = True

    clip: Norm = Field(description="L2 norm bound of one update, in update units.")
    noise_multiplier: Multiplier = Field(
        default=None,
        description=(
            "`tree`: standard deviation of a node's noise over `clip`; `banded`: of the uncorrelated noise, for a "
            "matrix with columns of norm 1. None leaves it to a budget."
        ),
    )
    mechanism: Literal["tree", "banded"] = Field(default="tree", description="what correlates the noise.")
    restart_every: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="for `tree`: rounds after which a new one begins; None is never."
    )
    bands: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description=(
            "for `banded`: rounds that are correlated with each other, at most the participation's separation; 1 is "
            f"independent noise. None takes that separation, but no more than {MOST_BANDS}."
        ),
    )
    error: Literal["mean", "max"] = Field(
        default="mean",
        description="for `banded`: what is least, the `mean` of the sums' squared deviations or the `max`imum.",
    )

    @pydantic.model_validator(mode="after")
    def _of_its_mechanism(self) -> DPFTRL:
        if self.mechanism == "tree" and self.bands is not None:
            raise ValueError("bands are for mechanism=banded; leave them out")
        if self.mechanism == "banded" and self.restart_every is not None:
            raise ValueError("restart_every is for mechanism=tree; leave it out")
        return self

    def check(self, plan: Plan) -> None:
        """Raises StackError unless weighting is uniform; ParameterError if something is missing or does not fit."""
        require_uniform(self.name, plan)
        given_multiplier(self)
        if self.mechanism == "banded":
            self._coefficients(plan)

    def rounds_limit(self, plan: Plan) -> int | None:
        """As many as a tree has room for that never begins anew."""
        if self.mechanism == "banded" or self.restart_every is not None:
            return None
        return (1 << tree_levels(self._leaves(plan))) - 1

    def _leaves(self, plan: Plan) -> int:
        leaves = plan.rounds or OPEN_ROUNDS
        return leaves if self.restart_every is None else self.restart_every

    def stddev(self, plan: Plan) -> float:
        """Standard deviation of each coordinate of a node's, or the uncorrelated, noise."""
        return given_multiplier(self) * self.clip * plan.noise_factor

    def _coefficients(self, plan: Plan) -> tuple[float, ...]:
        """The banded matrix's first column.

        Raises:
          ParameterError: the run is open, or there are more bands than separation.
        """
        if not plan.rounds:
            raise ParameterError(
                f"{self.name}: mechanism=banded is optimized for the planned number of rounds, and none is planned; "
                "give Federation(rounds=...), or use mechanism=tree"
            )
        apart = separation(plan)
        bands = min(apart, MOST_BANDS) if self.bands is None else self.bands
        if bands > apart:
            raise ParameterError(
                f"{self.name}: bands={bands} exceeds the {apart} round{'s' * (apart > 1)} that lie between a client's "
                "participations, so that two of them could add up in one; give fewer bands, or a selection with more "
                "separation, such as cyclic(size=...) or min_separation(size=..., separation=...)"
            )
        return banded_coefficients(plan.rounds, min(bands, plan.rounds), self.error)

    def initial_state(self, plan: Plan) -> Nested:
        """The noise to come back to: a tree's nodes and its last sum's noise, or the last rounds' noise."""
        d, dtype = plan.spec.size, plan.spec.dtype
        if self.mechanism == "tree":
            return np.zeros([tree_levels(self._leaves(plan)), d], dtype), np.zeros([d], dtype)
        return (np.zeros([len(self._coefficients(plan)) - 1, d], dtype),)

    def broadcast_state(self, state: Nested) -> Nested:
        """Nothing: the noise that is kept stays at the server."""
        return ()

    def maps(self, given: Domain, plan: Plan) -> Domain:
        """A vector of norm at most `clip`, and of any smaller bound it came with."""
        known = given.l2 if isinstance(given, Real) else None
        return Real(self.clip if known is None else min(self.clip, known))

    def noise(self, plan: Plan) -> Noise:
        """Normal noise on the sum; how much of it differs from round to round."""
        return Noise("gaussian", None, "aggregate")

    def notes(self, plan: Plan) -> Sequence[str]:
        """What unlimited participation costs."""
        if separation(plan) > 1:
            return ()
        return (
            "nothing limits how often a client takes part, so every round counts for everybody; a selection such as "
            "cyclic(size=...) or min_separation(size=..., separation=...) takes far less noise",
        )

    def warn(self, log: Mapping[str, float]) -> str:
        """That the clip cuts everything or nothing, or that noise drowns the sum."""
        return warning(log)

    def update(self, update: Flat, context: Context) -> Passed:
        """Clips one update `[d]`."""
        return Clip(norm=self.clip).update(update, context)

    def aggregate(self, total: Flat, context: Context) -> Passed:
        """Adds this round's noise to the sum `[d]`."""
        plan, dtype = context.plan, total.dtype
        stddev = tf.cast(self.stddev(plan), dtype)

        def draw(stream: Scalar | int) -> Flat:
            return stddev * context.normal([plan.spec.size], dtype, stream)

        state: Nested
        if self.mechanism == "tree":
            nodes, before = context.state
            leaf = tf.cast(context.round, tf.int32)
            if self.restart_every is not None:
                leaf = leaf % self.restart_every
            sums, nodes = grown(nodes, leaf, draw)
            noise = sums - tf.where(leaf > 0, before, tf.zeros_like(before))
            state = nodes, sums
        else:
            noise, last = unmixed(draw(0), context.state[0], self._coefficients(plan))
            state = (last,)
        log = {"noise_norm": tf.norm(noise)}
        if self.noise_multiplier:
            log["signal_to_noise"] = tf.norm(total) / tf.norm(noise)
        return Passed(total + noise, log=log, state=state)

    def replay(self) -> Defense:
        """The clip alone: what an adversary who knows the defense can replay."""
        return Clip(norm=self.clip)

    def sensitivity(self, plan: Plan, rounds: int) -> float:
        """Of the first so many rounds, for contributions of norm at most 1, one of which is replaced by zero."""
        often = participations(plan, rounds)
        if self.mechanism == "banded":
            return math.sqrt(often)
        return _sensitivity(rounds, often, separation(plan), self.restart_every)

    def claims(self, plan: Plan, contribution: Real) -> list[Claim]:
        """Client-level claims against `released` about the whole run, for the longest contribution that can arrive."""
        longest = self.clip if contribution.l2 is None else contribution.l2
        multiplier = self.stddev(plan) / plan.noise_factor / longest
        apart = separation(plan)
        limited = (
            "nothing limits how often a client takes part"
            if apart == 1
            else f"a client's rounds lie {apart} or more apart, as the selection sees to"
        )
        selection = plan.accounted_sampling.selection
        if selection is not None and plan.rounds:
            limited += f", which makes at most {participations(plan, plan.rounds)} in {plan.rounds} rounds"
        assumes = (
            *trusts_the_server(plan),
            f"{limited}; who takes part when may be known, and depends on nobody's data",
            *noise_assumptions(plan),
        )
        if longest > self.clip:
            more = longest - self.clip
            assumes += (f"rounding on the way lengthens an update by at most {more:.3g}, which is accounted for",)

        def claim(relation: Relation, factor: int) -> Claim:
            def run(rounds: int) -> dp_accounting.DpEvent:
                return dp_accounting.GaussianDpEvent(multiplier / (factor * self.sensitivity(plan, rounds)))

            return Claim(
                event=run(1),
                run=run,
                unit="client",
                relation=relation,
                against="released",
                amplified=False,
                assumes=assumes,
                sensitivity=factor * longest,
                covers_tally=True,  # its state is made of noise alone
                checks=_CHECKS,
            )

        if plan.accounted_sampling.replaces:
            return [claim("replace_special", 1), claim("replace_one", 2)]
        return [claim("add_or_remove_one", 1)]


def separation(plan: Plan) -> int:
    """Rounds from one of a client's to its next, at least, in the federation accounted for."""
    selection = plan.accounted_sampling.selection
    return 1 if selection is None else selection.apart(plan.accounted_population)


def participations(plan: Plan, rounds: int) -> int:
    """Rounds that a client takes part in, at most, in the federation accounted for."""
    selection = plan.accounted_sampling.selection
    return rounds if selection is None else selection.participations(plan.accounted_population, rounds)
