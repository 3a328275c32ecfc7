"""Aggregation: fedpriv's defenses as an aggregator for TFF's own learning algorithms."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

from fedpriv.base.errors import StackError
from fedpriv.base.lazy import tf, tff
from fedpriv.base.seeds import Purpose, child, fresh, secret
from fedpriv.base.types import Nested, Scalar
from fedpriv.defense.line import Line
from fedpriv.defense.stations import Context, Defense, Plan, Station, labels
from fedpriv.engine.tff.traced import traced
from fedpriv.models.spec import Spec
from fedpriv.procedure.procedure import Sampling

_HERE = (Station.UPDATE, Station.AGGREGATE)


def to_aggregation_factory(
    defenses: Sequence[Defense],
    *,
    population: int,
    cohort: int,
    weighting: str = "examples",
    max_examples: int = 1,
    seed: int | None = None,
) -> Any:
    """Defenses as a `tff.aggregators.WeightedAggregationFactory`, in the order a client applies them.

    For `tff.learning.algorithms.build_weighted_fed_avg(model, ..., model_aggregator=factory)` and whatever else takes
    an aggregator of lists of float tensors. The result is the weighted mean of the clients' values after their update
    stations, its sum passed through the aggregate stations; with weighting `uniform` every client counts once, whatever
    its weight. Measurements are the means of what the defenses report.

    A TFF aggregator does not know which client it runs for, so randomness at clients is drawn afresh in every run, from
    TensorFlow's own generator. That is seeded with 32 bits a process: noise at clients is for research here, and
    protects nothing. That of the server follows `seed`.

    Args:
      defenses: that act at the update and aggregate stations.
      population: number of clients there are.
      cohort: clients a round, drawn without replacement.
      weighting: `examples` or `uniform`, what the defenses are told and what is done.
      max_examples: largest weight a client has.
      seed: of the server's noise; None draws 128 bits from the operating system.

    Raises:
      StackError: a defense acts elsewhere, or the stack does not fit together.
      ParameterError: a defense's parameter does not fit.
    """
    for defense, label in zip(defenses, labels(defenses), strict=True):
        elsewhere = [s.value for s in defense.stations if s not in _HERE]
        if elsewhere:
            raise StackError(
                f"{label} acts at the {elsewhere[0]} station, which a TFF aggregator never sees; use it in a "
                "Federation with engine='tff'"
            )
    sampling = Sampling.fixed(cohort)
    drawn = fresh() if seed is None else seed

    def plan(spec: Spec) -> Plan:
        return Plan(
            spec=spec,
            population=population,
            cohort=cohort,
            expected_cohort=float(cohort),
            sampling=sampling,
            weighting=weighting,
            max_examples=max_examples,
        )

    Line(defenses, plan(Spec(("values",), ((1,),))))  # so that mistakes show here, not when a process is built

    class Factory(tff.aggregators.WeightedAggregationFactory):
        def create(self, value_type: Any, weight_type: Any) -> Any:
            return _Process(defenses, plan(_spec(value_type)), drawn).build(value_type, weight_type)

    return Factory()


def _spec(value_type: Any) -> Spec:
    leaves = tff.types.type_to_tf_tensor_specs(value_type)
    flat = tf.nest.flatten(leaves)
    dtypes = sorted({t.dtype.name for t in flat})
    if len(dtypes) != 1 or dtypes[0] not in ("float32", "float64"):
        raise StackError(f"values of types {dtypes} cannot be aggregated; all must be float32, or all float64")
    names = tuple(f"{i}" for i in range(len(flat)))
    return Spec(names, tuple(tuple(t.shape.as_list()) for t in flat), dtypes[0])


class _Process:
    """The aggregation process for one type of values."""

    def __init__(self, defenses: Sequence[Defense], plan: Plan, seed: int) -> None:
        self.plan, self.seed = plan, seed
        self.line = Line(defenses, plan)
        self.states = self.line.initial_states()

    def _unpacked(self, state: Nested) -> tuple[Nested, ...]:
        return tuple(tf.nest.pack_sequence_as(self.states, list(state["defenses"])))

    def told(self, state: Nested) -> Nested:
        """What clients get of the server's state."""
        told = self.line.broadcast_states(self._unpacked(state))
        leaves = [tf.identity(a) for a in tf.nest.flatten(told)]
        return collections.OrderedDict(round=state["round"], defenses=leaves)

    def start(self) -> Nested:
        """The server's state."""
        return collections.OrderedDict(
            round=tf.constant(0), defenses=[tf.constant(a) for a in tf.nest.flatten(self.states)]
        )

    def client(self, value: Nested, weight: Scalar, state: Nested) -> Nested:
        """What a client adds to the sums."""
        spec = self.plan.spec
        told = self.line.broadcast_states(self.states)
        states = tf.nest.pack_sequence_as(told, list(state["defenses"]))
        bounds = tf.int64.min, tf.int64.max
        seed = tf.raw_ops.RandomUniformInt(shape=[2], minval=bounds[0], maxval=bounds[1])

        def context(i: int) -> Context:
            return Context(
                plan=self.plan,
                seed=child(seed, i),
                state=states[i],
                round=state["round"],
                own=(),
                num_examples=tf.cast(weight, tf.int32),
            )

        walked = self.line.walk(Station.UPDATE, spec.flatten(tf.nest.flatten(value)), context)
        share = tf.ones([], spec.dtype) if self.plan.weighting == "uniform" else tf.cast(weight, spec.dtype)
        tally = {k: tf.cast(walked.tally.get(k, 0.0), tf.float64) for k in self.line.tallies}
        return collections.OrderedDict(
            total=tf.cast(share * walked.value, tf.float64),
            weight=tf.cast(share, tf.float64),
            count=tf.constant(1),
            log=collections.OrderedDict((k, tf.cast(v, tf.float64)) for k, v in sorted(walked.log.items())),
            tally=collections.OrderedDict(sorted(tally.items())),
        )

    def server(self, state: Nested, sums: Nested, like: Nested) -> Nested:
        """(next state, mean, measurements)."""
        spec, states, count = self.plan.spec, self._unpacked(state), sums["count"]
        many = tf.cast(tf.maximum(count, 1), tf.float64)
        seed = child(tf.constant(secret(self.seed, Purpose.SERVER)), state["round"])
        tally = {k: tf.cast(v, spec.dtype) for k, v in sums["tally"].items()}

        def context(i: int) -> Context:
            return Context(
                plan=self.plan,
                seed=child(seed, i),
                state=states[i],
                round=state["round"],
                count=count,
                tally=self.line.own_tallies(i, tally),
            )

        walked = self.line.walk(Station.AGGREGATE, tf.cast(sums["total"], spec.dtype), context)
        log = {name: value / many for name, value in sums["log"].items()}
        log |= {name: tf.cast(value, tf.float64) for name, value in walked.log.items()}
        fixed = self.line.fixed_denominator
        divisor = tf.cast(sums["weight"] if fixed is None else fixed, spec.dtype)
        mean = tf.math.divide_no_nan(walked.value, divisor)
        following = [walked.states.get(i, states[i]) for i in range(len(states))]
        after = [tf.cast(new, old.dtype) for new, old in zip(tf.nest.flatten(following), tf.nest.flatten(states))]
        return collections.OrderedDict(
            state=collections.OrderedDict(round=state["round"] + 1, defenses=after),
            mean=tf.nest.pack_sequence_as(like, spec.unflatten(mean)),
            metrics=collections.OrderedDict(sorted(log.items())),
        )

    def build(self, value_type: Any, weight_type: Any) -> Any:
        """The process as TFF computations."""
        like = tff.types.type_to_tf_tensor_specs(value_type)
        start = tff.tensorflow.computation(self.start)
        state_type = start.type_signature.result
        shown = traced(self.told, state_type)
        telling = tff.tensorflow.computation(lambda state: shown(state), state_type)
        told_type = telling.type_signature.result
        one = traced(self.client, value_type, weight_type, told_type)
        client = tff.tensorflow.computation(
            lambda value, weight, state: one(value, weight, state), [value_type, weight_type, told_type]
        )
        sums_type = client.type_signature.result
        all_ = traced(lambda state, sums: self.server(state, sums, like), state_type, sums_type)
        server = tff.tensorflow.computation(lambda state, sums: all_(state, sums), [state_type, sums_type])

        @tff.federated_computation
        def initialize() -> Any:
            return tff.federated_eval(start, tff.SERVER)

        @tff.federated_computation(
            tff.FederatedType(state_type, tff.SERVER),
            tff.FederatedType(value_type, tff.CLIENTS),
            tff.FederatedType(weight_type, tff.CLIENTS),
        )
        def following(state: Any, value: Any, weight: Any) -> Any:
            told = tff.federated_broadcast(tff.federated_map(telling, state))
            sums = tff.federated_sum(tff.federated_map(client, (value, weight, told)))
            out = tff.federated_map(server, (state, sums))
            return tff.templates.MeasuredProcessOutput(state=out.state, result=out.mean, measurements=out.metrics)

        return tff.templates.AggregationProcess(initialize, following)
