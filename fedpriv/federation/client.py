"""The client: local training as one pure function, run by both engines and replayed by every view.

A client starts from the broadcast weights, passes over its examples in batches, and returns the flat model
delta after its defenses. Nothing here holds data or variables; what varies is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from fedpriv.base.lazy import tf
from fedpriv.base.seeds import KEY_WORDS, child, fold, uniform
from fedpriv.base.types import Examples, Flat, Labels, Nested, Scalar, Seed, Tensor, Tensors
from fedpriv.data.kind import unit_floats
from fedpriv.defense.plan import Plan
from fedpriv.defense.stations import Context, Defense, Station
from fedpriv.defense.walker import Walked, Walker
from fedpriv.models.draws import drawn
from fedpriv.models.example_gradients import ClippedSum, clipped_sum
from fedpriv.models.model import Model
from fedpriv.procedure import optimizers
from fedpriv.procedure.procedure import Procedure

#: Examples, targets and, where some rows are padding, a mask `[b]` of 0 and 1. A replay gives the model's draws
#: besides, one tensor `[b, *shape]` each, or None for their means; else the client draws them.
Batch = (
    tuple[Examples, Labels] | tuple[Examples, Labels, Tensor] | tuple[Examples, Labels, Tensor | None, Tensors | None]
)
Batches = Callable[[Scalar], Batch]
Epochs = Callable[[Scalar], Batches]

#: What a client's draws are told apart by: station, link and local step, each in bits of its own.
_LINK_BITS, _STEP_BITS = 12, 40
_CLIENT_STATIONS = (Station.DATA, Station.BATCH, Station.GRADIENT, Station.UPDATE, Station.ENCODE)
#: Where the stations' numbers end, the draws of batches begin, and then those of the model.
_SELECTION = len(_CLIENT_STATIONS)
_MODEL = _SELECTION + 1


@dataclass(frozen=True)
class Visit:
    """What one client's defenses are told in one round; tensors, or Python numbers in a replay.

    Attributes:
      secret: int64 `[2]`, or a key `[4]` where noise is drawn securely; unique to run, round and client.
      states: one broadcast state a link.
      own: the client's own states, one a link.
      num_examples: int32 scalar.
      round, slot, away: as in `Context`.
    """

    secret: Seed
    states: Sequence[Nested] = ()
    own: Sequence[Nested] = ()
    num_examples: Scalar | int = 0
    round: Scalar | int = 0
    slot: Scalar | int = 0
    away: Scalar | int = -1


@dataclass
class Trained:
    """What local training leaves.

    Attributes:
      update: `[d]`, after the update station.
      loss: mean training loss over the local steps.
      log, tally: the defenses', by `label/name`; means over the local steps where a station runs at each.
      own: the client's next own states, one a link.
      bits: scalar, what the update takes on the wire, where a defense said so.
      ok: scalar bool, whether the defenses could carry the value; None where none asks.
    """

    update: Flat
    loss: Scalar
    log: dict[str, Scalar] = field(default_factory=dict)
    tally: dict[str, Scalar] = field(default_factory=dict)
    own: tuple[Nested, ...] = ()
    bits: Scalar | int | None = None
    ok: Scalar | bool | None = None


@dataclass(frozen=True)
class Client:
    """Everything static about local training.

    Attributes:
      model: the model's pure functions.
      procedure: epochs, batches, client optimizer, proximal term.
      line: the defenses; only those acting at client stations are called.
    """

    model: Model
    procedure: Procedure
    line: Walker

    @property
    def plan(self) -> Plan:
        """Public facts of the run."""
        return self.line.plan

    @cached_property
    def optimizer(self) -> optimizers.Stepper:
        """The client optimizer."""
        return optimizers.build(self.procedure.client)

    def walk(
        self,
        station: Station,
        value: Nested,
        visit: Visit,
        weights: Flat | None,
        own: Sequence[Nested],
        step: Scalar | int = 0,
        x: Examples | None = None,
        y: Labels | None = None,
    ) -> Walked:
        """`value` through the links at one of the client's stations."""

        def context(i: int) -> Context:
            place = ((_CLIENT_STATIONS.index(station) << _LINK_BITS) + i) << _STEP_BITS
            more = {} if x is None else {"x": x, "y": y}
            return Context(
                plan=self.plan,
                seed=child(visit.secret, place + tf.cast(step, tf.int64)),
                state=visit.states[i],
                round=visit.round,
                slot=visit.slot,
                own=own[i],
                away=visit.away,
                num_examples=visit.num_examples,
                model=self.model,
                weights=weights,
                **more,
            )

        return self.line.walk(station, value, context)

    def blank_visit(self) -> Visit:
        """Zeros in a visit's shapes, in the graph being built."""

        def zeros(states: Nested) -> Nested:
            return tf.nest.map_structure(lambda a: tf.zeros(a.shape, a.dtype), states)

        own = zeros(self.line.initial_client_states())
        told = self.line.broadcast_states(self.line.initial_states())
        return Visit(tf.zeros([KEY_WORDS if self.plan.secure_rng else 2], tf.int64), zeros(told), own, tf.constant(1))

    def blank_batch(self) -> tuple[Examples, Labels]:
        """One example and its target, of zeros, in the graph being built."""
        task = self.model.task
        x = tf.zeros([1, *self.model.input_shape], self.model.spec.dtype)
        return x, tf.zeros([1, *task.target_shape], task.target_dtype)

    def reports(self) -> tuple[list[str], list[str]]:
        """Names of the logs and of the tallies that training gives; found by tracing it once on the side."""
        if not self.line.links:
            return [], []
        spec = self.model.spec
        with tf.Graph().as_default():
            flat, rate, visit = tf.zeros([spec.size], spec.dtype), tf.zeros([], spec.dtype), self.blank_visit()
            x, y = self.blank_batch()
            (x, y), prepared = self.prepare(x, y, flat, visit)
            out = self.train(flat, lambda _: lambda _: (x, y), 1, rate, visit, prepared)
            names = sorted(out.log), sorted({**dict.fromkeys(self.line.tallies), **out.tally})
        return names

    def begun(self, flat: Flat, visit: Visit) -> Flat:
        """The weights `[d]` that a client begins from, for those it was sent."""
        for i, link in enumerate(self.line.links):
            if type(link).begins is not Defense.begins:
                flat = tf.ensure_shape(link.begins(flat, visit.own[i], self.plan), flat.shape)
        return flat

    def prepare(self, x: Examples, y: Labels, flat: Flat, visit: Visit) -> tuple[tuple[Examples, Labels], Walked]:
        """All of a client's examples through the data station: ((x, y), what the links reported)."""
        walked = self.walk(Station.DATA, (x, y), visit, flat, visit.own)
        return walked.value, walked

    def train(
        self,
        flat: Flat,
        epochs: Epochs,
        num_examples: Scalar | int,
        rate: Scalar | float,
        visit: Visit,
        prepared: Walked | None = None,
    ) -> Trained:
        """Local training in a graph loop.

        Args:
          flat: weights `[d]` to begin from: those broadcast, as `begun` gives them.
          epochs: `epoch -> (step -> (x [b, ...] float, y [b] int or [b, classes]))`, with a mask `[b]` where some rows
            are padding.
          num_examples: int32 scalar tensor or int.
          rate: scalar client learning rate.
          visit: what the defenses are told.
          prepared: what the data station reported, where a link acts there.
        """
        initial = tuple(self.model.spec.unflatten(flat))
        n = tf.convert_to_tensor(num_examples, tf.int32)
        per_epoch = -(-n // self.procedure.batch_size) if self.procedure.batch_size else tf.constant(1, tf.int32)
        total = per_epoch * self.procedure.local_epochs
        if self.procedure.max_local_steps:
            total = tf.minimum(total, self.procedure.max_local_steps)
        carry = self._start(initial, flat, visit, prepared)

        def one_epoch(epoch: Scalar, carry: Nested) -> Nested:
            batches, first = epochs(epoch), epoch * per_epoch

            def body(step: Scalar, carry: Nested) -> tuple[Scalar, Nested]:
                return step + 1, self._step(carry, initial, batches(step), rate, visit, first + step)

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
        return self._finish(flat, carry, total, visit, prepared)

    def train_unrolled(
        self,
        flat: Flat,
        batches: Sequence[Batch],
        rate: Scalar | float,
        visit: Visit,
        prepared: Walked | None = None,
    ) -> Trained:
        """As `train`, for a static list of batches, without a loop: what attacks differentiate through."""
        initial = tuple(self.model.spec.unflatten(flat))
        direct = self._plain and not self.procedure.drawn and not self.line.acts(Station.BATCH, Station.UPDATE)
        if len(batches) == 1 and direct:
            # The step is the update. Taking it and subtracting the weights again would add two passes and rounding.
            draws = self._draws(batches[0], visit, 0)
            loss, change, buffers = _loss_and_gradient(self.model, initial, *batches[0][:2], -rate, draws=draws)
            moved = tuple(after - before for after, before in zip(buffers, initial))
            return Trained(self.model.spec.flatten(_headed(moved, change)), loss)
        carry = self._start(initial, flat, visit, prepared)
        for i, batch in enumerate(batches):
            carry = self._step(carry, initial, batch, rate, visit, i, single=True)
        return self._finish(flat, carry, tf.constant(len(batches), tf.int32), visit, prepared)

    def _start(self, initial: Tensors, flat: Flat, visit: Visit, prepared: Walked | None) -> Nested:
        """What the loop over local steps carries: weights, optimizer state, sums of losses and reports, own states."""
        state = self.optimizer.initialize(self.model.spec.shapes, self.model.spec.dtype)
        own = _after(visit.own, prepared)
        logs, tallies = self._step_reports()
        zero = tf.zeros([], flat.dtype)
        return initial, state, zero, (dict.fromkeys(logs, zero), dict.fromkeys(tallies, zero)), own

    def _step(
        self,
        carry: Nested,
        initial: Tensors,
        batch: Batch,
        rate: Scalar | float,
        visit: Visit,
        step: Scalar | int,
        single: bool = False,
    ) -> Nested:
        weights, optimizer_state, loss_sum, sums, own = carry
        x, y = batch[:2]
        mask = batch[2] if len(batch) > 2 else None
        draws = self._draws(batch, visit, step)
        denominator = self.procedure.batch_size if self.procedure.drawn else None
        if self._plain and not self.line.acts(Station.BATCH):
            # The rate goes into the backward pass, which saves one pass over all weights in every step.
            loss, change, buffers = _loss_and_gradient(self.model, weights, x, y, rate, mask, denominator, draws)
            weights = _headed(buffers, tuple(w - c for w, c in zip(weights, change)))
            return weights, optimizer_state, loss_sum + loss, sums, own
        spec = self.model.spec
        flat = spec.flatten(weights) if self.line.acts(Station.BATCH, Station.GRADIENT) else None
        entered = self.walk(Station.BATCH, (x, y), visit, flat, own, step)
        (x, y), own = entered.value, _after(own, entered)
        if self._plain:
            loss, change, buffers = _loss_and_gradient(self.model, weights, x, y, rate, mask, denominator, draws)
            weights = _headed(buffers, tuple(w - c for w, c in zip(weights, change)))
            return weights, optimizer_state, loss_sum + loss, _added(sums, loss.dtype, entered), own
        drawn = (mask, denominator, single, draws)
        loss, gradient, buffers, walked = self._gradient(weights, flat, x, y, visit, own, step, *drawn)
        if walked is not None:
            own = _after(own, walked)
        if self.procedure.proximal:
            mu = tf.cast(self.procedure.proximal, loss.dtype)
            gradient = tuple(g + mu * (w - w0) for g, w, w0 in zip(gradient, weights, initial))
        optimizer_state, weights = self.optimizer.next(optimizer_state, weights, gradient, rate)
        weights = _headed(buffers, weights)
        return weights, optimizer_state, loss_sum + loss, _added(sums, loss.dtype, entered, walked), own

    def _draws(self, batch: Batch, visit: Visit, step: Scalar | int) -> Tensors | None:
        """The model's draws in one local step, from the client's secret unless the batch brings them."""
        if not self.model.draws or len(batch) > 3:
            return batch[3] if len(batch) > 3 else None
        place = (_MODEL << _LINK_BITS) << _STEP_BITS
        seed = child(visit.secret, place + tf.cast(step, tf.int64))
        rows = batch[0].shape[0] or tf.shape(batch[0])[0]
        return drawn(self.model.draws, seed, rows, self.model.spec.dtype)

    @cached_property
    def _plain(self) -> bool:
        """Whether a local step is SGD on the loss alone, with nobody at the gradient station."""
        sgd = self.procedure.client.kind == "sgd" and self.procedure.client.linear and not self.procedure.proximal
        return sgd and not self.line.acts(Station.GRADIENT)

    def _gradient(
        self,
        weights: Tensors,
        flat: Flat,
        x: Examples,
        y: Labels,
        visit: Visit,
        own: Sequence[Nested],
        step: Scalar | int,
        mask: Tensor | None = None,
        denominator: int | None = None,
        single: bool = False,
        draws: Tensors | None = None,
    ) -> tuple[Scalar, tuple[Tensor, ...], tuple[Tensor, ...], Walked | None]:
        acting = self.line.at(Station.GRADIENT)
        if not acting:
            return *_loss_and_gradient(self.model, weights, x, y, 1.0, mask, denominator, draws), None
        spec, buffers = self.model.spec, tuple[Tensor, ...]()
        clip, reports = self.line.example_clip, dict[str, Scalar]()
        if clip is not None:
            made = clipped_sum(self.model, weights, x, y, clip, mask, single, draws)
            # A batch's public size, however many examples this one has.
            size = self.procedure.batch_size or visit.num_examples
            share = tf.cast(clip.group, spec.dtype) / tf.cast(size, spec.dtype)
            loss = tf.math.divide_no_nan(made.loss, made.count)
            found = spec.flatten(made.total) * share
            reports = self._clip_reports(made, acting[0], clip.group)
        elif self.line.links[acting[0]].per_example:
            # One example at a time, in the graph: vectorized_map falls back to a loop for convolution gradients.
            def one(example: tuple[Tensor, ...]) -> tuple[Scalar, Flat]:
                own_x, own_y, *own_draws = (part[None] for part in example)
                loss, gradient, _ = _loss_and_gradient(self.model, weights, own_x, own_y, draws=own_draws or None)
                return loss, spec.flatten(gradient)

            loss, found = tf.map_fn(
                one, (x, y, *(draws or ())), fn_output_signature=(spec.dtype, tf.TensorSpec([spec.size], spec.dtype))
            )
            if mask is not None:  # the station takes a mean over rows, so that what is padding must weigh nothing in it
                rows = tf.cast(tf.shape(mask)[0], spec.dtype)
                found = found * (mask * rows / tf.cast(denominator, spec.dtype))[:, None]
            loss = (
                tf.reduce_mean(loss)
                if mask is None
                else tf.math.divide_no_nan(tf.reduce_sum(loss * mask), tf.reduce_sum(mask))
            )
        else:
            loss, gradient, buffers = _loss_and_gradient(self.model, weights, x, y, 1.0, mask, denominator, draws)
            found = spec.flatten(gradient)
        walked = self.walk(Station.GRADIENT, found, visit, flat, own, step, x, y)
        walked.log |= reports
        return loss, tuple(spec.unflatten(walked.value)), buffers, walked

    def _clip_reports(self, made: ClippedSum, link: int, group: int) -> dict[str, Scalar]:
        """What clipping examples' gradients says of itself, in the name of the link that asked for it."""
        groups = tf.math.ceil(made.count / group)
        share = {"norm": made.norm, "clipped": made.clipped, "nonfinite": made.strange}
        label = self.line.labels[link]
        return {f"{label}/{k}": tf.math.divide_no_nan(v, groups) for k, v in share.items()}

    def _step_reports(self) -> tuple[list[str], list[str]]:
        """Names that links report at the batch and gradient stations; found by tracing them once on the side."""
        if not self.line.acts(Station.BATCH, Station.GRADIENT):
            return [], []
        spec, logs, tallies = self.model.spec, list[str](), list[str]()
        with tf.Graph().as_default():
            visit, flat = self.blank_visit(), tf.zeros([spec.size], spec.dtype)
            x, y = self.blank_batch()
            acting = self.line.at(Station.GRADIENT)
            rows = bool(acting) and self.line.links[acting[0]].per_example
            gradient = tf.zeros([1, spec.size] if rows else [spec.size], spec.dtype)
            entered = self.walk(Station.BATCH, (x, y), visit, flat, visit.own)
            walked = self.walk(Station.GRADIENT, gradient, visit, flat, visit.own, 0, *entered.value)
            if self.line.example_clip is not None:
                logs += [f"{self.line.labels[acting[0]]}/{name}" for name in ("norm", "clipped", "nonfinite")]
            for one in (entered, walked):
                logs += one.log
                tallies += one.tally
        return logs, tallies

    def _finish(self, flat: Flat, carry: Nested, steps: Scalar, visit: Visit, prepared: Walked | None) -> Trained:
        weights, _, loss_sum, (logs, tallies), own = carry
        dtype = loss_sum.dtype
        steps = tf.cast(tf.maximum(steps, 1), dtype)
        update = self.model.spec.flatten(weights) - flat
        acting = self.line.acts(Station.UPDATE)
        finite = tf.reduce_all(tf.math.is_finite(update)) if acting else None
        walked = self.walk(Station.UPDATE, update, visit, flat, own)
        update = walked.value
        if finite is not None:  # a defense that drops or bounds what is not finite must not hide a divergence
            update = tf.where(finite, update, tf.constant(float("nan"), update.dtype))
        log = {k: v / steps for k, v in logs.items()}
        tally = {k: v / steps for k, v in tallies.items()}
        for one in (prepared, walked):
            if one is not None:
                log |= {k: tf.cast(v, dtype) for k, v in one.log.items()}
                tally |= {k: tf.cast(v, dtype) for k, v in one.tally.items()}
        return Trained(update, loss_sum / steps, log, tally, _after(own, walked), walked.bits, walked.ok)


def _after(own: Sequence[Nested], walked: Walked | None) -> tuple[Nested, ...]:
    """Own states after a station, in the dtypes they had."""
    if walked is None or not walked.states:
        return tuple(own)

    def cast(old: Tensor, new: Tensor) -> Tensor:
        return tf.ensure_shape(tf.cast(new, old.dtype), old.shape)

    return tuple(
        tf.nest.map_structure(cast, old, walked.states[i]) if i in walked.states else old for i, old in enumerate(own)
    )


def _added(sums: Nested, dtype: tf.DType, *walked: Walked | None) -> Nested:
    logs, tallies = sums
    for one in walked:
        if one is not None:
            logs = {k: v + tf.cast(one.log[k], dtype) if k in one.log else v for k, v in logs.items()}
            tallies = {k: v + tf.cast(one.tally[k], dtype) if k in one.tally else v for k, v in tallies.items()}
    return logs, tallies


def _loss_and_gradient(
    model: Model,
    weights: Tensors,
    x: Examples,
    y: Labels,
    scale: Scalar | float = 1.0,
    mask: Tensor | None = None,
    denominator: int | None = None,
    draws: Tensors | None = None,
) -> tuple[Scalar, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """(mean loss of the batch, its gradient times `scale` with zeros for buffers, the buffers after the batch).

    The gradient is the mean's, or the sum's over `denominator`; rows where `mask [b]` is 0 have no part in it. `draws`
    are the model's, one tensor `[b, *shape]` each, or None for their means.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(weights)
        losses, buffers = model.trained(weights, x, y, draws)
    # The mean's 1/n enters as the backward pass's start: differentiating the mean itself takes a dozen operations.
    count = tf.shape(losses)
    share = tf.cast(scale, losses.dtype) / tf.cast(count[0] if denominator is None else denominator, losses.dtype)
    start = tf.fill(count, share)
    gradient = tape.gradient(
        losses,
        weights,
        output_gradients=start if mask is None else start * mask,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    loss = tf.reduce_mean(losses)
    if mask is not None:
        loss = tf.math.divide_no_nan(tf.reduce_sum(losses * mask), tf.reduce_sum(mask))
    return loss, tuple(tf.convert_to_tensor(g) for g in gradient), buffers


def _headed(first: Tensors, whole: Tensors) -> tuple[Tensor, ...]:
    """`whole` with `first` in place of its first tensors."""
    return (*first, *whole[len(first) :])


def shuffled_epochs(x: Examples, y: Labels, indices: Tensor, procedure: Procedure, seed: Seed, dtype: str) -> Epochs:
    """Batches of the examples `indices` of `x` (uint8 or float) and `y`, reshuffled each epoch.

    A full batch needs no order, so none is drawn.
    """
    size = procedure.batch_size

    def epoch(number: Scalar) -> Batches:
        order = indices
        if size is not None:
            order = tf.random.experimental.stateless_shuffle(indices, seed=fold(fold(seed, 2), number))

        def batch(step: Scalar) -> tuple[Examples, Labels]:
            chosen = order if size is None else order[step * size : (step + 1) * size]
            return unit_floats(tf.gather(x, chosen), dtype), tf.gather(y, chosen)

        return batch

    return epoch


def drawn_epochs(
    x: Examples, y: Labels, indices: Tensor, procedure: Procedure, seed: Seed, secret: Seed, dtype: str
) -> Epochs:
    """Batches as `procedure.batch_selection` says, of the examples `indices [n]` of `x` (uint8 or float) and `y`.

    Args:
      x, y: all examples and targets.
      indices: int32 `[n]`.
      procedure: batch size and selection.
      seed: int32 `[2]`, for the order of shuffled batches.
      secret: int64 `[2]`, unique to run, round and client: what draws that amplify a guarantee come from, since they
        must be as secret as the noise.
      dtype: of the examples given.
    """
    if not procedure.drawn:
        return shuffled_epochs(x, y, indices, procedure, seed, dtype)
    size = procedure.batch_size
    assert size is not None
    n = tf.shape(indices)[0]
    per_epoch = -(-n // size)
    place = (_SELECTION << _LINK_BITS) << _STEP_BITS

    def epoch(number: Scalar) -> Batches:
        def batch(step: Scalar) -> Batch:
            drawn = uniform(child(secret, place + tf.cast(number * per_epoch + step, tf.int64)), tf.reshape(n, [1]))
            if procedure.batch_selection == "fixed":
                chosen = tf.gather(indices, tf.math.top_k(drawn, size, sorted=False).indices)
                return unit_floats(tf.gather(x, chosen), dtype), tf.gather(y, chosen)
            taken = tf.reshape(tf.where(drawn < size / tf.cast(n, tf.float64)), [-1])
            # A batch may be empty; then it is one row of padding.
            mask = tf.ones([tf.maximum(tf.size(taken), 1)], dtype) * tf.cast(tf.size(taken) > 0, dtype)
            taken = tf.cond(tf.size(taken) > 0, lambda: taken, lambda: tf.zeros([1], taken.dtype))
            chosen = tf.gather(indices, taken)
            return unit_floats(tf.gather(x, chosen), dtype), tf.gather(y, chosen), mask

        return batch

    return epoch
