"""Procedure: how a federation trains. FedSGD and FedAvg (McMahan et al., 2017, arXiv 1602.05629) and relatives."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from fedpriv.base import registry
from fedpriv.base.errors import FedprivError, ParameterError
from fedpriv.procedure.selection import Selection

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class _Frozen(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Sampling(_Frozen):
    """How each round's cohort is drawn from the K clients."""

    kind: Literal["fixed", "poisson", "full", "strategy"] = Field(
        default="full",
        description=(
            "`fixed` draws exactly `size` without replacement; `poisson` takes every client independently with "
            "probability `rate`; `full` takes all; `strategy` leaves it to a plug-in "
            "(`fedpriv.procedure.selection`)."
        ),
    )
    size: Count | None = Field(default=None, description="cohort size, for `fixed`.")
    rate: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="inclusion probability, for `poisson`."
    )
    strategy: str | None = Field(
        default=None, description="as on a command line, such as `cyclic(size=10)`, for `strategy`."
    )

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Sampling:
        wanted = {"fixed": "size", "poisson": "rate", "full": None, "strategy": "strategy"}[self.kind]
        for name in ("size", "rate", "strategy"):
            if (getattr(self, name) is None) == (name == wanted):
                raise ValueError(
                    f"{self.kind} sampling needs {name}" if name == wanted else f"{self.kind} sampling takes no {name}"
                )
        if self.strategy is not None:
            try:
                self.selection  # noqa: B018  an unknown strategy is refused here
            except FedprivError as e:
                raise ValueError(str(e)) from e
        return self

    @pydantic.model_serializer(mode="wrap")
    def _as_before(self, handler: Any) -> Any:
        """Plain sampling is written as it was before there were strategies, and identified by that."""
        written = handler(self)
        if self.strategy is None:
            written.pop("strategy", None)
        return written

    @cached_property
    def selection(self) -> Selection | None:
        """The strategy, built; None for plain sampling."""
        return None if self.strategy is None else registry.selection.create(self.strategy)

    @property
    def equal_cohorts(self) -> bool:
        """Whether all cohorts are equally large."""
        return self.selection.fixed_size if self.selection is not None else self.kind != "poisson"

    @property
    def replaces(self) -> bool:
        """Whether a client joins only in another's place: cohorts of a size fixed apart from the population."""
        return self.selection.fixed_size if self.selection is not None else self.kind == "fixed"

    def describe(self, population: int) -> str:
        """In words, for the account."""
        if self.selection is not None:
            return self.selection.describe(population)
        return {
            "fixed": f"{self.size} of {population} clients a round, drawn without replacement",
            "poisson": f"each of {population} clients with probability {self.rate} a round",
            "full": f"all {population} clients every round",
        }[self.kind]

    @staticmethod
    def fixed(size: int) -> Sampling:
        """Exactly `size` clients a round."""
        return Sampling(kind="fixed", size=size)

    @staticmethod
    def poisson(rate: float) -> Sampling:
        """Each client independently with probability `rate`."""
        return Sampling(kind="poisson", rate=rate)

    @staticmethod
    def full() -> Sampling:
        """All clients, every round."""
        return Sampling(kind="full")

    def expected(self, population: int) -> float:
        """Mean cohort size."""
        if self.selection is not None:
            return self.selection.expected(population)
        if self.kind == "fixed":
            return float(self.size or 0)
        return population * (self.rate or 1.0) if self.kind == "poisson" else float(population)

    def largest(self, population: int) -> int:
        """Largest possible cohort."""
        if self.selection is not None:
            return self.selection.largest(population)
        return int(self.size or 0) if self.kind == "fixed" else population


class Simulated(_Frozen):
    """A larger federation whose noise is simulated with a small one.

    The noise on a mean falls with the cohort, and its privacy does not: a small cohort stands for a large one if its
    sum carries less noise, in proportion. The account is then the large federation's, and no guarantee for the clients
    that really took part. McMahan, Ramage, Talwar, Zhang, 2018, arXiv 1710.06963, section 4, do the same.
    """

    cohort: Count = Field(description="(expected) clients a round of the simulated federation.")
    population: Count = Field(description="clients of the simulated federation.")

    @pydantic.model_validator(mode="after")
    def _within(self) -> Simulated:
        if self.cohort > self.population:
            raise ValueError(
                f"a simulated cohort={self.cohort} exceeds its population={self.population}; choose at most that many"
            )
        return self

    def sampling(self, small: Sampling) -> Sampling:
        """How its cohorts are drawn: as the small federation's, `small`, in its own sizes."""
        if small.selection is not None:
            facts = dict(small.selection) | {"size": self.cohort}
            written = ",".join(f"{name}={value}" for name, value in facts.items() if value is not None)
            return Sampling(kind="strategy", strategy=f"{small.selection.name}({written})")
        if self.cohort == self.population:
            return Sampling.full()
        poisson = small.kind == "poisson"
        return Sampling.poisson(self.cohort / self.population) if poisson else Sampling.fixed(self.cohort)


class Schedule(_Frozen):
    """A learning-rate factor by round."""

    kind: Literal["constant", "step", "exponential", "cosine", "warmup"] = Field(
        default="constant",
        description=(
            "`constant`; `step` multiplies by `decay` every `every` rounds; `exponential` by `decay` each round; "
            "`cosine` falls to zero over `over` rounds; `warmup` rises linearly over `over` rounds, then stays."
        ),
    )
    decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    every: Count = 1
    over: Count = 1

    def factor(self, round_number: int) -> float:
        """The factor in round `round_number` (from 0)."""
        if self.kind == "step":
            return self.decay ** (round_number // self.every)
        if self.kind == "exponential":
            return self.decay**round_number
        if self.kind == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(round_number / self.over, 1.0)))
        if self.kind == "warmup":
            return min((round_number + 1) / self.over, 1.0)
        return 1.0


class Optimizer(_Frozen):
    """A client or server optimizer."""

    kind: Literal["sgd", "momentum", "adam", "yogi", "adagrad"] = Field(
        default="sgd",
        description=(
            "`sgd`, `momentum`, `adam`, `yogi` or `adagrad` (the last three on the server: Reddi et al., 2021, "
            '"Adaptive Federated Optimization", arXiv 2003.00295).'
        ),
    )
    learning_rate: Positive = Field(default=1.0, description="step size.")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.9, description="for `momentum`.")
    beta_1: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.9, description="for the adaptive ones; epsilon is Reddi et al.'s tau."
    )
    beta_2: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.99, description="for the adaptive ones; epsilon is Reddi et al.'s tau."
    )
    epsilon: Positive = Field(default=1e-3, description="for the adaptive ones; epsilon is Reddi et al.'s tau.")
    schedule: Schedule = Field(default=Schedule(), description="learning-rate factor by round.")
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.0,
        description=(
            "for clients: that times the weights is added to every gradient before anything else (L2, as PyTorch's SGD "
            "and Adam do it)."
        ),
    )

    @pydantic.model_serializer(mode="wrap")
    def _as_before(self, handler: Any) -> Any:
        """Without decay it is written as before there was any, and identified by that."""
        written = handler(self)
        if not self.weight_decay:
            written.pop("weight_decay", None)
        return written

    @property
    def linear(self) -> bool:
        """Whether steps are a linear function of gradients alone: of plain SGD, with momentum or not."""
        return self.kind in ("sgd", "momentum") and not self.weight_decay

    @property
    def nonlinearity(self) -> str:
        """Why its steps are no linear function of gradients, in words; "" where they are."""
        if self.kind not in ("sgd", "momentum"):
            return f"'{self.kind}', which scales every weight's gradient on its own"
        if self.weight_decay:
            return f"'{self.kind}' with weight_decay={self.weight_decay:g}, which moves weights that no example moved"
        return ""


class Procedure(_Frozen):
    """Local training, cohort sampling, weighting and the server's step."""

    local_epochs: Count = Field(default=1, description="E, passes over a client's examples.")
    batch_size: Count | None = Field(default=10, description="B; None is all of a client's examples in one batch.")
    batch_selection: Literal["shuffled", "poisson", "fixed"] = Field(
        default="shuffled",
        description=(
            "how a step's batch is drawn from the client's n examples: `shuffled` passes over all of them in a new "
            "order every epoch; `poisson` takes each independently with probability B/n; `fixed` takes B of them "
            "without replacement. The last two start anew at every step, divide a batch's sum by B, and are what "
            "DP-SGD's account can amplify."
        ),
    )
    max_local_steps: Count | None = Field(default=None, description="stop a client after this many steps, if given.")
    client: Optimizer = Field(default=Optimizer(learning_rate=0.1), description="client optimizer.")
    server: Optimizer = Field(default=Optimizer(), description="server optimizer; SGD at rate 1 is plain averaging.")
    proximal: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.0, description="FedProx's mu (Li et al., 2020, arXiv 1812.06127); 0 is none."
    )
    sampling: Sampling = Field(default=Sampling(), description="how cohorts are drawn.")
    weighting: Literal["examples", "uniform"] = Field(
        default="examples",
        description="`examples` weighs each client by its example count (McMahan et al.), `uniform` equally.",
    )
    simulates: Simulated | None = Field(
        default=None, description="a larger federation that noise and privacy account are made for, if given."
    )

    @pydantic.model_serializer(mode="wrap")
    def _as_before(self, handler: Any) -> Any:
        """A procedure that simulates nothing and shuffles is written as before, and identified by that."""
        written = handler(self)
        if self.simulates is None:
            written.pop("simulates", None)
        if self.batch_selection == "shuffled":
            written.pop("batch_selection", None)
        return written

    @pydantic.model_validator(mode="after")
    def _clients_decay(self) -> Procedure:
        if self.server.weight_decay:
            raise ValueError(
                f"server.weight_decay={self.server.weight_decay:g}: only clients decay weights; "
                "give client.weight_decay"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _drawn_to_a_size(self) -> Procedure:
        if self.batch_selection != "shuffled" and self.batch_size is None:
            raise ValueError(
                f"batch_selection={self.batch_selection} needs a batch_size, the (mean) size that batches are drawn "
                "to; without one use batch_selection=shuffled"
            )
        return self

    @property
    def drawn(self) -> bool:
        """Whether every step draws its batch anew from all of a client's examples."""
        return self.batch_selection != "shuffled"

    def check_sizes(self, smallest: int) -> None:
        """Raises ParameterError if batches of a drawn size are larger than what the smallest client holds."""
        if self.drawn and self.batch_size is not None and self.batch_size > smallest:
            raise ParameterError(
                f"batch_selection={self.batch_selection} cannot draw batches of batch_size={self.batch_size} from a "
                f"client of {smallest} examples (a rate of {self.batch_size / smallest:.3g}); use "
                f"batch_size={smallest} or less, or give every client as many"
            )

    @staticmethod
    def fedsgd(learning_rate: float = 0.1, sampling: Sampling | None = None, weighting: str = "examples") -> Procedure:
        """FedSGD: each client sends (minus) one full-batch gradient; the server steps by `learning_rate`."""
        return make_procedure(
            local_epochs=1,
            batch_size=None,
            client=Optimizer(learning_rate=1.0),
            server=Optimizer(learning_rate=learning_rate),
            sampling=sampling or Sampling(),
            weighting=weighting,
        )

    def local_steps(self, num_examples: int) -> int:
        """Local steps of a client with `num_examples` examples."""
        steps = self.local_epochs * self.steps_per_epoch(num_examples)
        return min(steps, self.max_local_steps or steps)

    def steps_per_epoch(self, num_examples: int) -> int:
        """Batches in one pass, the last one possibly smaller."""
        return math.ceil(num_examples / (self.batch_size or num_examples))


def make_procedure(**fields: object) -> Procedure:
    """A Procedure, with pydantic's complaints turned into ParameterError."""
    from fedpriv.base.registry import explain

    try:
        return Procedure(**fields)  # type: ignore[arg-type]
    except pydantic.ValidationError as e:
        raise ParameterError(explain(e, "procedure")) from e
