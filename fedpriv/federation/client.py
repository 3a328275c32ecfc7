"""The client: local training as one pure function, run by both engines and replayed by every view.

A client starts from the broadcast weights, passes over its examples in batches, and returns the flat model
delta after its defenses. Nothing here holds data or variables; what varies is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.seeds import fold
from fedpriv.data.kind import unit_floats
from fedpriv.defense.stations import Context, Defense, Plan, Station, labels, state_array
from fedpriv.models.model import Model
from fedpriv.procedure import optimizers
from fedpriv.procedure.procedure import Procedure

if TYPE_CHECKING:
    from fedpriv.threat.view import View

Batches = Callable[[Any], tuple[Any, Any]]
Epochs = Callable[[Any], Batches]

#: Replays of at most this many local steps are unrolled into the graph; longer ones become a loop.
UNROLL_STEPS = 32


@dataclass(frozen=True)
class Client:
    """Everything static about local training.

    Attributes:
      model: the model's pure functions.
      procedure: epochs, batches, client optimizer, proximal term.
      defenses: all defenses, in order; only those acting at client stations are called.
      plan: static facts of the federation.
    """

    model: Model
    procedure: Procedure
    defenses: tuple[Defense, ...]
    plan: Plan

    @cached_property
    def optimizer(self) -> optimizers.Stepper:
        """The client optimizer."""
        return optimizers.build(self.procedure.client)

    @cached_property
    def labels(self) -> list[str]:
        """What each defense's metrics are filed under."""
        return labels(self.defenses)

    def _acting(self, station: Station) -> list[tuple[int, Defense]]:
        return [(i, d) for i, d in enumerate(self.defenses) if d.acts_at(station)]

    def context(self, i: int, seed: Any, states: Sequence[Any], num_examples: Any) -> Context:
        """Defense `i`'s context; its seed is folded with its place in the list."""
        return Context(self.plan, states[i], fold(seed, i), num_examples)

    def metric_names(self) -> list[str]:
        """Names of the metrics that `train` gives; found by tracing it once on the side."""
        if not self.defenses:
            return []
        spec = self.model.spec
        with tf.Graph().as_default():
            states = [self._zero_state(d) for d in self.defenses]
            task = self.model.task
            y = tf.zeros([1, *task.target_shape], task.target_dtype)
            batch = (tf.zeros([1, *self.model.input_shape], spec.dtype), y)
            flat, rate = tf.zeros([spec.size], spec.dtype), tf.zeros([], spec.dtype)
            seed = tf.zeros([2], tf.int32)
            return sorted(self.train(flat, lambda _: lambda _: batch, 1, seed, rate, states)[2])

    def _zero_state(self, defense: Defense) -> Any:
        """Zeros like the defense's state, in the graph being built."""
        arrays = tf.nest.map_structure(state_array, defense.initial_state(self.plan))
        return tf.nest.map_structure(lambda a: tf.zeros(a.shape, a.dtype), arrays)

    def train(
        self, flat: Any, epochs: Epochs, num_examples: Any, seed: Any, rate: Any, states: Sequence[Any]
    ) -> tuple[Any, Any, dict[str, Any]]:
        """Local training in a graph loop.

        Args:
          flat: broadcast weights `[d]`.
          epochs: `epoch -> (step -> (x [b, ...] float, y [b] int or [b, classes]))`.
          num_examples: int32 scalar tensor or int.
          seed: int32 `[2]`, unique to run, round and client.
          rate: scalar client learning rate.
          states: one broadcast state a defense.

        Returns:
          (update `[d]`, mean training loss over the local steps, metrics of the defenses).
        """
        initial = tuple(self.model.spec.unflatten(flat))
        n = tf.convert_to_tensor(num_examples, tf.int32)
        per_epoch = -(-n // self.procedure.batch_size) if self.procedure.batch_size else tf.constant(1, tf.int32)
        total = per_epoch * self.procedure.local_epochs
        if self.procedure.max_local_steps:
            total = tf.minimum(total, self.procedure.max_local_steps)
        carry = self._start(initial, flat.dtype)

        def one_epoch(epoch: Any, carry: Any) -> Any:
            batches, first = epochs(epoch), epoch * per_epoch

            def body(step: Any, carry: Any) -> Any:
                own = fold(fold(seed, 0), first + step)
                return step + 1, self._step(carry, initial, batches(step), n, own, rate, states)

            last = tf.minimum(per_epoch, total - first)
            loop = (tf.constant(0, tf.int32), carry)
            return tf.while_loop(lambda i, _: i < last, body, loop, parallel_iterations=1)[1]

        if self.procedure.local_epochs == 1:
            carry = one_epoch(tf.constant(0, tf.int32), carry)
        else:
            _, carry = tf.while_loop(
                lambda e, _: e * per_epoch < total,
                lambda e, c: (e + 1, one_epoch(e, c)),
                (tf.constant(0, tf.int32), carry),
                parallel_iterations=1,
            )
        return self._finish(flat, carry, total, n, seed, states)

    def train_unrolled(
        self,
        flat: Any,
        batches: Sequence[tuple[Any, Any]],
        num_examples: int,
        seed: Any,
        rate: Any,
        states: Sequence[Any],
    ) -> tuple[Any, Any, dict[str, Any]]:
        """As `train`, for a static list of batches, without a loop: what attacks differentiate through."""
        initial = tuple(self.model.spec.unflatten(flat))
        if len(batches) == 1 and self._plain and not self._acting(Station.BATCH) and not self._acting(Station.UPDATE):
            # The step is the update. Taking it and subtracting the weights again would add two passes and rounding.
            loss, change = _loss_and_gradient(self.model, initial, *batches[0], -rate)
            return self.model.spec.flatten(change), loss, {}
        carry = self._start(initial, flat.dtype)
        n = tf.constant(num_examples, tf.int32)
        for i, batch in enumerate(batches):
            carry = self._step(carry, initial, batch, n, fold(fold(seed, 0), i), rate, states)
        return self._finish(flat, carry, tf.constant(len(batches), tf.int32), n, seed, states)

    def _start(self, initial: Any, dtype: Any) -> Any:
        """What the loop over local steps carries: weights, optimizer state, sum of losses, sums of metrics."""
        state = self.optimizer.initialize(self.model.spec.shapes, self.model.spec.dtype)
        return initial, state, tf.zeros([], dtype), self._zero_metrics(dtype)

    def _step(
        self, carry: Any, initial: Any, batch: tuple[Any, Any], n: Any, seed: Any, rate: Any, states: Sequence[Any]
    ) -> Any:
        weights, optimizer_state, loss_sum, metric_sums = carry
        x, y = batch
        for i, defense in self._acting(Station.BATCH):
            x, y = defense.batch(x, y, self.context(i, fold(seed, 0), states, n))
        if self._plain:
            # The rate goes into the backward pass, which saves one pass over all weights in every step.
            loss, change = _loss_and_gradient(self.model, weights, x, y, rate)
            return tuple(w - c for w, c in zip(weights, change)), optimizer_state, loss_sum + loss, metric_sums
        loss, gradient, metrics = self._gradient(weights, x, y, n, fold(seed, 1), states)
        if self.procedure.proximal:
            mu = tf.cast(self.procedure.proximal, loss.dtype)
            gradient = tuple(g + mu * (w - w0) for g, w, w0 in zip(gradient, weights, initial))
        optimizer_state, weights = self.optimizer.next(optimizer_state, weights, gradient, rate)
        metric_sums = {k: metric_sums[k] + tf.cast(metrics[k], loss.dtype) for k in metric_sums}
        return weights, optimizer_state, loss_sum + loss, metric_sums

    @cached_property
    def _plain(self) -> bool:
        """Whether a local step is SGD on the loss alone, with nobody at the gradient station."""
        sgd = self.procedure.client.kind == "sgd" and not self.procedure.proximal
        return sgd and not self._acting(Station.GRADIENT)

    def _gradient(
        self, weights: Any, x: Any, y: Any, n: Any, seed: Any, states: Sequence[Any]
    ) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        acting = self._acting(Station.GRADIENT)
        if not acting:
            loss, gradient = _loss_and_gradient(self.model, weights, x, y)
            return loss, gradient, {}
        metrics: dict[str, Any] = {}
        spec = self.model.spec
        if acting[0][1].per_example:
            # One example at a time, in the graph: vectorized_map falls back to a loop for convolution gradients.
            def one(example: tuple[Any, Any]) -> tuple[Any, Any]:
                loss, gradient = _loss_and_gradient(self.model, weights, example[0][None], example[1][None])
                return loss, spec.flatten(gradient)

            loss, flat = tf.map_fn(
                one, (x, y), fn_output_signature=(spec.dtype, tf.TensorSpec([spec.size], spec.dtype))
            )
            loss = tf.reduce_mean(loss)
        else:
            loss, gradient = _loss_and_gradient(self.model, weights, x, y)
            flat = spec.flatten(gradient)
        for i, defense in acting:
            if not defense.per_example and len(flat.shape) == 2:
                flat = tf.reduce_mean(flat, axis=0)
            flat, reported = defense.gradient(flat, self.context(i, seed, states, n))
            metrics.update({f"{self.labels[i]}/{k}": v for k, v in reported.items()})
        if len(flat.shape) == 2:
            flat = tf.reduce_mean(flat, axis=0)
        return loss, tuple(spec.unflatten(flat)), metrics

    def _zero_metrics(self, dtype: Any) -> dict[str, Any]:
        """Zeros under the names the gradient defenses report; found by tracing them once on the side."""
        acting = self._acting(Station.GRADIENT)
        if not acting:
            return {}
        names: list[str] = []
        with tf.Graph().as_default():
            spec = self.model.spec
            for i, defense in acting:
                shape = [1, spec.size] if defense.per_example else [spec.size]
                context = Context(self.plan, self._zero_state(defense), tf.zeros([2], tf.int32), tf.constant(1))
                _, reported = defense.gradient(tf.zeros(shape, spec.dtype), context)
                names += [f"{self.labels[i]}/{k}" for k in reported]
        return {name: tf.zeros([], dtype) for name in names}

    def _finish(
        self, flat: Any, carry: Any, steps: Any, n: Any, seed: Any, states: Sequence[Any]
    ) -> tuple[Any, Any, dict[str, Any]]:
        weights, _, loss_sum, metric_sums = carry
        steps = tf.cast(tf.maximum(steps, 1), loss_sum.dtype)
        update = self.model.spec.flatten(weights) - flat
        metrics = {k: v / steps for k, v in metric_sums.items()}
        acting = self._acting(Station.UPDATE)
        finite = tf.reduce_all(tf.math.is_finite(update)) if acting else None
        for i, defense in acting:
            update, reported = defense.update(update, self.context(i, fold(seed, 1), states, n))
            metrics.update({f"{self.labels[i]}/{k}": tf.cast(v, flat.dtype) for k, v in reported.items()})
        if finite is not None:  # a defense that drops or bounds what is not finite must not hide a divergence
            update = tf.where(finite, update, tf.constant(float("nan"), update.dtype))
        return update, loss_sum / steps, metrics


def _loss_and_gradient(
    model: Model, weights: Sequence[Any], x: Any, y: Any, scale: Any = 1.0
) -> tuple[Any, tuple[Any, ...]]:
    """(mean loss of the batch, its gradient times `scale`)."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(weights)
        losses = model.example_losses(weights, x, y, training=True)
    # The mean's 1/n enters as the backward pass's start: differentiating the mean itself takes a dozen operations.
    count = tf.shape(losses)
    share = tf.cast(scale, losses.dtype) / tf.cast(count[0], losses.dtype)
    gradient = tape.gradient(
        losses,
        weights,
        output_gradients=tf.fill(count, share),
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return tf.reduce_mean(losses), tuple(tf.convert_to_tensor(g) for g in gradient)


def shuffled_epochs(x: Any, y: Any, indices: Any, procedure: Procedure, seed: Any, dtype: str) -> Epochs:
    """Batches of the examples `indices` of `x` (uint8 or float) and `y`, reshuffled each epoch.

    A full batch needs no order, so none is drawn.
    """
    size = procedure.batch_size

    def epoch(number: Any) -> Batches:
        order = indices
        if size is not None:
            order = tf.random.experimental.stateless_shuffle(indices, seed=fold(fold(seed, 2), number))

        def batch(step: Any) -> tuple[Any, Any]:
            chosen = order if size is None else order[step * size : (step + 1) * size]
            return unit_floats(tf.gather(x, chosen), dtype), tf.gather(y, chosen)

        return batch

    return epoch


def replay_cohort(view: View, weights: Any, rate: Any, x: Any, y: Any, by_epoch: bool = False) -> Any:
    """What the clients behind `view` would have sent (their weighted mean), had they held `x` and `y`; `[d]`.

    Batches are taken in the order given, since the real order is unknown to an adversary. Defenses the
    adversary knows are replayed by their deterministic stand-ins. With `by_epoch`, `x [epochs, n, ...]` and
    `y [epochs, n, ...]` give every local epoch its own examples.

    Raises:
      CapabilityError: the adversary does not know the procedure or the number of examples.
      ParameterError: `x` or `y` has another number of examples, or of epochs.
    """
    if view.procedure is None or view.num_examples is None:
        raise CapabilityError(
            "this adversary cannot replay the client: it does not know the procedure or the number of examples; "
            "use an adversary that knows 'procedure' and 'num_examples'"
        )
    x, y = tf.cast(x, view.model.spec.dtype), tf.convert_to_tensor(y)
    if not y.dtype.is_integer:
        y = tf.cast(y, view.model.spec.dtype)
    if not by_epoch:
        x, y = x[None], y[None]
    counts = view.num_examples
    epochs = max(_epochs(view.procedure, n) for n in counts) if by_epoch else 1
    for given in (x, y):
        if not given.shape[:2].is_compatible_with([epochs, sum(counts)]):
            given_shape = list(given.shape) if by_epoch else list(given.shape[1:])
            raise ParameterError(
                f"examples or labels of shape {given_shape} given to a replay of {view.clients} clients with "
                f"{sum(counts)} examples{f' and {epochs} epochs' if by_epoch else ''}; give one row an example"
            )
    stand_ins = [(d.replay(), s) for d, s in zip(view.defenses, view.states, strict=True)]
    defenses = tuple(d for d, _ in stand_ins if d is not None)
    states = [tf.nest.map_structure(tf.convert_to_tensor, s) for d, s in stand_ins if d is not None]
    client = Client(view.model, view.procedure, defenses, view.plan)
    uniform = view.plan.weighting == "uniform"
    acts = any(d.acts_at(s) for d in defenses for s in (Station.BATCH, Station.GRADIENT, Station.UPDATE))
    one_step = all(view.procedure.local_steps(n) == 1 for n in counts)
    linear = view.procedure.client.kind in ("sgd", "momentum")
    plain = one_step and linear and not acts and not view.model.couples_examples
    if len(counts) > 1 and plain and (not uniform or len(set(counts)) == 1):
        # One SGD step is linear in the gradient: the weighted mean of the clients' is the whole batch's.
        whole = view.procedure.model_copy(update={"batch_size": None})
        mean = _replay(Client(view.model, whole, (), view.plan), weights, rate, x, y, sum(counts), ())
    else:
        mean, start = tf.zeros([view.model.spec.size], view.model.spec.dtype), 0
        for n in counts:
            share = (1.0 if uniform else float(n)) / (len(counts) if uniform else sum(counts))
            own_x, own_y = (_part(a, 1, start, start + n) for a in (x, y))
            update = _replay(client, weights, rate, own_x, own_y, n, states)
            mean = update if len(counts) == 1 else mean + share * update
            start += n
    if view.kind == "released" and any(d.fixed_denominator for d in view.defenses):
        mean *= len(counts) / view.plan.expected_cohort  # the server divides by a public constant, not the cohort
    return mean


def _epochs(procedure: Procedure, n: int) -> int:
    """Local epochs begun by a client with `n` examples."""
    return -(-procedure.local_steps(n) // procedure.steps_per_epoch(n))


def _part(a: Any, axis: int, start: int, stop: int) -> Any:
    """`a[start:stop]` along the axis; all of it costs nothing, forwards or backwards."""
    if start == 0 and stop == a.shape[axis]:
        return a
    return a[start:stop] if axis == 0 else a[:, start:stop]


def _replay(client: Client, weights: Any, rate: Any, x: Any, y: Any, n: int, states: Sequence[Any]) -> Any:
    """One client's update from `x [epochs, n, ...]`; one epoch of examples serves them all."""
    procedure = client.procedure
    steps, per_epoch = procedure.local_steps(n), procedure.steps_per_epoch(n)
    size = procedure.batch_size or n
    seed = tf.zeros([2], tf.int32)
    repeated = x.shape[0] == 1
    if steps <= UNROLL_STEPS:
        places = [(0 if repeated else i // per_epoch, (i % per_epoch) * size) for i in range(steps)]
        xs, ys = tf.unstack(x), tf.unstack(y)
        batches = [(_part(xs[e], 0, s, min(s + size, n)), _part(ys[e], 0, s, min(s + size, n))) for e, s in places]
        return client.train_unrolled(weights, batches, n, seed, rate, states)[0]

    def epoch(number: Any) -> Batches:
        e = 0 if repeated else number

        def batch(step: Any) -> tuple[Any, Any]:
            stop = tf.minimum((step + 1) * size, n)
            return x[e, step * size : stop], y[e, step * size : stop]

        return batch

    return client.train(weights, epoch, n, seed, rate, states)[0]
