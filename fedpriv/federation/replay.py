"""Replay: what clients would have sent, had they held other examples; what `View.simulate` is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Examples, Flat, Labels, Nested, Scalar, Tensor, Tensors
from fedpriv.defense.combiner import Combiner
from fedpriv.defense.passed import passed
from fedpriv.defense.plan import Plan
from fedpriv.defense.stations import Defense, Station
from fedpriv.defense.walker import Walker
from fedpriv.federation.client import Batch, Batches, Client, Visit
from fedpriv.models.model import Model
from fedpriv.procedure.procedure import Procedure

#: Replays of at most this many local steps are unrolled into the graph; longer ones become a loop.
UNROLL_STEPS = 32
_CHANGING = (Station.DATA, Station.BATCH, Station.GRADIENT, Station.UPDATE)


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """The clients that are replayed: public and known facts, nothing that was observed.

    Attributes:
      model: the model's functions.
      plan: public facts of the run.
      procedure: the local procedure, or None if unknown.
      num_examples: example counts by client, or None if unknown.
      defenses: what a replay runs in place of the known defenses' links.
      fixed_denominator: whether the sum was divided by the expected cohort size rather than by the clients' weights.
      released: whether it is what the server released, rather than what clients sent.
    """

    model: Model
    plan: Plan
    procedure: Procedure | None
    num_examples: tuple[int, ...] | None
    defenses: tuple[Defense, ...] = ()
    fixed_denominator: bool = False
    released: bool = False


def stand_ins(defenses: Sequence[Defense], states: Sequence[Nested]) -> list[tuple[Defense, Nested]]:
    """The links that a replay runs in place of the line's, each with its state as broadcast."""
    links = [part for d in defenses for part in d.parts()]
    pairs = [(link.replay(), state) for link, state in zip(links, states, strict=True)]
    return [(d, s) for d, s in pairs if d is not None]


def divides_by_public_constant(defenses: Sequence[Defense], plan: Plan) -> bool:
    """Whether the server divides the sum by the expected cohort size, since a defense adds noise to it."""
    noises = [part.noise(plan) for d in defenses for part in d.parts()]
    return any(n is not None and n.where == "aggregate" for n in noises)


def replay_cohort(
    who: Replayed,
    weights: Flat,
    rate: Scalar | float,
    x: Examples,
    y: Labels,
    states: Sequence[Nested] = (),
    by_epoch: bool = False,
    draws: Tensors = (),
) -> Flat:
    """What clients would have sent (their weighted mean), had they held `x` and `y`; `[d]`.

    Batches are taken in the order given, since the real order is unknown to an adversary. Defenses the
    adversary knows are replayed by their deterministic stand-ins. With `by_epoch`, `x [epochs, n, ...]` and
    `y [epochs, n, ...]` give every local epoch its own examples. `states` are those of `who.defenses`, as broadcast.
    `draws` are the model's, `[passes, n, *shape]` each (`passes`); without them it goes by their means.

    Raises:
      CapabilityError: the adversary does not know the procedure or the number of examples.
      ParameterError: `x`, `y` or `draws` has another number of examples, or of epochs.
    """
    if who.procedure is None or who.num_examples is None:
        raise CapabilityError(
            "this adversary cannot replay the client: it does not know the procedure or the number of examples; "
            "use an adversary that knows 'procedure' and 'num_examples'"
        )
    x, y = tf.cast(x, who.model.spec.dtype), tf.convert_to_tensor(y)
    if not y.dtype.is_integer:
        y = tf.cast(y, who.model.spec.dtype)
    if not by_epoch:
        x, y = x[None], y[None]
    counts = who.num_examples
    epochs = max(_epochs(who.procedure, n) for n in counts) if by_epoch else 1
    for given in (x, y):
        if not given.shape[:2].is_compatible_with([epochs, sum(counts)]):
            given_shape = list(given.shape) if by_epoch else list(given.shape[1:])
            raise ParameterError(
                f"examples or labels of shape {given_shape} given to a replay of {len(counts)} clients with "
                f"{sum(counts)} examples{f' and {epochs} epochs' if by_epoch else ''}; give one row an example"
            )
    _check_draws(who, draws)
    walker = Walker(who.defenses, who.plan)
    states = [tf.nest.map_structure(tf.convert_to_tensor, s) for s in states]
    client = Client(who.model, who.procedure, walker)
    uniform = who.plan.weighting == "uniform"
    rule = next((d for d in who.defenses if isinstance(d, Combiner)), None) if who.released else None
    acts = walker.acts(*_CHANGING)
    one_step = all(who.procedure.local_steps(n) == 1 for n in counts)
    linear = who.procedure.client.kind in ("sgd", "momentum")
    plain = rule is None and one_step and linear and not acts and not who.model.couples_examples
    if len(counts) > 1 and plain and (not uniform or len(set(counts)) == 1):
        # One SGD step is linear in the gradient: the weighted mean of the clients' is the whole batch's.
        whole = who.procedure.model_copy(update={"batch_size": None})
        mean = _replay(Client(who.model, whole, Walker((), who.plan)), weights, rate, x, y, sum(counts), (), draws)
    else:
        mean, start = tf.zeros([who.model.spec.size], who.model.spec.dtype), 0
        single = []
        for n in counts:
            share = (1.0 if uniform else float(n)) / (len(counts) if uniform else sum(counts))
            own_x, own_y = (_part(a, 1, start, start + n) for a in (x, y))
            own_draws = tuple(_part(a, 1, start, start + n) for a in draws)
            update = _replay(client, weights, rate, own_x, own_y, n, states, own_draws)
            single.append(update)
            mean = update if len(counts) == 1 else mean + share * update
            start += n
        if rule is not None:
            shares = tf.constant([1.0 if uniform else float(n) for n in counts], who.model.spec.dtype)
            mean = passed(rule.combine(tf.stack(single), shares), rule.name, "combine").value
    if who.fixed_denominator:
        mean *= len(counts) / who.plan.expected_cohort  # the server divides by a public constant, not the cohort
    if who.released:
        for defense, state in zip(reversed(who.defenses), reversed(states)):
            mean = defense.released(mean, state)
    return mean


def passes(who: Replayed) -> int:
    """How often the clients' examples are gone through, at most; in each pass a model draws anew.

    Raises:
      CapabilityError: the adversary does not know the procedure or the number of examples.
    """
    if who.procedure is None or who.num_examples is None:
        raise CapabilityError("this adversary knows neither how often a client drew nor for how many examples")
    return max(_epochs(who.procedure, n) for n in who.num_examples)


def _check_draws(who: Replayed, draws: Tensors) -> None:
    if not draws:
        return
    assert who.num_examples is not None
    head = [passes(who), sum(who.num_examples)]
    wanted = [[*head, *d.shape] for d in who.model.draws]
    given = [list(a.shape) for a in draws]
    if given != wanted:
        raise ParameterError(
            f"draws of shapes {given} given to a replay of model '{who.model.name}', which takes {wanted}: passes over "
            "the examples, examples, and the shape of each draw"
        )


def _epochs(procedure: Procedure, n: int) -> int:
    """Local epochs begun by a client with `n` examples."""
    return -(-procedure.local_steps(n) // procedure.steps_per_epoch(n))


def _part(a: Tensor, axis: int, start: int, stop: int) -> Tensor:
    """`a[start:stop]` along the axis; all of it costs nothing, forwards or backwards."""
    if start == 0 and stop == a.shape[axis]:
        return a
    return a[start:stop] if axis == 0 else a[:, start:stop]


def _replay(
    client: Client,
    weights: Flat,
    rate: Scalar | float,
    x: Examples,
    y: Labels,
    n: int,
    states: Sequence[Nested],
    draws: Tensors = (),
) -> Flat:
    """One client's update from `x [epochs, n, ...]`; one epoch of examples serves them all, but not of draws."""
    procedure = client.procedure
    steps, per_epoch = procedure.local_steps(n), procedure.steps_per_epoch(n)
    size = procedure.batch_size or n
    own = [tf.nest.map_structure(tf.convert_to_tensor, s) for s in client.line.initial_client_states()]
    visit = Visit(tf.zeros([2], tf.int64), states, own, tf.constant(n, tf.int32))
    weights = client.begun(weights, visit)
    repeated, prepared = x.shape[0] == 1, None
    if client.line.acts(Station.DATA):
        passes = [client.prepare(one_x, one_y, weights, visit) for one_x, one_y in zip(tf.unstack(x), tf.unstack(y))]
        prepared = passes[-1][1]
        x, y = (tf.stack([one[0][part] for one in passes]) for part in (0, 1))
    if steps <= UNROLL_STEPS:
        places = [(0 if repeated else i // per_epoch, (i % per_epoch) * size) for i in range(steps)]
        xs, ys = tf.unstack(x), tf.unstack(y)
        batches: list[Batch] = [
            (_part(xs[e], 0, s, min(s + size, n)), _part(ys[e], 0, s, min(s + size, n))) for e, s in places
        ]
        if client.model.draws:
            whole = [tf.unstack(a) for a in draws]
            for i, (_, s) in enumerate(places):
                mine = tuple(_part(a[i // per_epoch], 0, s, min(s + size, n)) for a in whole)
                batches[i] = (*batches[i][:2], None, mine or None)
        return client.train_unrolled(weights, batches, rate, visit, prepared).update

    def epoch(number: Scalar) -> Batches:
        e = 0 if repeated else number

        def batch(step: Scalar) -> Batch:
            stop = tf.minimum((step + 1) * size, n)
            found = x[e, step * size : stop], y[e, step * size : stop]
            if not client.model.draws:
                return found
            return (*found, None, tuple(a[number, step * size : stop] for a in draws) or None)

        return batch

    return client.train(weights, epoch, n, rate, visit, prepared).update
