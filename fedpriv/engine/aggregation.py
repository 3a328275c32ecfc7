"""Aggregation: fedpriv's defenses as an aggregator for TFF's own learning algorithms."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedpriv.base.errors import StackError
from fedpriv.base.lazy import tf, tff
from fedpriv.base.seeds import Purpose, fold, graph_seed
from fedpriv.defense.stack import Stack
from fedpriv.defense.stations import Context, Defense, Plan, Station, labels, state_array
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
    seed: int = 0,
) -> Any:
    """Defenses as a `tff.aggregators.WeightedAggregationFactory`, in the order a client applies them.

    For `tff.learning.algorithms.build_weighted_fed_avg(model, ..., model_aggregator=factory)` and whatever else takes
    an aggregator of lists of float tensors. The result is the weighted mean of the clients' values after their update
    stations, its sum passed through the aggregate stations; with weighting `uniform` every client counts once, whatever
    its weight. Measurements are the means of what the defenses report.

    A TFF aggregator does not know which client it runs for, so randomness at clients is drawn afresh in every run;
    that of the server follows `seed`.

    Args:
      defenses: that act at the update and aggregate stations.
      population: number of clients there are.
      cohort: clients a round, drawn without replacement.
      weighting: `examples` or `uniform`, what the defenses are told and what is done.
      max_examples: largest weight a client has.
      seed: of the server's noise.

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

    def plan(spec: Spec) -> Plan:
        return Plan(spec, population, cohort, float(cohort), sampling, weighting, max_examples)

    Stack(defenses, plan(Spec(("values",), ((1,),))))  # so that mistakes show here, not when a process is built

    class Factory(tff.aggregators.WeightedAggregationFactory):
        def create(self, value_type: Any, weight_type: Any) -> Any:
            return _Process(defenses, plan(_spec(value_type)), seed).build(value_type, weight_type)

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
        self.defenses, self.plan, self.seed = tuple(defenses), plan, seed
        self.stack, self.labels = Stack(defenses, plan), labels(defenses)
        self.states = tuple(tf.nest.map_structure(state_array, d.initial_state(plan)) for d in self.defenses)

    def _unpacked(self, state: Any) -> tuple[Any, ...]:
        return tuple(tf.nest.pack_sequence_as(self.states, list(state["defenses"])))

    def start(self) -> Any:
        """The server's state."""
        return collections.OrderedDict(
            round=tf.constant(0), defenses=[tf.constant(a) for a in tf.nest.flatten(self.states)]
        )

    def client(self, value: Any, weight: Any, state: Any) -> Any:
        """What a client adds to the sums."""
        spec, states = self.plan.spec, self._unpacked(state)
        flat = spec.flatten(tf.nest.flatten(value))
        seed = tf.random.uniform([2], maxval=np.iinfo(np.int32).max, dtype=tf.int32)
        reported: dict[str, Any] = {}
        for i, defense in enumerate(self.defenses):
            if defense.acts_at(Station.UPDATE):
                context = Context(self.plan, states[i], fold(seed, i), tf.cast(weight, tf.int32))
                flat, metrics = defense.update(flat, context)
                reported |= {f"{self.labels[i]}/{k}": tf.cast(v, tf.float64) for k, v in metrics.items()}
        share = tf.ones([], spec.dtype) if self.plan.weighting == "uniform" else tf.cast(weight, spec.dtype)
        return collections.OrderedDict(
            total=tf.cast(share * flat, tf.float64),
            weight=tf.cast(share, tf.float64),
            count=tf.constant(1),
            metrics=collections.OrderedDict(sorted(reported.items())),
        )

    def server(self, state: Any, sums: Any, like: Any) -> Any:
        """(next state, mean, measurements)."""
        spec, states = self.plan.spec, self._unpacked(state)
        count = sums["count"]
        many = tf.cast(tf.maximum(count, 1), tf.float64)
        metrics = {name: value / many for name, value in sums["metrics"].items()}
        seed = tf.random.experimental.stateless_fold_in(
            tf.constant(graph_seed(self.seed, Purpose.SERVER)), state["round"]
        )
        total, reported = self.stack.aggregate(
            tf.cast(sums["total"], spec.dtype), lambda i: Context(self.plan, states[i], fold(seed, i), 0, count)
        )
        metrics |= {name: tf.cast(value, tf.float64) for name, value in reported.items()}
        fixed = self.stack.fixed_denominator
        divisor = tf.cast(sums["weight"] if fixed is None else fixed, spec.dtype)
        mean = tf.math.divide_no_nan(total, divisor)
        following = []
        for i, defense in enumerate(self.defenses):
            own = {k.partition("/")[2]: v for k, v in metrics.items() if k.partition("/")[0] == self.labels[i]}
            context = Context(self.plan, states[i], fold(fold(seed, 2), i), 0, count)
            following.append(defense.next_state(states[i], own, context))
        after = [tf.cast(new, old.dtype) for new, old in zip(tf.nest.flatten(following), tf.nest.flatten(states))]
        return collections.OrderedDict(
            state=collections.OrderedDict(round=state["round"] + 1, defenses=after),
            mean=tf.nest.pack_sequence_as(like, spec.unflatten(mean)),
            metrics=collections.OrderedDict(sorted(metrics.items())),
        )

    def build(self, value_type: Any, weight_type: Any) -> Any:
        """The process as TFF computations."""
        like = tff.types.type_to_tf_tensor_specs(value_type)
        start = tff.tensorflow.computation(self.start)
        state_type = start.type_signature.result
        client = tff.tensorflow.computation(self.client, [value_type, weight_type, state_type])
        server = tff.tensorflow.computation(
            lambda state, sums: self.server(state, sums, like), [state_type, client.type_signature.result]
        )

        @tff.federated_computation
        def initialize() -> Any:
            return tff.federated_eval(start, tff.SERVER)

        @tff.federated_computation(
            tff.FederatedType(state_type, tff.SERVER),
            tff.FederatedType(value_type, tff.CLIENTS),
            tff.FederatedType(weight_type, tff.CLIENTS),
        )
        def following(state: Any, value: Any, weight: Any) -> Any:
            sums = tff.federated_sum(tff.federated_map(client, (value, weight, tff.federated_broadcast(state))))
            out = tff.federated_map(server, (state, sums))
            return tff.templates.MeasuredProcessOutput(state=out.state, result=out.mean, measurements=out.metrics)

        return tff.templates.AggregationProcess(initialize, following)
