"""TFF's aggregators as defenses: any factory of `tff.learning` and `tff.aggregators`, the common ones under a name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import pydantic
from pydantic import Field

from fedpriv.base.errors import ParameterError, UnknownNameError, did_you_mean
from fedpriv.base.lazy import tf, tff
from fedpriv.base.registry import load_dotted, parse_call
from fedpriv.base.types import Config
from fedpriv.defense.aggregator import Aggregator
from fedpriv.defense.claim import Claim
from fedpriv.defense.domain import Real
from fedpriv.defense.stations import Plan
from fedpriv_defenses.central_claim import central_claim

Norm = Annotated[float | None, Field(gt=0, allow_inf_nan=False)]
_SECURE = ("secure", "Secure", "distributed_dp")


class TFFAggregator(Aggregator):
    """Any aggregator of TFF's, by the name of its factory.

    No formal guarantee is claimed, as TFF's factories do not say one; `tff_dp` does.

    Besides `factory` it takes the arguments of that factory by name. One that ends in `_factory` names another factory,
    as in `tff_aggregator(factory=zeroing_factory,zeroing_norm=1,inner_agg_factory=MeanFactory)`. The clients a round,
    whether clients are weighted, and the tensors' shapes are filled in where they are not given.

    Metrics: TFF's measurements, by their paths.
    """

    model_config = pydantic.ConfigDict(extra="allow")
    name: ClassVar[str] = "tff_aggregator"

    factory: str = Field(
        description=(
            "a function or class of `tff.learning` or `tff.aggregators`, such as `robust_aggregator`, "
            "`DifferentiallyPrivateFactory.gaussian_fixed` or `HadamardTransformFactory`, or `package.module:Name`."
        )
    )

    def make(self, plan: Plan) -> Any:
        """The factory that the parameters describe.

        Raises:
          UnknownNameError: there is none of that name.
          ParameterError: it has no such argument, refuses a value, or makes something else.
        """
        return _build(self.factory, dict(self.model_extra or {}), plan)


class TFFRobust(Aggregator):
    """TFF's robust aggregator: zeroes extreme updates and clips large ones, by norms that it adapts.

    No formal guarantee.
    """

    name: ClassVar[str] = "tff_robust"
    paper: ClassVar[str] = "Andrew, Thakkar, McMahan, Ramaswamy, 2021, arXiv 1905.03871 (adaptive clipping)"

    zeroing: bool = Field(
        default=True, description="zero updates whose largest element is far above the 0.98 quantile."
    )
    clipping: bool = Field(default=True, description="clip L2 norms to the 0.8 quantile.")

    def make(self, plan: Plan) -> Any:
        """`tff.learning.robust_aggregator`."""
        return tff.learning.robust_aggregator(
            zeroing=self.zeroing, clipping=self.clipping, weighted=plan.weighting == "examples"
        )


class TFFCompression(Aggregator):
    """TFF's compression: tensors of more than 20,000 elements are rotated and quantized to 8 bits.

    No formal guarantee. Rounding is random, and not from the federation's seed.
    """

    name: ClassVar[str] = "tff_compression"
    paper: ClassVar[str] = "Konecny, McMahan, Yu, Richtarik, Suresh, Bacon, 2016, arXiv 1610.05492"

    zeroing: bool = Field(default=True, description="zero updates as tff_robust does.")
    clipping: bool = Field(default=True, description="clip updates as tff_robust does.")

    def make(self, plan: Plan) -> Any:
        """`tff.learning.compression_aggregator`."""
        return tff.learning.compression_aggregator(
            zeroing=self.zeroing, clipping=self.clipping, weighted=plan.weighting == "examples"
        )


class TFFZeroing(Aggregator):
    """TFF's zeroing: an update with an element beyond a norm counts as zeros.

    No formal guarantee.
    """

    name: ClassVar[str] = "tff_zeroing"

    norm: Norm = Field(
        default=None, description="largest absolute element, in update units; none adapts it, as tff_robust does."
    )

    def make(self, plan: Plan) -> Any:
        """`tff.aggregators.zeroing_factory` of the mean."""
        if self.norm is None:
            return TFFRobust(clipping=False).make(plan)
        return tff.aggregators.zeroing_factory(self.norm, _mean(plan))


class TFFClipping(Aggregator):
    """TFF's clipping of L2 norms.

    No formal guarantee.
    """

    name: ClassVar[str] = "tff_clipping"
    paper: ClassVar[str] = "Andrew, Thakkar, McMahan, Ramaswamy, 2021, arXiv 1905.03871"

    norm: Norm = Field(default=None, description="L2 bound in update units; none adapts it, as tff_robust does.")

    def make(self, plan: Plan) -> Any:
        """`tff.aggregators.clipping_factory` of the mean."""
        if self.norm is None:
            return TFFRobust(zeroing=False).make(plan)
        return tff.aggregators.clipping_factory(self.norm, _mean(plan))


class TFFDP(Aggregator):
    """TFF's differential privacy: clips each update and adds Gaussian noise to the sum.

    Formal guarantee, client level, against whoever sees released models: that of central_dp, for the same noise
    multiplier. With an adaptive clip the multiplier is the effective one: TFF splits it between the updates and the
    noised count that the clip adapts by.
    """

    name: ClassVar[str] = "tff_dp"
    paper: ClassVar[str] = "McMahan et al., 2018, arXiv 1710.06963; Andrew et al., 2021, arXiv 1905.03871"

    noise_multiplier: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        description="noise standard deviation over the clip."
    )
    clip: Norm = Field(
        default=None,
        description="L2 bound in update units; none adapts it to the median norm (Andrew et al.), starting from 0.1.",
    )

    def make(self, plan: Plan) -> Any:
        """`tff.aggregators.DifferentiallyPrivateFactory`.

        Raises:
          ParameterError: TFF refuses that noise for an adaptive clip.
        """
        private = tff.aggregators.DifferentiallyPrivateFactory
        if self.clip is not None:
            return private.gaussian_fixed(self.noise_multiplier, plan.expected_cohort, self.clip)
        try:
            return private.gaussian_adaptive(self.noise_multiplier, plan.expected_cohort)
        except ValueError as e:
            raise ParameterError(
                f"tff_dp: TFF cannot split noise_multiplier={self.noise_multiplier:g} between the updates and the "
                f"count that the clip adapts by, with {plan.expected_cohort:g} clients a round; give a clip, less "
                "noise, or more clients"
            ) from e

    def claims(self, plan: Plan, contribution: Real) -> list[Claim]:
        """One client-level claim against `released`."""
        assumes = (
            "TFF's sum and its noise are what TFF says",
            "TensorFlow's generator, which is no cryptographic one, stands for randomness, and floating-point noise "
            "for real-valued noise (Mironov, 2012, shows how its low bits can leak)",
        )
        return [central_claim(self.noise_multiplier, plan, assumes)]


def _mean(plan: Plan) -> Any:
    weighted = plan.weighting == "examples"
    return tff.aggregators.MeanFactory() if weighted else tff.aggregators.UnweightedMeanFactory()


def _find(name: str) -> Callable[..., Any]:
    if ":" in name:
        found: Callable[..., Any] = load_dotted(name, "TFF aggregator")
        return found
    for module in (tff.learning, tff.aggregators):
        target: Any = module
        for part in name.split("."):
            target = getattr(target, part, None)
        if callable(target):
            return target
    known = [
        n for module in (tff.learning, tff.aggregators) for n in dir(module) if n.endswith(("_aggregator", "actory"))
    ]
    raise UnknownNameError(
        f"TFF has no aggregator '{name}' in tff.learning or tff.aggregators.{did_you_mean(name, known)}"
    )


def _build(name: str, arguments: Config, plan: Plan) -> Any:
    what = f"TFF's {name}"
    target = _find(name)
    if name.rpartition(".")[2].startswith(_SECURE):
        raise ParameterError(
            f"{what} sums by TFF's secure sums, which do no cryptography and do not run on TFF's native backend; use "
            "the defense secret_sharing"
        )
    try:
        accepted = inspect.signature(target).parameters
    except (TypeError, ValueError):
        raise ParameterError(
            f"{what} cannot be called with named values; write a function that makes a factory"
        ) from None
    takes_any = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    given: dict[str, Any] = {}
    for key, value in arguments.items():
        if key not in accepted and not takes_any:
            raise ParameterError(f"{what} has no argument '{key}'.{did_you_mean(key, accepted)}")
        if key.endswith("_factory") and isinstance(value, str):
            inner, written = parse_call(value, "TFF aggregator")
            value = _build(inner, written, plan)
        value = _value(value)
        whole_for_float = type(value) is int and key in accepted and accepted[key].annotation is float
        given[key] = float(value) if whole_for_float else value
    defaults = {
        "clients_per_round": plan.expected_cohort,
        "expected_clients_per_round": plan.cohort,
        "weighted": plan.weighting == "examples",
        "record_specs": [tf.TensorSpec(s, plan.spec.dtype) for s in plan.spec.shapes],
    }
    given = {k: v for k, v in defaults.items() if k in accepted} | given
    missing = [
        n for n, p in accepted.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and n not in given
    ]  # fmt: skip
    if missing:
        raise ParameterError(f"{what} needs a value for {', '.join(missing)}; write {missing[0]}=...")
    try:
        made = target(**given)
    except (TypeError, ValueError) as e:
        raise ParameterError(f"{what} refuses its arguments: {e}") from e
    if not isinstance(made, tff.aggregators.WeightedAggregationFactory | tff.aggregators.UnweightedAggregationFactory):
        raise ParameterError(f"{what} made a {type(made).__name__}, which is no aggregation factory")
    return made


def _value(value: Any) -> Any:
    """A number or truth value where a command line wrote one."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[value.lower()]
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            pass
    return value
