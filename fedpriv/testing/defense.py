"""check_defense: whether a defense keeps what its stations, bounds, noise and replay promise."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedpriv.base.errors import CheckError, FedprivError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.registry import defenses
from fedpriv.base.types import Flat, Scalar, Seed
from fedpriv.data.dataset import Dataset
from fedpriv.data.embedded import fashion_small
from fedpriv.data.partition import Partition
from fedpriv.defense.aggregator import Aggregator
from fedpriv.defense.domain import Real
from fedpriv.defense.passed import passed
from fedpriv.defense.stations import Context, Defense, Station, labels
from fedpriv.federation.federation import Federation
from fedpriv.models.model import Model
from fedpriv.models.zoo import logistic
from fedpriv.procedure.procedure import make_procedure
from fedpriv.rounds.server import State
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.tap import Tap

#: How far rounding may take a norm beyond a stated bound, and a replay from what was observed, relative to it.
SLACK = 1e-4


@dataclass(frozen=True)
class CheckedDefense:
    """What a check that passed has seen.

    Attributes:
      defense: as a user would write it.
      stations: where it acts.
      moved: how far it moved the model's first step, relative to the step without it.
      replayed: relative distance of the replayed update from the observed one; None where it is not replayable or no
        single update is visible.
      epsilon: of one round at delta 1e-5, against whoever sees the released model; None without a claim.
    """

    defense: str
    stations: tuple[str, ...]
    moved: float
    replayed: float | None
    epsilon: float | None


def check_defense(defense: Defense | type[Defense] | str, *, seed: int = 0, engine: str = "graph") -> CheckedDefense:
    """Checks that a defense keeps the promises of its kind; meant to be the body of a test.

    - It fits a small federation of six clients (uniform weights), and trains there for two rounds to finite weights.
    - It does something: at least one station, and its log, its model step or what it sends differs from no defense.
    - The same seed gives the same bits. Where another seed gives others, it declares its `noise`, or says that it is
      not `replayable`; what is declared as normal noise on updates has the stated deviation.
    - A bound that `maps` states is kept, for long and short updates and for zeros; the derivative of what it does to
      an update of zeros is finite, since attacks start there.
    - What it reports as tallies stays within the bounds that it declares.
    - Where it is `replayable`, the replay at the truth equals the observed update.
    - Its parameters are fixed once it is made, and `config()` gives it back.

    Args:
      defense: a defense, its class (made with its defaults), or a name as on the command line.
      seed: of the federation.
      engine: registered engine name; TFF's aggregators need `tff`.

    Raises:
      CheckError: names every promise that is broken.
      ParameterError: no defense.
    """
    made = _made(defense)
    check = _Check(made, seed, engine)
    check.parameters()
    if not made.stations:
        check.broken("it acts at no station; override one, such as update")
        check.report()
    check.trains()
    check.repeats()
    check.bounds()
    replayed = check.replays()
    check.report()
    return CheckedDefense(check.label, tuple(s.value for s in made.stations), check.moved, replayed, check.epsilon())


def _made(defense: Any) -> Defense:
    if isinstance(defense, str):
        made: Defense = defenses.create(defense)
        return made
    if isinstance(defense, type) and issubclass(defense, Defense):
        try:
            return defense()
        except ValueError as e:
            raise ParameterError(
                f"defense '{defense.name or defense.__name__}' cannot be made without parameters ({e}); "
                "give check_defense one that is made"
            ) from e
    if not isinstance(defense, Defense):
        raise ParameterError(f"check_defense takes a Defense, its class or its name, not {defense!r}")
    return defense


@dataclass
class _Check:
    """One check under way: runs the defense, and gathers what it breaks."""

    defense: Defense
    seed: int
    engine: str
    problems: list[str] = field(default_factory=list)
    moved: float = 0.0

    def __post_init__(self) -> None:
        self.label = labels([self.defense])[0]
        self._made: dict[int, Federation] = {}

    def broken(self, problem: str) -> None:
        """Notes a broken promise, once."""
        if problem not in self.problems:
            self.problems.append(problem)

    def report(self) -> None:
        """Raises CheckError if anything is broken."""
        for made in self._made.values():
            made.close()
        if self.problems:
            listed = "\n".join(f"- {p}" for p in self.problems)
            raise CheckError(f"defense '{self.label}' breaks its promises:\n{listed}")

    def federation(self, seed: int) -> Federation:
        """The small federation with the defense."""
        if seed not in self._made:
            self._made[seed] = _federation((self.defense,), seed, self.engine)
        return self._made[seed]

    def parameters(self) -> None:
        """Fixed once made, and given back by `config`."""
        known = {k: v for k, v in self.defense.config().items() if k != "name"}
        try:
            again = type(self.defense)(**known)
        except ValueError as e:
            self.broken(f"config() does not make it again: {e}")
            return
        if again != self.defense:
            self.broken("config() makes another one; let every parameter be a field that JSON can hold")

    def trains(self) -> None:
        """Two rounds to finite weights, and something that differs from no defense."""
        weights, log = self._two_rounds(self.seed)
        if weights is None:
            return
        start, plain, sent = _undefended(self.seed, self.engine)
        own = self.federation(self.seed).start()
        if own.weights.shape == plain.shape:
            first, record = self.federation(self.seed).step(own, evaluate=False)
            self.moved = float(np.linalg.norm(first.weights - plain) / np.linalg.norm(plain - start))
            aware = bool(log) or record.bytes_up != sent
            if self.moved == 0 and not aware:
                self.broken("nothing differs from a federation without it: neither the model, nor bytes, nor a log")
        if not np.isfinite(weights).all():
            self.broken("the model is not finite after two rounds of gentle training")

    def _two_rounds(self, seed: int) -> tuple[np.ndarray | None, dict[str, float]]:
        try:
            history = self.federation(seed).run(2, evaluate_every=0)
        except FedprivError as e:
            self.broken(f"a small federation cannot train with it: {e}")
            return None, {}
        return history.weights, history.records[-1].metrics

    def repeats(self) -> None:
        """Same seed, same bits; and randomness that is declared."""
        if self.problems:
            return
        first, _ = self._two_rounds(self.seed)
        again = self._two_rounds(self.seed)[0]
        tff_draws = isinstance(self.defense, Aggregator)
        if first is None or again is None or tff_draws:
            return
        if first.tobytes() != again.tobytes():
            self.broken("the same seed gives other weights; draw from context.seed alone")
            return
        parts = self.defense.parts()
        if any(d.acts_at(Station.UPDATE) for d in parts):
            seeds = [tf.constant([a, b], tf.int64) for a, b in ((1, 2), (3, 4))]
            outs = [self._updated(np.linspace(-1, 1, _trained_on()[0].spec.size), s) for s in seeds]
            noises = [d.noise(self.federation(self.seed).plan) for d in parts]
            declared = [n for n in noises if n is not None and n.where == "update"]
            if not np.array_equal(outs[0], outs[1]) and not declared and self.defense.replayable:
                self.broken(
                    "its update station is random, but it says that it is replayable and declares no noise(plan)"
                )
            if declared and declared[0].distribution == "gaussian" and declared[0].scale:
                spread = float(np.std(outs[0] - outs[1]) / np.sqrt(2))
                # The sample deviation of d normals has a relative standard error of 1 / sqrt(2 d).
                if abs(spread / float(declared[0].scale) - 1) > 6 / np.sqrt(2 * _trained_on()[0].spec.size):
                    self.broken(
                        f"it declares normal noise of deviation {declared[0].scale:.4g} on updates, but adds "
                        f"{spread:.4g}"
                    )

    def _context(self, link: int, seed: Seed) -> Context:
        federation = self.federation(self.seed)
        part = federation.line.links[link]
        plan = federation.plan
        told = federation.line.broadcast_states(federation.line.initial_states())
        return Context(
            plan=plan,
            seed=seed,
            state=tf.nest.map_structure(tf.convert_to_tensor, told[link]),
            round=tf.constant(0),
            slot=tf.constant(0),
            own=tf.nest.map_structure(tf.convert_to_tensor, part.initial_client_state(plan)),
            away=tf.constant(-1),
            num_examples=tf.constant(4),
            model=federation.model,
            weights=tf.zeros([plan.spec.size], plan.spec.dtype),
        )

    def _updated(self, update: Flat, seed: Seed) -> np.ndarray:
        value = tf.cast(update, self.federation(self.seed).plan.spec.dtype)
        line = self.federation(self.seed).line
        for i in line.at(Station.UPDATE):
            out = passed(line.links[i].update(value, self._context(i, seed)), line.labels[i], "update")
            self._check_tallies(i, out.tally)
            value = out.value
        return np.asarray(value)

    def _check_tallies(self, i: int, tally: Mapping[str, Scalar | float]) -> None:
        line = self.federation(self.seed).line
        bounds = line.links[i].tallies(line.plan)
        for name, value in tally.items():
            if abs(float(value)) > bounds.get(name, np.inf) * (1 + SLACK):
                self.broken(f"tally '{name}' is {float(value):.4g}, beyond the bound {bounds[name]:g} that it declares")

    def bounds(self) -> None:
        """What `maps` states is kept; and zeros have a finite derivative."""
        line = self.federation(self.seed).line
        if self.problems or not line.at(Station.UPDATE):
            return
        d = line.plan.spec.size
        rng = np.random.default_rng(self.seed)
        seed = tf.constant([5, 6], tf.int64)
        for scale in (0.0, 1e-4, 1.0, 1e4):
            given = scale * rng.normal(size=d)
            norm = float(np.linalg.norm(self._updated(given, seed)))
            for known in (None, float(np.linalg.norm(given))):
                bound = self._mapped(known)
                if bound is not None and norm > bound * (1 + SLACK):
                    self.broken(
                        f"maps states a norm of at most {bound:.4g}, but an update of norm {scale * d**0.5:.3g} became "
                        f"one of {norm:.4g}"
                    )
        x = tf.zeros([d], line.plan.spec.dtype)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value: Any = x
            for i in line.at(Station.UPDATE):
                link = line.links[i].replay()
                if link is not None and link.acts_at(Station.UPDATE):
                    value = passed(link.update(value, self._context(i, seed)), line.labels[i], "update").value
            total = tf.reduce_sum(value)
        slope = tape.gradient(total, x)
        if slope is not None and not np.isfinite(np.asarray(slope)).all():
            self.broken("its replay has no finite derivative at an update of zeros, where attacks may start")

    def _mapped(self, known: float | None) -> float | None:
        now: Any = Real(known)
        line = self.federation(self.seed).line
        for i in line.at(Station.UPDATE):
            now = line.links[i].maps(now, line.plan)
        return now.l2 if isinstance(now, Real) else None

    def replays(self) -> float | None:
        """The replay at the truth against the observed update, where there is one."""
        exact = all(part.replayable for part in self.defense.parts())
        if self.problems or not exact or isinstance(self.defense, Aggregator):
            return None
        federation = self.federation(self.seed)
        tap = Tap(Adversary().knowing("defense"), clients=[0])
        _, record = federation.step(federation.start(), [tap], evaluate=False)
        single = [o for o in record.observations if o.view.kind == "update"]
        if not single:
            return None
        view, truth = single[0].view, single[0].truth
        assert view.observed is not None
        simulated = view.simulate(truth.x, truth.y).numpy()
        far = float(np.linalg.norm(simulated - view.observed)) / max(float(np.linalg.norm(view.observed)), 1e-30)
        if not far <= SLACK:
            self.broken(
                f"it says that it is replayable, but its replay at the truth is {far:.2g} away from the observed "
                "update, relative to that"
            )
        return far

    def epsilon(self) -> float | None:
        """Of one round, if it claims any."""
        ledger = self.federation(self.seed).ledger()
        try:
            return None if ledger is None else float(ledger.epsilon(1e-5, rounds=1).value)
        except FedprivError:
            return None


@functools.cache
def _trained_on() -> tuple[Model, Dataset]:
    """A logistic regression, and 24 images of 7 x 7."""
    data = fashion_small()[0]
    x = data.floats(slice(0, 24)).reshape(24, 7, 4, 7, 4, 1).mean((2, 4)).astype(np.float32)
    return logistic((7, 7, 1), 10), Dataset("fashion_7", x, data.y[:24], 10)


def _federation(stack: tuple[Defense, ...], seed: int, engine: str) -> Federation:
    """Six clients of four examples each, one full-batch step a round."""
    procedure = make_procedure(batch_size=None, weighting="uniform", client={"learning_rate": 0.5})
    sixes = Partition("sixes", tuple(np.split(np.arange(24), 6)))
    return Federation(*_trained_on(), sixes, procedure, stack, seed=seed, engine=engine)


@functools.cache
def _undefended(seed: int, engine: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Without a defense: the initial weights, those after a round, and the bytes that the clients send in it."""
    bare = _federation((), seed, engine)
    try:
        start = bare.start()
        first, record = bare.step(State(0, start.weights, start.server, start.defenses, start.clients), evaluate=False)
        return start.weights, first.weights, record.bytes_up
    finally:
        bare.close()
