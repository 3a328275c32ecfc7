"""DPSGD: differential privacy of single examples, by a clip of each gradient and noise on every local step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import Field

from fedpriv.base.errors import ParameterError, StackError
from fedpriv.base.lazy import dp_accounting, tf
from fedpriv.base.types import Tensor
from fedpriv.defense.claim import Check, Claim
from fedpriv.defense.domain import Real
from fedpriv.defense.noise import Noise, given_multiplier
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Context, Defense, Plan
from fedpriv.models.example_gradients import ExampleClip
from fedpriv_defenses.clip import Norm
from fedpriv_defenses.dp_sgd.account import kinds_of, plain, relation_of, repeated, worst
from fedpriv_defenses.gaussian_query import NOISE_ASSUMPTIONS


class DPSGD(Defense):
    """Clips each example's gradient and adds Gaussian noise to their sum, at every local step of every client.

    DP-SGD of Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang, 2016, arXiv 1607.00133. The noise on each
    coordinate of the sum has standard deviation noise_multiplier * clip; the sum is divided by the procedure's
    batch_size, a public constant. With one client it is central DP-SGD.

    Formal guarantee, for one example of a client, against the server and so against whoever sees released models: what
    leaves a client is made of noised sums alone. By `batch_selection` of the procedure a local step is
    - `poisson`: a Gaussian mechanism of multiplier noise_multiplier under Poisson sampling at rate batch_size / n, for
      one example added or removed;
    - `fixed`: one of noise_multiplier / 2 under sampling of batch_size of n without replacement, for one example
      replaced by another;
    - `shuffled`: nothing amplifies, but an example is in one batch of an epoch only, so that an epoch is one Gaussian
      mechanism of noise_multiplier / 2, for one example replaced by another.
    The local steps of a round are composed for the client with the weakest guarantee, and the rounds as if every client
    took part in all of them, or in as many as the selection lets it, unless a cohort was given by hand: cohort sampling
    hides nothing from the server, and amplifies nothing here. Batches are as large as they are drawn; none is cut to a
    size. With `per_user` the unit is a user, all of whose records lie with one client, and of whose records so many are
    kept.

    The examples' gradients are never held one by one: their norms come from what enters and leaves each layer
    (Goodfellow 2015, arXiv 1510.01799; Bu, Mao, Xu 2022, arXiv 2205.10683); see `fedpriv.models.example_gradients`.

    Log: means over local steps of `norm`, before clipping, of `clipped`, the share that was scaled down, and of
    `nonfinite`, the share that was not finite and counted as zero. They and the training loss are not covered.
    """

    name: ClassVar[str] = "dp_sgd"
    paper: ClassVar[str] = "Abadi et al., 2016, arXiv 1607.00133"
    replayable: ClassVar[bool] = False
    adaptive_attack: ClassVar[str] = "maximum_posterior"

    clip: Norm = Field(
        description="L2 norm each gradient is scaled down to; a small one (0.1) with a larger learning rate does well."
    )
    noise_multiplier: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description=(
            "noise standard deviation over `clip`. 0 clips only and earns no epsilon; None leaves it to a budget."
        ),
    )
    microbatch: Annotated[int, Field(ge=1)] = Field(
        default=1,
        description=(
            "examples whose mean gradient is clipped together. More than 1 is coarser at the same noise on the sum of "
            "means, and gives the same guarantee for an example replaced by another."
        ),
    )
    per_layer: bool = Field(
        default=False,
        description="clip each layer's part to clip / sqrt(layers) instead of the whole gradient to clip.",
    )
    per_user: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description=(
            "protect users (the keys of the dataset) in place of examples, and keep at most so many of each one's "
            "records, drawn by the seed."
        ),
    )

    def check(self, plan: Plan) -> None:
        """Raises StackError or ParameterError where no guarantee could follow."""
        procedure = plan.procedure
        given_multiplier(self)
        if procedure is None:
            raise StackError("dp_sgd acts on local steps, and there is no procedure here; use it in a federation")
        if plan.weighting != "uniform":
            raise StackError(
                f"dp_sgd claims nothing under weighting='{plan.weighting}', where a client's example count scales "
                "its share of the sum; use weighting='uniform'"
            )
        size = procedure.batch_size
        if size is not None and size > plan.min_examples:
            raise ParameterError(
                f"dp_sgd divides by batch_size={size}, but a client has {plan.min_examples} examples only; use "
                f"batch_size={plan.min_examples} or less"
            )
        if self.microbatch > 1 and procedure.batch_selection == "poisson":
            raise ParameterError(
                f"dp_sgd: microbatch={self.microbatch} has no account under batch_selection=poisson, where one "
                "example more moves others into other microbatches; use batch_selection=fixed, or microbatch=1"
            )
        smallest = size or plan.min_examples
        if self.microbatch > smallest:
            raise ParameterError(
                f"dp_sgd: microbatch={self.microbatch} is larger than a batch of {smallest}; use {smallest} or less"
            )

    def example_clip(self, plan: Plan) -> ExampleClip:
        """Each gradient, or mean of a microbatch, to `clip`."""
        return ExampleClip(self.clip, self.microbatch, self.per_layer)

    def records_per_user(self) -> int | None:
        """As `per_user` says."""
        return self.per_user

    def _stddev(self, size: Any) -> Any:
        """Standard deviation of the noise on each coordinate of a gradient over batches of `size`."""
        return (self.noise_multiplier or 0.0) * self.clip * self.microbatch / size

    def noise(self, plan: Plan) -> Noise | None:
        """Normal noise on the gradient; its scale is None where clients divide by sizes of their own."""
        if not self.noise_multiplier:
            return None
        size = plan.procedure.batch_size if plan.procedure is not None else None
        if size is None and plan.min_examples == plan.max_examples:
            size = plan.max_examples
        return Noise("gaussian", None if size is None else self._stddev(size), "gradient")

    def gradient(self, gradient: Tensor, context: Context) -> Tensor | Passed:
        """Adds noise to the clipped sum over the public batch size, `[d]`."""
        if not self.noise_multiplier:
            return gradient
        procedure = context.plan.procedure
        size = procedure.batch_size if procedure is not None else None
        scale = self._stddev(tf.cast(context.num_examples if size is None else size, gradient.dtype))
        return gradient + tf.cast(scale, gradient.dtype) * context.normal(tf.shape(gradient), gradient.dtype)

    def replay(self) -> Defense:
        """The clip alone: what an adversary who knows the defense can replay."""
        return self.with_(noise_multiplier=0.0)

    def warn(self, log: dict[str, float]) -> str:  # type: ignore[override]
        """That gradients were not finite, where some were not."""
        share = log.get("nonfinite", 0.0)
        if not share > 0:
            return ""
        return (
            f"{share:.2%} of the examples had a gradient that is not finite, or beyond what float32 can square, and "
            "counted as zero; look for values that are not finite in the data, or lower the learning rate"
        )

    def notes(self, plan: Plan) -> Sequence[str]:
        """That shuffled batches amplify nothing, and what a user-level guarantee left out."""
        said = []
        if plan.procedure is not None and not plan.procedure.drawn and self.noise_multiplier:
            said.append(
                "batches are shuffled, which amplifies nothing: every local epoch counts in full; "
                "batch_selection=poisson gives a much smaller epsilon for the same noise"
            )
        if self.per_user is not None:
            said.append(
                f"at most {self.per_user} examples of each user are kept; the partition's name says how many not"
            )
        return said

    def claims(self, plan: Plan, contribution: Real) -> list[Claim]:
        """Claims for one example, or one user, against the server."""
        procedure, multiplier = plan.procedure, self.noise_multiplier
        if procedure is None or multiplier is None:
            return []
        if self.per_user is not None and plan.records_per_user is None:
            return []  # nobody knows whose the examples are
        records = self.per_user or 1  # not what users happen to have here: a neighbour's may have more
        kinds = kinds_of(procedure, plan.sizes or (plan.max_examples,))
        relation = relation_of(procedure.batch_selection)
        if multiplier == 0:
            events: list[Any] = [dp_accounting.GaussianDpEvent(0.0)]
        else:
            events = worst(kinds, multiplier, records)
            if procedure.batch_selection == "fixed" and records == 1:
                # The theorem for fixed sizes is loose for large batches; without amplification the bound holds as well.
                longest = max(kinds, key=lambda one: one.steps)
                events.append(plain(longest, multiplier, records))
        what = "an example" if self.per_user is None else f"a user of at most {records} examples"
        drawn = {
            "poisson": "which examples are in a batch is secret",
            "fixed": "which examples are in a batch is secret",
            "shuffled": "",
        }[procedure.batch_selection]
        assumes = (
            f"{what} is protected at its own client, which is trusted to clip and to draw noise and batches as said",
            "how many examples each client has is public, as are its local steps and batch size",
            "clients send their updates alone: the training losses and clipping figures shown here are for research",
            *((drawn,) if drawn else ()),
            *NOISE_ASSUMPTIONS,
        )
        # Every round counts, whoever takes part.
        found = [
            Claim(
                event=event,
                unit="example" if self.per_user is None else "user",
                relation=relation,
                against="server",
                amplified=False,
                assumes=assumes,
            )
            for event in events
        ]
        limit = getattr(plan.sampling.selection, "participations", None)
        if limit is None:
            return found

        def whole(event: Any) -> Callable[[int], Any]:
            return lambda rounds: repeated(event, limit(plan.population, rounds))

        limited = (*assumes, "cohorts are drawn by the selection, which limits how often a client takes part")
        drawn_alone: frozenset[Check] = frozenset({"cohorts are drawn"})
        return [replace(c, assumes=limited, checks=drawn_alone, run=whole(c.event)) for c in found] + found
