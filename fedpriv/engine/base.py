"""Engine: carries the cohort's data along the client's part of the line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from fedpriv.base.errors import EngineError
from fedpriv.base.lazy import tf
from fedpriv.base.seeds import Purpose, fresh_keys, graph_seed, secrets_of
from fedpriv.base.types import Array, Examples, Flat, Labels, Nested, Scalar, Seed, Tensor
from fedpriv.defense.stations import Station
from fedpriv.engine.evaluate import evaluator
from fedpriv.engine.masking import Masking
from fedpriv.engine.result import CohortResult, CohortTask
from fedpriv.federation.client import Client, Visit, drawn_epochs, unit_floats
from fedpriv.federation.clients import ClientStates
from fedpriv.federation.federation import Federation

#: Of places among a task's clients, the weights that these begin with; and what is done with their updates.
Begin = Callable[[slice], np.ndarray]
Take = Callable[[slice, np.ndarray], None]
#: How far rounding may take a norm beyond the bound that a defense states, relative to it.
BOUND_SLACK = 1e-4


class Engine(ABC):
    """Runs cohorts and evaluations for one federation. Same federation, same seed: same results.

    Attributes:
      masks_in_graph: whether clients put a protocol's masks on where they train, so that no plain contribution comes
        back from there; else the session does, in this process. The sums are the same.
    """

    #: Whether TFF's aggregators run on it.
    aggregates: ClassVar[bool] = False
    #: Whether clients train in other processes, or on other machines.
    trains_elsewhere: ClassVar[bool] = False
    #: Whether clients can train models of their own (`peers`).
    trains_peers: ClassVar[bool] = False

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.plan, self.line = federation.plan, federation.line
        self.client = Client(federation.model, federation.procedure, self.line)
        self.log_names, self.tally_names = self.client.reports()
        self._evaluator = evaluator(federation.model)
        #: Whether the norms of updates are asked for: without defenses, to choose a clip by.
        self.measures_norms = not self.line.links
        self.own_like = self.line.initial_client_states()
        self.masks_in_graph = self.trains_elsewhere

    def start(self) -> tuple[Nested, ...]:
        """The defenses' server states before the first round, one a link."""
        return self.line.initial_states()

    def start_clients(self) -> ClientStates:
        """The clients' own states before the first round."""
        return ClientStates(tuple(np.asarray(a) for a in tf.nest.flatten(self.own_like)))

    @abstractmethod
    def cohort(self, task: CohortTask) -> CohortResult:
        """Trains a cohort.

        Raises:
          DivergenceError: a client's update is not finite and the policy is to stop.
          OverflowDetected: a contribution does not fit the encoding's range.
          StackError: an update is longer than a defense states.
        """

    def peers(self, task: CohortTask, begin: Begin, take: Take) -> CohortResult:
        """Trains clients, each from weights of its own, chunk by chunk; nothing is summed.

        Args:
          task: the round's work; its weights, session and sent are not used.
          begin: for some places in `task.clients`, the weights that these begin with, `[c, d]`.
          take: given some places and the updates of these, `[c, d]`; zeros where one was left out as not finite.

        Raises:
          EngineError: this engine has no such rounds.
          DivergenceError, StackError: as `cohort`.
        """
        raise EngineError("this engine trains all clients from the server's weights; use engine='graph' for gossip")

    def round_seeds(self, task: CohortTask, clients: Sequence[int] | Array) -> tuple[np.ndarray, np.ndarray]:
        """The round's int32 `[2]` seed for what repeats, and for what protects int64 `[c, 2]`, one a client.

        Where noise is drawn securely the latter are keys of the operating system's, int64 `[c, 4]`, new at every call.
        """
        seed, number = self.federation.seed or 0, task.round
        if self.plan.secure_rng:
            return graph_seed(seed, Purpose.CLIENT, number), fresh_keys(len(clients))
        return (
            graph_seed(seed, Purpose.CLIENT, number),
            secrets_of(seed, Purpose.CLIENT, [number], [int(c) for c in clients]),
        )

    def contribution(
        self,
        flat: Flat,
        x: Examples,
        y: Labels,
        indices: Tensor,
        seed: Seed,
        rate: Scalar,
        visit: Visit,
        masking: Masking | None = None,
    ) -> dict[str, Nested]:
        """One client, from the broadcast to its message; traced into the engine's own graph.

        Args:
          flat: weights `[d]` that it was sent.
          x: examples `[n, *input_shape]`, uint8 or float.
          y: labels `[n]`.
          indices: the client's own among them, int32 `[m]`.
          seed: int32 `[2]`, unique to run, round and client, for the order of its batches.
          rate: scalar client learning rate.
          visit: what its defenses are told.
          masking: the masks it was dealt, where it puts them on itself.

        Returns:
          As `signature`: `update [d]`, `loss`, `log`, `tally`, `finite`, `weight` in the sum (0 if it is not finite),
          `own`, `bits` on the wire, `bounded` (whether a stated bound holds), `ok` (whether defenses could carry the
          value), `norm` of the update where no defense acts and, where links encode, `encoded`, int64 `[d + 1 + t]`.
          With masks there is `masked` in its place: the same with the masks on, as unsigned integers that just hold
          them, or zeros where it is not finite, not bounded or not ok, and is not to be sent.
        """
        dtype, size = self.plan.spec.dtype, tf.shape(indices)[0]
        prepared, flat = None, self.client.begun(flat, visit)
        if self.line.acts(Station.DATA):
            own = unit_floats(tf.gather(x, indices), dtype), tf.gather(y, indices)
            (x, y), prepared = self.client.prepare(*own, flat, visit)
            indices = tf.range(size)
        epochs = drawn_epochs(x, y, indices, self.client.procedure, seed, visit.secret, dtype)
        trained = self.client.train(flat, epochs, size, rate, visit, prepared)
        update = trained.update
        finite = tf.reduce_all(tf.math.is_finite(update))
        weight = tf.ones([], dtype)
        if self.plan.weighting == "examples":
            weight = tf.cast(size, dtype) / tf.constant(self.plan.max_examples, dtype)
        weight = tf.where(finite, weight, tf.zeros_like(weight))
        bits = trained.bits
        if bits is None:
            bits = self.plan.spec.size * 8 * tf.as_dtype(dtype).size
        zero = tf.zeros([], dtype)
        out = {
            "update": update,
            "loss": trained.loss,
            "log": dict(trained.log),
            "tally": {k: tf.cast(trained.tally.get(k, zero), dtype) for k in self.tally_names},
            "finite": finite,
            "weight": weight,
            "own": trained.own,
            "bits": tf.cast(bits, tf.int64),
            "bounded": tf.constant(True),
            "ok": tf.constant(True) if trained.ok is None else trained.ok,
        }
        if self.measures_norms:
            out["norm"] = tf.norm(update)
        bound = self.line.bound
        if bound is not None:
            out["bounded"] = tf.norm(update) <= tf.cast(bound * (1 + BOUND_SLACK), dtype)
        if self.line.encodes:
            bounds = self.line.tallies
            small = [out["tally"][k] / max(bounds[k], 1e-30) for k in bounds]
            share = tf.where(finite, weight * update, tf.zeros_like(update))
            vector = tf.cast(tf.concat([share, [weight, *small]], 0), tf.float32)
            walked = self.client.walk(Station.ENCODE, vector, visit, flat, trained.own)
            encoded = tf.cast(walked.value, tf.int64)
            out["log"] |= {k: tf.cast(v, dtype) for k, v in walked.log.items()}
            if walked.ok is not None:
                out["ok"] = out["ok"] & walked.ok
            if masking is None:
                out["encoded"] = encoded
            else:
                sends = finite & out["ok"] & out["bounded"]
                out["masked"] = tf.cond(
                    sends, lambda: masking.mask(encoded), lambda: tf.zeros_like(encoded, masking.dtype)
                )
        return out

    def signature(self, masked: tf.DType | None = None) -> dict[str, Nested]:
        """Shapes and dtypes of what `contribution` gives, with masks, which give that dtype, or without."""
        spec = self.plan.spec
        scalar = tf.TensorSpec([], spec.dtype)
        found = {
            "update": tf.TensorSpec([spec.size], spec.dtype),
            "loss": scalar,
            "log": dict.fromkeys(self.all_logs, scalar),
            "tally": dict.fromkeys(self.tally_names, scalar),
            "finite": tf.TensorSpec([], tf.bool),
            "weight": scalar,
            "own": tf.nest.map_structure(lambda a: tf.TensorSpec(a.shape, a.dtype), self.own_like),
            "bits": tf.TensorSpec([], tf.int64),
            "bounded": tf.TensorSpec([], tf.bool),
            "ok": tf.TensorSpec([], tf.bool),
        }
        if self.measures_norms:
            found["norm"] = scalar
        if self.line.encodes:
            name = "encoded" if masked is None else "masked"
            found[name] = tf.TensorSpec([self.contribution_length], masked or tf.int64)
        return found

    @property
    def contribution_length(self) -> int:
        """d + 1 + t: the weighted update, the client's weight, the tallies."""
        return self.plan.spec.size + 1 + len(self.line.tallies)

    @property
    def all_logs(self) -> list[str]:
        """Names of the logs, those of the encode station included; found by tracing it once on the side."""
        if not hasattr(self, "_all_logs"):
            names = list(self.log_names)
            if self.line.encodes:
                with tf.Graph().as_default():
                    flat, visit = tf.zeros([self.plan.spec.size], self.plan.spec.dtype), self.client.blank_visit()
                    vector = tf.zeros([self.contribution_length], tf.float32)
                    names += self.client.walk(Station.ENCODE, vector, visit, flat, visit.own).log
            self._all_logs = sorted(names)
        return self._all_logs

    def decode(self, total: np.ndarray, count: int) -> np.ndarray:
        """A ring sum of `count` clients' contributions, uint64 `[n]`, to float64 `[n]`; tallies in their own units."""
        value: Tensor = tf.constant(total.view(np.int64))
        for i in reversed(self.line.at(Station.ENCODE)):
            value = self.line.links[i].decode(value, tf.constant(count), self.plan)
        decoded = np.array(value, np.float64)
        bounds = list(self.line.tallies.values())
        if bounds:
            decoded[-len(bounds) :] *= bounds
        return decoded

    def evaluate(self, weights: np.ndarray, x: Examples, y: Labels) -> tuple[float, float]:
        """(mean loss, mean of the task's quality) of `weights [d]` on `x [n, *input_shape]` and targets `y`."""
        return self._evaluator(weights, x, y)

    def close(self) -> None:
        """Releases processes and memory; the graph engine holds none."""
        return None
