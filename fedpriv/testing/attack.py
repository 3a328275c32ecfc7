"""check_attack: whether an attack works where it should, fails where it should, and keeps to its contract."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedpriv.base.errors import CapabilityError, CheckError, FedprivError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.registry import attacks
from fedpriv.base.types import Row
from fedpriv.models.model import Model
from fedpriv.models.tasks.regression import Regression
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.trial import isolated
from fedpriv.testing.case import CASES, OVER_ROUNDS, Case, own_case, pages_of
from fedpriv.testing.closeness import NOTHING, Closeness, blank, closeness, measure
from fedpriv.testing.references import holds
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.dossier import Dossier
from fedpriv.threat.observation import Episode, Observation
from fedpriv.threat.truth import Truth
from fedpriv.threat.view import View

#: Fraction of labels that must be found, and that who claims labels alone must not find in noise.
LABELS = 0.75


@dataclass(frozen=True)
class Checked:
    """What a check that passed has seen.

    Attributes:
      attack: as a user would write it.
      case: name of the case.
      found: how near each observation's finding came.
      blank: by observation, how near one comes who knows next to nothing (`closeness.blank`): PSNR in dB of examples
        of one value; of texts, the share of tokens in [0, 1].
      control: how near came what was found in noise in place of the update; zeros where the attack refused it.
      refused: by control and by thing taken away from the view, what the attack said, where it refused.
    """

    attack: str
    case: str
    found: tuple[Closeness, ...]
    blank: tuple[float, ...]
    control: Closeness
    refused: Mapping[str, str]


def check_attack(
    attack: Attack | type[Attack] | str,
    case: Case | Exposure | str | None = None,
    *,
    seed: int = 0,
    gain: float | None = None,
    labels: float = LABELS,
) -> Checked:
    """Checks that an attack keeps the promises of its kind; meant to be the body of a test.

    - It works: on each observation of a known case its examples are nearer to the truth than a blank image (texts: than
      one token repeated), and than the control, by `gain`; of the labels it finds the share `labels`. What the
      adversary knows anyhow is not judged.
    - It fails when it should: with noise, or nothing, in place of the update it finds neither. A finding there would
      be the attack's memory or its prior, not the update.
    - It refuses a view that lacks what it `needs`, with a CapabilityError. Taking away something that it does not
      declare leads to no other exception than a FedprivError.
    - The same seed gives the same finding, also after other views were attacked.
    - One graph serves many views: a second view gets the same finding from a graph traced for another as from its own.
    - It leaves the view as it was, and nothing that it holds leads to the truth.
    - The finding has the shapes and dtypes that `Finding` promises.
    - Its parameters are fixed once it is made, and `config()` gives it back.

    Args:
      attack: an attack, its class (made with its defaults), or a name as on the command line. Give it few steps.
      case: a case, an exposure of at least two trials, or a name from CASES; None takes the first of CASES that gives
        what the attack needs and that it does not refuse.
      seed: the attack's own seed.
      gain: in the measure of the examples' kind (`closeness.measure`); None is 3 dB, and for texts a quarter of the
        tokens.
      labels: a fraction.

    Raises:
      CheckError: names every promise that is broken.
      ParameterError: no such case, or no attack.
    """
    made = _made(attack)
    check = _Check(made, seed, gain, labels)
    chosen, first = check.choose(case)
    check.parameters()
    views = [o.held for o in chosen.observations]
    for number, observation in enumerate(chosen.observations):
        for name, thing in (("the attack", made), ("its view", observation.held)):
            if holds(thing, observation.truth.x):
                check.broken(f"{name} holds a reference to the truth of observation {number}")
    found = [check.finding(first, views[0], "observation 0")]
    for number, view in enumerate(views[1:], 1):
        found.append(check.finding(check.outcome(view), view, f"observation {number}"))
    check.repeats(views, found)
    labels_only = all(f is not None and f.x is None for f in found)
    control = check.controls(chosen.observations, labels_only)
    check.works(chosen.observations, found, control)
    check.lacking(views[0])
    check.report(chosen.name)
    near = tuple(closeness(f, o.truth) for f, o in zip(found, chosen.observations) if f is not None)
    blanks = tuple(blank(o.truth) for o in chosen.observations)
    return Checked(check.label, chosen.name, near, blanks, control, check.refused)


def _made(attack: Any) -> Attack:
    if isinstance(attack, str):
        attack = attacks.create(attack)
    if isinstance(attack, type) and issubclass(attack, Attack):
        try:
            return attack()
        except ValueError as e:
            raise ParameterError(
                f"attack '{attack.name or attack.__name__}' cannot be made without parameters ({e}); "
                "give check_attack one that is made"
            ) from e
    if isinstance(attack, Attack) and not set(attack.goals) & {"reconstruction", "labels"}:
        raise ParameterError(
            f"attack '{attack.name}' answers {' and '.join(attack.goals)}; check_attack knows cases of "
            "reconstruction and of labels alone"
        )
    if not isinstance(attack, Attack):
        raise ParameterError(f"check_attack takes an Attack, its class or its name, not {attack!r}")
    return attack


class _Check:
    """One check under way: runs the attack, and gathers what it breaks."""

    def __init__(self, attack: Attack, seed: int, gain: float | None, labels: float) -> None:
        self._attack, self._seed, self._gain, self._labels = attack, seed, gain, labels
        self.label = attack.name or type(attack).__name__
        self.problems: list[str] = []
        self.refused: dict[str, str] = {}

    def gain(self, truth: Truth) -> float:
        """By how much examples must be nearer than those of one who knows nothing."""
        return measure(truth.kind).gain if self._gain is None else self._gain

    def broken(self, problem: str) -> None:
        """Notes a broken promise, once."""
        if problem not in self.problems:
            self.problems.append(problem)

    def report(self, case: str) -> None:
        """Raises CheckError if anything is broken."""
        if self.problems:
            listed = "\n".join(f"  - {p}" for p in self.problems)
            raise CheckError(f"attack '{self.label}' fails its check on case '{case}':\n{listed}")

    def outcome(self, view: View | Dossier) -> Any:
        """The finding, or the exception, of one run; notes a view that was changed."""
        view = _each(_copied, view)  # what one run does to it must not reach the next
        before = _contents(view)
        try:
            return isolated(self._attack, view, self._seed)
        except Exception as e:
            return e
        finally:
            after = _contents(view)
            changed = [name for name in before if before[name] != after.get(name)]
            if changed:
                self.broken(f"it changes its view: {', '.join(changed)}; copy an array before writing to it")

    def choose(self, case: Case | Exposure | str | None) -> tuple[Case, Any]:
        """The case, and what the attack does on its first view."""
        if isinstance(case, str):
            case = own_case(case)
        elif isinstance(case, Exposure):
            case = Case.of(case)
        if case is not None:
            return case, self.outcome(case.observations[0].held)
        reasons = []
        for name in CASES:
            if (name in OVER_ROUNDS) != self._attack.remembers():
                continue
            candidate = own_case(name)
            view = candidate.observations[0].held
            missing = sorted(c.name for c in self._attack.requirements() - pages_of(view)[0].capabilities)
            if missing:
                reasons.append(f"  {name}: does not give {', '.join(missing)}")
                continue
            first = self.outcome(view)
            if not isinstance(first, FedprivError):
                return candidate, first
            reasons.append(f"  {name}: {first}")
        raise CheckError(
            f"attack '{self.label}' refuses every case of the kit, so it was not seen to work. If it is right to, give "
            "a case of its own: check_attack(attack, case=Exposure(model, data, trials=2)).\n" + "\n".join(reasons)
        )

    def parameters(self) -> None:
        """Frozen, and given back by `config()`."""
        if not self._attack.name:
            self.broken("it has no name; give the class `name: ClassVar[str]`")
        try:
            config = self._attack.config()
            json.dumps(config)
            again = type(self._attack)(**{k: v for k, v in config.items() if k != "name"})
        except (TypeError, ValueError) as e:
            self.broken(f"config() does not give it back: {e}")
        else:
            if again.config() != config:
                self.broken(f"made from its own config(), it is another: {again.config()} in place of {config}")
        name = next(iter(type(self._attack).model_fields), None)
        if name is not None:
            try:
                setattr(self._attack, name, getattr(self._attack, name))
            except (TypeError, ValueError):
                pass
            else:
                self.broken(f"its parameter '{name}' can be changed after it is made; keep `frozen=True`")

    def finding(self, outcome: Any, view: View | Dossier, where: str) -> Finding | None:
        """`outcome` if it is a finding in good form, else None, with the reason noted."""
        if isinstance(outcome, FedprivError):
            self.broken(f"it refuses {where}, on which it should work: {outcome}")
        elif isinstance(outcome, Exception):
            self.broken(f"on {where} it raises {type(outcome).__name__}: {outcome}")
        elif not isinstance(outcome, Finding):
            self.broken(f"it returns a {type(outcome).__name__}; return a fedpriv.threat.attack.Finding")
        else:
            wrong = _form(outcome, view)
            for problem in wrong:
                self.broken(problem)
            return None if wrong else outcome
        return None

    def repeats(self, views: Sequence[View | Dossier], found: list[Finding | None]) -> None:
        """The same seed gives the same, after other views and in a graph of the view's own."""
        if None in found:
            return
        again = self.outcome(views[0])
        for difference in _differences(found[0], again):
            self.broken(
                f"the same view and seed give another {difference} the second time; draw from the seed alone "
                "(fedpriv.base.seeds), and keep nothing of the views attacked before"
            )
        twin = _twin(pages_of(views[1])[0])
        alone = self.outcome(_each(lambda v: dataclasses.replace(v, model=twin), views[1]))
        for difference in _differences(found[1], alone):
            self.broken(
                f"after another view it gives another {difference} than in a graph of its own; nothing of one view, "
                "such as `view.observed`, may be a constant of a graph that serves others: give it as an argument"
            )

    def controls(self, observations: tuple[Observation | Episode, ...], labels_only: bool) -> Closeness:
        """Runs it where there is nothing to find; how near it came with noise in place of the update."""
        near, right = NOTHING, []
        for number, observation in enumerate(observations):
            view, truth = observation.held, observation.truth
            unseen = any(page.observed is None for page in pages_of(view))
            if unseen or (number and not labels_only):  # one label may be right by chance
                break
            spoiled = {"noise": _each(_noise, view)}
            if not number:
                spoiled["zeros"] = _each(lambda v: dataclasses.replace(v, observed=np.zeros_like(v.observed)), view)
                spoiled["not-a-number"] = _each(
                    lambda v: dataclasses.replace(v, observed=np.full_like(v.observed, np.nan)), view
                )
            for name, control in spoiled.items():
                outcome, came = self.outcome(control), NOTHING
                where = f"{name} in place of the update"
                if isinstance(outcome, FedprivError):
                    self.refused[name] = str(outcome)
                elif (found := self.finding(outcome, control, where)) is not None:
                    came = closeness(found, truth)
                gain, written = self.gain(truth), measure(truth.kind).written
                if came.examples is not None and came.examples >= blank(truth) + gain:
                    self.broken(
                        f"it finds the examples ({written(came.examples)}) with {where}: they come from elsewhere"
                    )
                if name == "noise":
                    near = near if number else came
                    right.append(came.labels or 0.0)
        if labels_only and right and np.mean(right) >= self._labels and _unlabelled(observations[0].held):
            self.broken(f"it finds {np.mean(right):.0%} of the labels with noise in place of the update")
        return near

    def works(
        self, observations: tuple[Observation | Episode, ...], found: list[Finding | None], control: Closeness
    ) -> None:
        """What was found is near the truth, and nearer than without the update."""
        judged = False
        right = []
        for number, (observation, finding) in enumerate(zip(observations, found)):
            if finding is None:
                return
            near = closeness(finding, observation.truth)
            if near.examples is not None:
                judged = True
                how, gain = measure(observation.truth.kind), self.gain(observation.truth)
                least = max(blank(observation.truth), control.examples or 0.0) + gain
                if near.examples < least:
                    self.broken(
                        f"on observation {number} its examples come to {how.written(near.examples)}; "
                        f"{how.written(least)} is {gain:g} above {how.blank} and above what it finds in noise. If it "
                        "needs more steps, give check_attack one with more; if it is made for something else, give it "
                        "a case"
                    )
            if near.labels is not None and _unlabelled(observation.held):
                judged = True
                right.append(near.labels)
        if right and np.mean(right) < self._labels:
            self.broken(f"it finds {np.mean(right):.0%} of the labels; {self._labels:.0%} are asked for")
        if not judged:
            self.broken("its findings claim nothing that the adversary does not know: neither examples nor labels")

    def lacking(self, view: View | Dossier) -> None:
        """Takes away what the view gives, one thing at a time."""
        needs = self._attack.requirements()
        for capability in sorted(pages_of(view)[0].capabilities, key=lambda c: c.name):
            if capability not in needs and capability not in _TRIED:
                continue
            outcome = self.outcome(_each(WITHOUT[capability], view))
            if isinstance(outcome, FedprivError):
                self.refused[capability.name] = str(outcome)
            if capability in needs and not isinstance(outcome, CapabilityError):
                what = f"{type(outcome).__name__}: {outcome}" if isinstance(outcome, Exception) else "a finding"
                self.broken(f"without {capability.name}, which it needs, it must raise a CapabilityError; got {what}")
            elif isinstance(outcome, Exception) and not isinstance(outcome, FedprivError):
                self.broken(
                    f"without {capability.name}, which it does not say it needs, it raises {type(outcome).__name__}: "
                    f"{outcome}; add it to `needs`"
                )


def _each(change: Callable[[View], View], held: View | Dossier) -> Any:
    """What an attack is given, with every view changed."""
    return Dossier(tuple(map(change, held.pages))) if isinstance(held, Dossier) else change(held)


def _unlabelled(held: View | Dossier) -> bool:
    return all(page.labels is None for page in pages_of(held))


def _half_hidden(view: View) -> View:
    visible = np.arange(view.model.spec.size) % 2 == 0
    observed = None if view.observed is None else np.where(visible, view.observed, 0).astype(view.observed.dtype)
    return dataclasses.replace(view, observed=observed, visible=visible)


def _unnamed_bias(view: View) -> View:
    spec = dataclasses.replace(view.model.spec, names=view.model.spec.names[:-1], shapes=view.model.spec.shapes[:-1])
    return dataclasses.replace(view, model=dataclasses.replace(view.model, spec=spec))


def _without_softmax(view: View) -> View:
    task = Regression(targets=view.model.num_classes)
    return dataclasses.replace(view, model=dataclasses.replace(view.model, task=task, num_classes=0))


def _two_steps(view: View) -> View:
    assert view.procedure is not None
    return dataclasses.replace(view, procedure=view.procedure.model_copy(update={"local_epochs": 2}))


#: A view without one of its capabilities.
WITHOUT: dict[Capability, Callable[[View], View]] = {
    Capability.REAL_UPDATE: lambda v: dataclasses.replace(v, kind="shares", observed=None),
    Capability.WHOLE_UPDATE: _half_hidden,
    Capability.SINGLE_CLIENT: lambda v: dataclasses.replace(v, kind="sum", clients=2),
    Capability.LABELS: lambda v: dataclasses.replace(v, labels=None),
    Capability.NUM_EXAMPLES: lambda v: dataclasses.replace(v, num_examples=None),
    Capability.PROCEDURE: lambda v: dataclasses.replace(v, procedure=None, client_rate=None),
    Capability.SINGLE_STEP: _two_steps,
    Capability.SOFTMAX: _without_softmax,
    Capability.CLASSIFIER_BIAS: _unnamed_bias,
    Capability.LAB: lambda v: dataclasses.replace(v, lab=None),
    Capability.BATCH_STATISTICS: lambda v: dataclasses.replace(
        v, batch_statistics=None, model=dataclasses.replace(v.model, sent=None)
    ),
    Capability.RUNNING_STATISTICS: lambda v: dataclasses.replace(
        v, model=dataclasses.replace(v.model, running=None, estimates=None)
    ),
    Capability.AUXILIARY: lambda v: dataclasses.replace(v, adversary=v.adversary.without("auxiliary")),
    Capability.GENERATOR: lambda v: dataclasses.replace(v, adversary=v.adversary.without("generator")),
}

#: Those that an adversary may lack while everything else stays true; an attack must be ready for it.
_TRIED = frozenset(
    {
        Capability.REAL_UPDATE,
        Capability.LABELS,
        Capability.NUM_EXAMPLES,
        Capability.PROCEDURE,
        Capability.BATCH_STATISTICS,
        Capability.AUXILIARY,
        Capability.GENERATOR,
    }
)


def _twin(view: View) -> Model:
    """The same model, which no compiled graph takes for it."""
    apply = view.model.apply
    return dataclasses.replace(
        view.model, apply=tf.autograph.experimental.do_not_convert(lambda *a, **k: apply(*a, **k))
    )


def _noise(view: View) -> View:
    """The view with normal noise of the same size, tensor by tensor, in place of all that came from the examples."""
    rng, spec = np.random.default_rng(0), view.model.spec
    parts = []
    for part in spec.unflatten_numpy(np.asarray(view.observed, np.float64)):
        noise = rng.normal(size=part.shape)
        parts.append(noise * np.linalg.norm(part) / max(float(np.linalg.norm(noise)), 1e-300))
    observed = spec.flatten_numpy(parts).astype(spec.dtype)
    statistics = view.batch_statistics
    if statistics is not None:
        assert view.model.moments is not None
        x = tf.constant(rng.uniform(size=(view.total_examples, *view.model.input_shape)), spec.dtype)
        moments = view.model.moments(spec.unflatten(tf.constant(view.weights, spec.dtype)), x)
        statistics = tuple((m.numpy(), v.numpy()) for m, v in moments)
    return dataclasses.replace(view, observed=observed, batch_statistics=statistics)


def _copied(view: View) -> View:
    """The view with arrays of its own."""

    def own(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value.copy()
        if isinstance(value, dict):
            return {k: own(v) for k, v in value.items()}
        return tuple(own(v) for v in value) if type(value) is tuple else value

    arrays = ("weights", "observed", "labels", "payloads", "states", "batch_statistics")
    return dataclasses.replace(view, **{name: own(getattr(view, name)) for name in arrays})


def _contents(view: View | Dossier) -> Row:
    """By field, the bytes of its arrays, or the identity of what is none."""
    if isinstance(view, Dossier):
        return {f"page {i}: {k}": v for i, page in enumerate(view.pages) for k, v in _contents(page).items()}

    def frozen(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value.shape, str(value.dtype), value.tobytes()
        if isinstance(value, dict):
            return tuple((k, frozen(v)) for k, v in value.items())
        if isinstance(value, tuple | list):
            return tuple(frozen(v) for v in value)
        return id(value)

    return {f.name: frozen(getattr(view, f.name)) for f in dataclasses.fields(view)}


def _claimed(x: object, y: np.ndarray) -> np.ndarray:
    """The labels but for the -1 of examples that were not found, whose rows are not-a-number."""
    if not isinstance(x, np.ndarray) or len(x) != len(y):
        return y
    missing = ~np.isfinite(x.reshape(len(x), -1)).any(axis=1)
    return y[~(missing & (y == -1))]


def _form(finding: Finding, held: View | Dossier) -> list[str]:
    """What is wrong with a finding's shapes and dtypes."""
    problems = []
    view = pages_of(held)[0]
    shape, classes = view.model.input_shape, view.model.num_classes
    x, y = finding.x, finding.y
    if x is not None:
        if not isinstance(x, np.ndarray) or x.dtype != np.float32:
            problems.append(f"x is {_kind(x)}; return a NumPy array of float32")
        elif x.shape[1:] != shape:
            problems.append(f"x has shape {list(x.shape)}; return [n, {', '.join(map(str, shape))}]")
    if y is not None:
        if not isinstance(y, np.ndarray) or y.dtype.kind not in "iu":
            problems.append(f"y is {_kind(y)}; return a NumPy array of integers")
        elif y.ndim != 1:
            problems.append(f"y has shape {list(y.shape)}; return [n]")
        elif len(y) and not (_claimed(x, y).min(initial=0) >= 0 and y.max() < classes):
            problems.append(f"y has labels from {y.min()} to {y.max()}, but there are {classes} classes, from 0")
    # Rows of not-a-number at the end stand for examples that were not found, and need no label.
    if not problems and x is not None and y is not None and len(y) not in (len(x), _found(x)):
        problems.append(f"x has {len(x)} examples, but y {len(y)} labels; give one each, in one order")
    if view.num_examples is not None and isinstance(held, View):
        n = view.total_examples
        problems += [
            f"{name} has {len(a)} rows, but {n} examples are behind the view; fill up with not-a-number, or leave out"
            for name, a in (("x", x),)
            if isinstance(a, np.ndarray) and len(a) > n
        ]
    for name, least in (("evaluations", 0), ("restarts", 1)):
        value = getattr(finding, name)
        if not isinstance(value, int | np.integer) or value < least:
            problems.append(f"{name} is {value!r}; give a whole number, at least {least}")
    for name in ("seconds", "compile_seconds"):
        value = getattr(finding, name)
        if not (isinstance(value, float | int) and math.isfinite(value) and value >= 0):
            problems.append(f"{name} is {value!r}; give seconds of wall-clock")
    history, path = finding.history, finding.path
    if history is not None and (not isinstance(history, np.ndarray) or history.ndim != 2 or history.shape[1] != 2):
        problems.append("history is not [k, 2] of (evaluations so far, objective)")
    elif path is not None and (history is None or x is None or path.shape != (len(history), *x.shape)):
        problems.append(f"path has shape {list(path.shape)}; return [k, n, *input_shape], one entry a row of history")
    return problems


def _found(x: np.ndarray) -> int:
    """How many examples come before the first that is not finite."""
    missing = ~np.isfinite(x.reshape(len(x), -1)).all(1)
    return int(np.argmax(missing)) if missing.any() else len(x)


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}" + (f" of {value.dtype}" if isinstance(value, np.ndarray) else "")


def _differences(one: Finding | None, other: Any) -> list[str]:
    """The first thing in which two runs differ, cost in seconds aside; empty if they agree."""
    if not isinstance(other, Finding) or one is None:
        return [f"outcome ({type(other).__name__})"]
    for name in ("x", "y", "objective", "evaluations", "restarts"):
        a, b = getattr(one, name), getattr(other, name)
        same = (a is None) == (b is None) and (a is None or np.array_equal(a, b, equal_nan=name in ("x", "objective")))
        if not same:
            return [name]
    return []
