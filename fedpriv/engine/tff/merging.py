"""Merging: an aggregation process of TFF's, run on a cohort that goes out in chunks.

TFF splits a process with one aggregation into what happens up to the merge, the merge of two partial results, and what
follows; a chunk sends back its partial result, never its clients' values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedpriv.base.errors import EngineError, StackError
from fedpriv.base.lazy import tf, tff
from fedpriv.base.types import ArrayLike, Nested
from fedpriv.defense.aggregator import Aggregate, Aggregator
from fedpriv.defense.stations import Plan
from fedpriv.engine.tff.pool import Pool


class Merging:
    """The process of one aggregator for one layout of updates.

    Args:
      aggregator: the defense.
      plan: the federation's facts.

    Attributes:
      weighted: whether clients' weights are told to it.
      leaves: types of the state's leaves.

    Raises:
      StackError: TFF cannot make the process, or cannot split it.
    """

    def __init__(self, aggregator: Aggregator, plan: Plan) -> None:
        self.plan = plan
        dtype = np.dtype(plan.spec.dtype).type
        factory = aggregator.make(plan)
        self.weighted = isinstance(factory, tff.aggregators.WeightedAggregationFactory)
        values = tff.to_type([tff.TensorType(dtype, shape) for shape in plan.spec.shapes])
        try:
            process = factory.create(values, tff.TensorType(np.float32)) if self.weighted else factory.create(values)
            form = tff.backends.native.compile_to_mergeable_comp_form(process.next)
        except Exception as e:
            reason = str(e).splitlines()[0] if str(e) else type(e).__name__
            raise StackError(f"{aggregator.name}: TFF cannot aggregate this model's updates with it: {reason}") from e
        self._form, self._initialize = form, process.initialize
        state_type = process.initialize.type_signature.result.member
        self.leaves = tff.structure.flatten(_tensors(state_type))
        self._pack = tff.tensorflow.computation(
            lambda leaves: tff.structure.pack_sequence_as(_tensors(state_type), list(leaves)),
            tff.to_type(self.leaves),
        )
        flat = tff.tensorflow.computation(
            lambda state: tff.structure.flatten(tff.structure.from_container(state, recursive=True)), state_type
        )

        @tff.federated_computation
        def start() -> Any:
            return tff.federated_map(flat, process.initialize())

        leaves_type, merged_type = tff.to_type(self.leaves), form.after_merge.type_signature.parameter[1]
        clients_type = tff.to_type(list(process.next.type_signature.parameter[1:]))

        @tff.federated_computation(tff.FederatedType(leaves_type, tff.SERVER), clients_type, merged_type)
        def finish(leaves: Any, clients: Any, merged: Any) -> Any:
            held = [clients[i] for i in range(1 + self.weighted)]
            out = form.after_merge((tff.federated_map(self._pack, leaves), *held), merged)
            return tff.federated_map(flat, out.state), out.result, out.measurements

        @tff.federated_computation(tff.FederatedType(leaves_type, tff.SERVER), clients_type)
        def empty(leaves: Any, clients: Any) -> Any:
            return self.partial(leaves, clients[0], clients[1] if self.weighted else None)

        self._start, self._empty, self._finish = start, empty, finish

    def partial(self, leaves: Any, value: Any, weight: Any) -> Any:
        """Within a federated computation: the partial result at SERVER of these clients' values and weights."""
        state = tff.federated_map(self._pack, leaves)
        return self._form.up_to_merge((state, value, weight) if self.weighted else (state, value))

    def start(self, pool: Pool) -> tuple[np.ndarray, ...]:
        """Leaves of the first state."""
        return _arrays(pool.call(self._start))

    def finish(self, pool: Pool, leaves: Sequence[np.ndarray], parts: Sequence[Any]) -> Aggregate:
        """The aggregate of all chunks' partial results.

        Raises:
          EngineError: its result has another shape than an update.
        """
        given = [sent(a) for a in leaves]
        nobody: list[list[Any]] = [[]] * (1 + self.weighted)
        # It is asked even when nobody came: it may add noise, or change its state.
        merged, *others = parts or [pool.call(self._empty, given, nobody)]
        for part in others:
            merged = pool.call(self._form.merge, merged, part)
        state, mean, measured = pool.call(self._finish, given, nobody, merged)
        arrays = [np.asarray(a) for a in tf.nest.flatten(mean)]
        if tuple(a.shape for a in arrays) != self.plan.spec.shapes:
            raise EngineError(
                f"TFF's aggregator gives arrays of shapes {[a.shape for a in arrays]}, not those of an update; choose "
                "one whose result is a mean or a sum"
            )
        return Aggregate(self.plan.spec.flatten_numpy(arrays), _arrays(state), dict(_scalars(measured)))


def _tensors(kind: Any) -> Any:
    """A type as a structure of its tensors' types."""
    if isinstance(kind, tff.StructType):
        return tff.structure.Struct([(name, _tensors(inner)) for name, inner in tff.structure.iter_elements(kind)])
    return kind


def _arrays(leaves: Sequence[ArrayLike]) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(a) for a in leaves)


def sent(leaf: np.ndarray) -> Any:
    """An array as TFF takes it; strings come as bytes."""
    return leaf.item() if leaf.dtype.kind == "S" and not leaf.shape else leaf


def _scalars(measured: Nested, path: str = "") -> list[tuple[str, float]]:
    if isinstance(measured, dict):
        return [pair for key, value in measured.items() for pair in _scalars(value, f"{path}{key}.")]
    if isinstance(measured, tuple | list):
        return [pair for i, value in enumerate(measured) for pair in _scalars(value, f"{path}{i}.")]
    array = np.asarray(measured)
    return [(path.rstrip("."), float(array))] if not array.shape and array.dtype.kind in "fiub" else []
