"""Setting: everything one cell of an experiment depends on but its seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
from pydantic import Field

from fedpriv.account.budget import Budget
from fedpriv.base import registry
from fedpriv.base.errors import FedprivError, ParameterError
from fedpriv.base.plugin import Plugin
from fedpriv.base.types import Config
from fedpriv.defense.attrition import Attrition, NoAttrition
from fedpriv.defense.plan import Plan
from fedpriv.defense.protocol import Protocol
from fedpriv.procedure.procedure import Count, Optimizer, Procedure, Sampling
from fedpriv.procedure.sampling import check_cohorts, trial_sampling
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.control import Control, is_controlled
from fedpriv.threat.goal import Goal, goal_of
from fedpriv.topology.carrier import settings_of
from fedpriv.topology.gossip import Gossip

if TYPE_CHECKING:
    from fedpriv.defense.stations import Defense
    from fedpriv.threat.attack import Attack
    from fedpriv.threat.knowledge import Knowledge


def _as_list(value: Any) -> Any:
    """One text, or `none`, where a list is wanted."""
    if value is None or (isinstance(value, str) and value.strip().lower() == "none"):
        return []
    return [value] if isinstance(value, str | int) else value


def _one_or_many(kind: str) -> pydantic.WithJsonSchema:
    return pydantic.WithJsonSchema(
        {"anyOf": [{"type": kind}, {"type": "null"}, {"type": "array", "items": {"type": kind}}]}
    )


def _attrition_exists(value: str) -> str:
    try:
        registry.attrition.create(value)
    except FedprivError as e:
        raise ValueError(str(e)) from e
    return value


def _budget_readable(value: Any) -> Any:
    try:
        return str(Budget.of(value))
    except FedprivError as e:
        raise ValueError(str(e)) from e


Spending = Annotated[str, pydantic.BeforeValidator(_budget_readable)]


def _topology_exists(value: str | None) -> str | None:
    if value is not None:
        try:
            settings_of(value)
        except FedprivError as e:
            raise ValueError(str(e)) from e
    return value


def _topology_identity(text: str) -> Any:
    made = settings_of(text)[1]
    return text if made is None else made.config()


Rule = Annotated[str, pydantic.AfterValidator(_attrition_exists)]
Texts = Annotated[tuple[str, ...], pydantic.BeforeValidator(_as_list), _one_or_many("string")]
Numbers = Annotated[tuple[int, ...], pydantic.BeforeValidator(_as_list), _one_or_many("integer")]


class Training(Procedure):
    """The federation that trains the model which is then attacked; local training as in Procedure."""

    rounds: Annotated[int, Field(ge=0)] = Field(default=0, description="0 attacks a freshly initialized model.")
    clients: Count | None = Field(default=None, description="K; None is 100, or as many as there are natural keys.")
    partition: str = Field(default="iid", description="who holds what, such as `iid` or `shards(per_client=2)`.")
    cohort: Count | None = Field(default=None, description="clients a round, short for `sampling`.")
    fraction: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="C of McMahan et al., the fraction of clients a round, short for `sampling`; at least one client.",
    )
    attrition: Rule = Field(
        default="none", description="who drops out of a round, and when, such as `bernoulli(rate=0.1)`."
    )
    topology: Annotated[str, pydantic.AfterValidator(_topology_exists)] = Field(
        default="server",
        description=(
            "who exchanges what with whom: `server`, or `gossip(graph=ring,protocol=d_psgd)` (see docs/gossip.md)."
        ),
    )
    defended: bool = Field(default=True, description="whether the defenses are in place while it trains.")
    target_accuracy: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="stops when the test accuracy reaches it."
    )
    evaluate_every: Annotated[int, Field(ge=0)] = Field(
        default=1, description="rounds between tests; 0 only after the last."
    )

    budget: Spending | None = Field(
        default=None,
        description=(
            "privacy it may spend, such as `epsilon=2, delta=1e-6`: the noise multiplier that a defense leaves open is "
            "calibrated to it for all rounds, and training stops before the round that would break it."
        ),
    )

    @pydantic.model_validator(mode="after")
    def _one_sampling(self) -> Training:
        given = [name for name in ("cohort", "fraction") if getattr(self, name) is not None]
        given += ["sampling"] if "sampling" in self.model_fields_set else []
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other; give one")
        return self

    def procedure(self, population: int) -> Procedure:
        """How it trains `population` clients."""
        fields = {name: getattr(self, name) for name in Procedure.model_fields}
        cohort = self.cohort if self.fraction is None else max(1, round(self.fraction * population))
        if cohort is not None:
            fields["sampling"] = Sampling.full() if cohort == population else Sampling.fixed(cohort)
        return Procedure(**fields)

    def made_attrition(self) -> Attrition:
        """Who drops out, built."""
        made: Attrition = registry.attrition.create(self.attrition)
        return made

    def identity(self) -> Config:
        """What the trained weights depend on; results from before there were drop-outs and fractions stay valid."""
        written = self.model_dump(mode="json")
        if self.fraction is None:
            del written["fraction"]
        if self.budget is None:  # as do results from before there were budgets
            del written["budget"]
        if self.topology == "server":
            del written["topology"]
        else:
            written["topology"] = _topology_identity(self.topology)
        attrition = self.made_attrition()
        del written["attrition"]
        return written if isinstance(attrition, NoAttrition) else written | {"attrition": attrition.config()}


class Exposed(pydantic.BaseModel):
    """The rounds that are attacked, with clients of the test set (of the training set where that is too small)."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", validate_default=True)

    images: Count = Field(default=8, description="in all; each trial takes batch x clients (or cohort) of them.")
    order: Literal["mixed", "file"] = Field(
        default="mixed",
        description=(
            "`mixed` draws them by the seed, so that seeds attack different ones and classes are mixed; `file` "
            "takes the first ones of the data, in its order, for every seed."
        ),
    )
    fresh: bool = Field(
        default=False,
        description="attack freshly initialized models, another one each trial, though a federation is trained.",
    )
    batch: Count = Field(default=1, description="images a client.")
    same_label: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description=(
            "how many of a client's images have one label together, while each of the others has a label of its own; "
            "0 gives every image its own. None takes them as they come."
        ),
    )
    cohort: Count = Field(default=1, description="clients a trial, what a secure sum hides among.")
    rounds: Count = Field(
        default=1,
        description=(
            "rounds a trial in which the adversary listens, while the server's model moves on; for attacks that look "
            "at several, such as `sum_difference`."
        ),
    )
    clients: Count | None = Field(
        default=None, description="clients a trial, from which each round's cohort is drawn; None is the cohort."
    )
    selection: str | None = Field(
        default=None,
        description=(
            "the strategy that draws cohorts, such as `batch_partition(size=4,batch=2)`; None draws each without "
            "replacement."
        ),
    )
    attrition: Rule = Field(
        default="none", description="who drops out of an attacked round, and when, such as `bernoulli(rate=0.1)`."
    )
    topology: Annotated[str | None, pydantic.AfterValidator(_topology_exists)] = Field(
        default=None,
        description="who exchanges what with whom in the attacked rounds; None is as in `training`.",
    )
    server: Optimizer | None = Field(
        default=None,
        description=(
            "the server's optimizer between a trial's rounds; None is SGD, at rate 0.1 for FedSGD and 1 for FedAvg."
        ),
    )
    local_epochs: Count = Field(default=1, description="E: passes over a client's own examples.")
    batch_size: Count | None = Field(default=None, description="B: examples a local step; None takes all.")
    max_local_steps: Count | None = Field(
        default=None, description="local steps after which a client stops; None is no limit."
    )
    weighting: Literal["examples", "uniform"] = Field(
        default="uniform", description="`examples` weighs clients by how many examples they hold, `uniform` equally."
    )
    client: Optimizer | None = Field(
        default=None, description="optimizer; None is SGD at rate 1 for one step (FedSGD), at 0.1 for more."
    )
    adversary: str = Field(
        default="server",
        description="who listens, such as `server(knows=[labels],blind=[defense])`; see `fedpriv.threat.adversary`.",
    )
    corrupted: Numbers = Field(default=(), description="short for the members in `aggregators(0,1)`.")
    auxiliary: Annotated[int, Field(ge=0)] = Field(
        default=0, description="examples of its own that it holds, of those not attacked."
    )
    knows: Texts = Field(default=(), description="short for `knows=[...]` in `adversary`, added to it.")
    blind: Texts = Field(default=(), description="short for `blind=[...]` in `adversary`, added to it.")
    knows_defense: bool = Field(
        default=True,
        description="False is short for `blind=[defense]`: the attack meets defenses that it knows nothing of.",
    )

    @pydantic.model_validator(mode="after")
    def _whole_trials(self) -> Exposed:
        if self.same_label is not None and (self.same_label == 1 or self.same_label > self.batch):
            raise ValueError(
                f"same_label={self.same_label} of batch={self.batch}: give 0, so that each has a label of its own, or "
                f"from 2 to {self.batch}" + ("; a batch of one has nothing to share" if self.batch == 1 else "")
            )
        each = self.batch * self.population
        if self.images % each:
            nearest = max(1, round(self.images / each)) * each
            of = "cohort" if self.clients is None else "clients"
            raise ValueError(
                f"images={self.images} is no multiple of batch={self.batch} x {of}={self.population}; try {nearest}"
            )
        try:
            check_cohorts(trial_sampling(self.cohort, self.population, self.selection), self.cohort, self.population)
        except FedprivError as e:
            raise ValueError(str(e)) from e
        self.position()
        return self

    @property
    def population(self) -> int:
        """Clients a trial."""
        return self.cohort if self.clients is None else self.clients

    @property
    def trials(self) -> int:
        """How many sets of clients are attacked, each in `rounds` rounds."""
        return self.images // (self.batch * self.population)

    def made_attrition(self) -> Attrition:
        """Who drops out, built."""
        made: Attrition = registry.attrition.create(self.attrition)
        return made

    def procedure(self, serverless: bool = False) -> Procedure:
        """How the attacked clients train; without a server a client's step is as a server's would be.

        Args:
          serverless: whether no server takes part.
        """
        if serverless:
            return Procedure(
                local_epochs=self.local_epochs,
                batch_size=self.batch_size,
                max_local_steps=self.max_local_steps,
                client=self.client or Optimizer(learning_rate=0.1),
                weighting="uniform",
            )
        many = self.local_epochs > 1 or self.batch_size is not None
        step = self.server or Optimizer(learning_rate=1.0 if many else 0.1)
        return Procedure(
            local_epochs=self.local_epochs,
            batch_size=self.batch_size,
            max_local_steps=self.max_local_steps,
            client=self.client or Optimizer(learning_rate=0.1 if many else 1.0),
            weighting=self.weighting,
            server=step if self.rounds > 1 else Optimizer(),
        )

    def position(self) -> Adversary:
        """The adversary."""
        blind = self.blind if self.knows_defense or "defense" in self.blind else (*self.blind, "defense")
        return Adversary.parse(self.adversary, knows=self.knows, blind=blind, corrupted=self.corrupted)

    def identity(self) -> Config:
        """What an attack's outcome depends on, however the adversary was written."""
        short = {"corrupted", "knows", "blind", "knows_defense", "topology"}  # the setting adds the topology
        written = {k: v for k, v in self.model_dump(mode="json").items() if k not in short}
        # Results from when a trial was one round of all its clients stay valid.
        for name in ("rounds", "clients", "selection", "attrition", "server", "same_label"):
            if getattr(self, name) == type(self).model_fields[name].default:
                del written[name]
        return written | {"adversary": str(self.position())}

    def threat(self, brought: tuple[Knowledge, ...] = ()) -> str:
        """Who attacks and what it holds, what an attack brings in included, in sentences."""
        said = self.position().describe(brought)
        if self.rounds > 1:
            said += f" It listens in {self.rounds} rounds of the same {self.population} clients"
            said += ", and sees who is in each sum." if self.position().at.names_members() else "."
        return said + (
            f" It holds {self.auxiliary} examples of its own, none of them attacked." if self.auxiliary else ""
        )


class Setting(pydantic.BaseModel):
    """One point of a grid."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", validate_default=True)

    data: str = Field(default="fashion_small", description="a dataset's name, or a path.")
    data_dir: str | None = Field(default=None, description="folder of a named dataset's files.")
    model: str = Field(default="lenet(init=uniform)", description="as on a command line.")
    defense: Texts = Field(default=(), description="as on a command line, in order; `none` for none.")
    attack: str | None = Field(
        default=None, description="as on a command line, or a YAML file of one; None trains only."
    )
    film: bool = Field(
        default=False,
        description=(
            "keeps the examples along the attack's way where it can: for a film strip of the first trial, and a "
            "curve of their quality against gradient evaluations."
        ),
    )
    goal: str | None = Field(
        default=None,
        description="what is asked, such as `membership(fpr=0.01)`; None is what the attack answers.",
    )
    control: Control = Field(
        default="auto",
        description=(
            "whether the attack also gets noise of each update's norm in its place, to tell what the update gave away: "
            "`noise`, `none`, or `auto` for attacks that use a generator."
        ),
    )
    training: Training = Field(default=Training(), description="the federation trained first.")
    exposure: Exposed = Field(default=Exposed(), description="the rounds attacked.")
    threshold_db: float | None = Field(
        default=None,
        description="short for that of goal `reconstruction`: PSNR from which an image counts as reconstructed.",
    )
    metrics: Texts = Field(
        default=(), description="short for those of goal `reconstruction`: more columns, each as `name=where`."
    )
    delta: Annotated[float, Field(gt=0, lt=1)] = Field(default=1e-5, description="at which epsilon is stated.")
    accountant: Literal["rdp", "pld"] = Field(default="rdp", description="`rdp` or `pld`.")
    on_nonfinite: Literal["stop", "drop", "abort"] = Field(
        default="stop", description="`stop`, `drop` a client that diverges, or `abort` the round."
    )
    on_overflow: Literal["stop", "abort"] = Field(
        default="stop", description="`stop` where a contribution does not fit its encoding, or `abort` the round."
    )
    secure_rng: bool = Field(
        default=False,
        description=(
            "whether noise comes from the operating system's entropy by ChaCha20, rather than from the seed, so that "
            "no run repeats."
        ),
    )
    on_abort: Literal["continue", "stop"] = Field(
        default="continue",
        description="`continue` training after a round that its protocol could not finish, or `stop` there.",
    )
    engine: str = Field(default="graph", description="what carries the cohorts; results do not depend on it.")
    workers: Texts = Field(default=(), description="what carries the cohorts; results do not depend on it.")
    worker_timeout: Annotated[float, Field(gt=0)] = Field(
        default=600.0, description="what carries the cohorts; results do not depend on it."
    )

    @pydantic.field_validator("model", "engine", "defense", "attack", "goal")
    @classmethod
    def _exists(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        """Refused here, so that the message can name the line it was written on."""
        try:
            if info.field_name in ("model", "engine"):
                registered = registry.models if info.field_name == "model" else registry.engines
                name, _ = registry.parse_call(value, registered.kind)
                if ":" not in name and name not in registered.names():
                    registered.load(name)  # says which name is near
            elif info.field_name in ("attack", "goal") and value is not None:
                (registry.attacks if info.field_name == "attack" else registry.goals).create(value)
            elif info.field_name == "defense":
                for text in value:
                    registry.defenses.create(text)
        except FedprivError as e:
            raise ValueError(str(e)) from e
        return value

    @pydantic.model_validator(mode="after")
    def _something_to_do(self) -> Setting:
        if self.attack is None and not self.training.rounds:
            raise ValueError("neither an attack nor training.rounds is given, so there is nothing to do; give one")
        try:
            self.made_goal()
        except FedprivError as e:
            raise ValueError(str(e)) from e
        attack = self.made_attack()
        if attack is not None and self.exposure.rounds > 1 and not attack.remembers():
            raise ValueError(
                f"attack '{attack.name}' looks at one view, but exposure.rounds={self.exposure.rounds}; leave it out, "
                "or choose an attack on several rounds, such as 'sum_difference'"
            )
        topology = self.made_attacked_topology()
        serverless = getattr(topology, "serverless", False)
        at = self.exposure.position()
        if attack is not None and not (at.at.among_peers if serverless else at.at.beside_server):
            where = f"topology '{self.attacked_topology()}'"
            other = "a neighbour(0), or an eavesdropper" if serverless else "a server"
            way = "" if serverless or not at.at.among_peers else ", or training.topology a gossip(graph=ring)"
            raise ValueError(f"there is no '{at.position}' in {where}; let exposure.adversary be {other}{way}")
        if attack is not None and isinstance(topology, Gossip):
            try:
                topology.wiring(self.exposure.population)
            except FedprivError as e:
                raise ValueError(f"exposure.cohort: {e}") from e
        if attack is not None:
            self._check_sums()
        if self.workers and self.engine != "tff":
            raise ValueError(f"workers are for engine 'tff', not '{self.engine}'")
        return self

    def _check_sums(self) -> None:
        """Raises ValueError where the attacked cohorts are too small for a secure sum; a training's may not be."""
        parts = [(defense, part) for defense in self.made_defenses() for part in defense.parts()]
        for defense, part in parts:
            if isinstance(part, Protocol) and part.least_clients > self.exposure.cohort:
                try:
                    part.check(Plan.everybody(self.exposure.cohort, 10_000))
                except FedprivError as e:
                    raise ValueError(
                        f"exposure.cohort={self.exposure.cohort} is too small for {defense.name}, which adds up no "
                        f"fewer than {part.least_clients} clients; give at least that"
                    ) from e

    def made_defenses(self) -> tuple[Defense, ...]:
        """The defenses, built."""
        return tuple(registry.defenses.create(text) for text in self.defense)

    def made_attack(self) -> Attack | None:
        """The attack, built; with `film` it is asked to keep the examples along its way, if it can."""
        if self.attack is None:
            return None
        made: Attack = registry.attacks.create(self.attack)
        known = type(made).model_fields.get("path")
        if self.film and known is not None and known.annotation is bool:
            made = made.with_(path=True)
        return made

    @property
    def controlled(self) -> bool:
        """Whether its attack has a control."""
        made = self.made_attack()
        return made is not None and is_controlled(made, self.control)

    def attacked_topology(self) -> str:
        """That of the rounds that are attacked."""
        return self.training.topology if self.exposure.topology is None else self.exposure.topology

    def made_attacked_topology(self) -> Plugin | None:
        """Its settings, built; None where there are none."""
        return settings_of(self.attacked_topology())[1]

    def made_goal(self) -> Goal | None:
        """What is asked, built; None where nothing is attacked.

        Raises:
          ParameterError: the attack answers another question, or `threshold_db` or `metrics` is given for another goal
            than reconstruction, or twice.
        """
        made = self.made_attack()
        if made is None:
            return None
        goal = goal_of(made, self.goal)
        taken: dict[str, Any] = {}
        for name, value in (("threshold_db", self.threshold_db), ("metrics", self.metrics or None)):
            if value is None:
                continue
            shown = f"{value:g}" if isinstance(value, float) else list(value)
            if name in goal.model_fields_set:
                raise ParameterError(f"goal '{self.goal}' and {name}={shown} both set it; give one")
            if name in type(goal).model_fields:
                taken[name] = value
            elif self.goal is not None:
                raise ParameterError(f"{name}={shown} is not for goal '{goal.name}'; leave it out")
        return goal_of(made, self.goal, **taken) if taken else goal

    @property
    def stated_delta(self) -> float:
        """The delta at which epsilon is stated: the budget's, where there is one."""
        budget = Budget.of(self.training.budget)
        return self.delta if budget is None else budget.delta

    def engine_options(self) -> Config:
        """For the federation."""
        return {"workers": list(self.workers), "timeout": self.worker_timeout} if self.engine == "tff" else {}

    def training_identity(self) -> Config:
        """What the trained weights depend on, besides data, code and seed."""
        training = self.training.identity()
        defenses = [d.config() for d in self.made_defenses()] if self.training.defended else []
        identity: Config = {"model": self.model, "training": training, "defense": defenses}
        identity["on_nonfinite"] = self.on_nonfinite
        if self.on_overflow != "stop":
            identity["on_overflow"] = self.on_overflow
        if self.secure_rng:
            identity["secure_rng"] = True
        if self.on_abort != "continue":  # results from before there was a choice stay valid
            identity["on_abort"] = self.on_abort
        return identity | {"delta": self.delta, "accountant": self.accountant, "engine": self.engine}

    def identity(self) -> Config:
        """What a cell's result depends on, besides data, code and seed; spelling does not matter."""
        attack, goal = self.made_attack(), self.made_goal()
        # What is attacked fresh does not depend on the training.
        weights = {} if attack is None or not self.exposure.fresh else {"training": None}
        exposure = self.exposure.identity()
        if self.attacked_topology() != "server":
            exposure["topology"] = _topology_identity(self.attacked_topology())
        if not self.exposure.auxiliary:
            del exposure["auxiliary"]  # results from before there was any stay valid
        control = {"control": "noise"} if self.controlled else {}  # results without one stay valid
        return (
            self.training_identity()
            | weights
            | control
            | ({} if goal is None else goal.identity())
            | {
                "defense": [d.config() for d in self.made_defenses()],
                "attack": None if attack is None else attack.config(),
                "exposure": None if attack is None else exposure,
            }
        )
