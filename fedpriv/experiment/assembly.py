"""Assembly: from a setting's values to what they name: data, model, federation, the rounds attacked.

Every command, and every cell of a grid, is made here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from fedpriv.base.errors import ParameterError
from fedpriv.base.seeds import Purpose, generator
from fedpriv.base.types import Row
from fedpriv.defense.noise import leaves_noise_open
from fedpriv.defense.stations import labels
from fedpriv.experiment.setting import Setting
from fedpriv.threat.goal import Goal

if TYPE_CHECKING:
    from fedpriv.account.phase import Phase
    from fedpriv.data.dataset import Dataset
    from fedpriv.defense.stations import Defense
    from fedpriv.federation.federation import Federation
    from fedpriv.models.loading import Facts
    from fedpriv.models.model import Model
    from fedpriv.rounds.stage import Stage

#: K, where neither the setting nor natural keys say it.
DEFAULT_CLIENTS = 100


@lru_cache(maxsize=4)
def datasets(data: str, data_dir: str | None) -> tuple[Dataset, Dataset | None]:
    """Training and test set; kept, since cells share them."""
    from fedpriv.data import load

    return load(data, data_dir=data_dir)


@lru_cache(maxsize=4)
def _model(text: str, facts: Facts) -> Model:
    """Kept, so that attacks compiled for it serve the next cell as well."""
    from fedpriv.models import load

    return load(text, facts)


def make_model(setting: Setting) -> Model:
    """The model, for the setting's data."""
    from fedpriv.models.loading import Facts

    training, _ = datasets(setting.data, setting.data_dir)
    return _model(setting.model, Facts.of(training))


def fingerprint(setting: Setting) -> str:
    """Of the data, training and test set."""
    train, test = datasets(setting.data, setting.data_dir)
    return train.fingerprint + (test.fingerprint if test is not None else "")


def make_federation(
    setting: Setting, seed: int | None, earlier: Sequence[Phase] = (), dealt_by: int | None = None
) -> Federation:
    """The federation of `setting.training`.

    Args:
      setting: the values.
      seed: fixes every draw, the partition included. None draws 128 bits from the operating system; the partition is
        then that of seed 0, so that a run can be resumed and others compared with it.
      earlier: what training on the same clients' data before it has spent.
      dealt_by: seed of the partition alone, where it is another.

    Raises:
      FedprivError: something does not fit together. What needs no TensorFlow is checked first.
    """
    from fedpriv.data import make_partition

    how = setting.training
    if how.defended:
        check_noise(setting)
    training, test = datasets(setting.data, setting.data_dir)
    clients = how.clients
    if clients is None and not how.partition.startswith("natural"):
        clients = DEFAULT_CLIENTS
    parts = make_partition(how.partition, training, clients, (seed or 0) if dealt_by is None else dealt_by)
    procedure = how.procedure(len(parts))

    from fedpriv.federation.federation import Federation

    return Federation(
        model=make_model(setting),
        train=training,
        partition=parts,
        procedure=procedure,
        defenses=setting.made_defenses() if how.defended else (),
        test=test,
        seed=seed,
        engine=setting.engine,
        engine_options=setting.engine_options(),
        on_nonfinite=setting.on_nonfinite,
        on_overflow=setting.on_overflow,
        on_abort=setting.on_abort,
        rounds=how.rounds,
        accountant=setting.accountant,
        attrition=how.made_attrition(),
        secure_rng=setting.secure_rng,
        budget=how.budget,
        earlier=tuple(earlier),
        topology=how.topology,
    )


def check_noise(setting: Setting) -> None:
    """Raises ParameterError where a defense leaves its noise to a budget and there is none."""
    made = setting.made_defenses()
    unset = [label for label, defense in zip(labels(made), made, strict=True) if leaves_noise_open(defense)]
    if unset and setting.training.budget is None:
        budget = ", or a budget that it is set by, such as --budget 'epsilon=2, delta=1e-6'"
        alone = "; `fedpriv budget` finds one for an epsilon"
        raise ParameterError(
            f"{unset[0]} says not how much noise it adds; give noise_multiplier"
            f"{budget if setting.training.rounds else alone}"
        )


def exposed_defenses(setting: Setting, seed: int) -> tuple[Defense, ...]:
    """The defenses of the rounds attacked: those of the training, with the noise that its budget sets."""
    made = setting.made_defenses()
    if setting.training.budget is None or not any(map(leaves_noise_open, made)):
        return tuple(made)
    return make_federation(setting, seed).defenses


def attacked_data(setting: Setting) -> tuple[Dataset, bool]:
    """The examples that are attacked, and whether they are held out.

    These are the test set, or, where that is missing or smaller than `exposure.images` and `exposure.auxiliary`, the
    training set.
    """
    training, test = datasets(setting.data, setting.data_dir)
    held_out = test is not None and len(test) >= setting.exposure.images + setting.exposure.auxiliary
    return (test, True) if test is not None and held_out else (training, False)


def make_stage(setting: Setting, seed: int, weights: np.ndarray | None = None, images: int | None = None) -> Stage:
    """The rounds of `setting.exposure`, with the questions of the setting's goal.

    Args:
      setting: the values, an attack among them.
      seed: of rounds and questions.
      weights: `[d]` of the model that is attacked; None draws fresh ones for every trial.
      images: seed that draws which examples are attacked, where `exposure.order` is `mixed`; None is `seed`.

    Raises:
      FedprivError: something does not fit together.
    """
    goal, how = setting.made_goal(), setting.exposure
    assert goal is not None
    check_noise(setting)
    data, held_out = attacked_data(setting)
    goal.check(data.input_shape)
    if how.order == "mixed":
        drawn = generator(seed if images is None else images, Purpose.IMAGES)
        data = data.take(drawn.permutation(len(data)))
    if how.same_label is not None:
        data = data.take(with_same_label(data, how.batch, how.images // how.batch, how.same_label))

    from fedpriv.rounds.exposure import Exposure
    from fedpriv.rounds.stage import stage

    exposure = Exposure(
        model=make_model(setting),
        data=data,
        trials=how.trials,
        batch=how.batch,
        cohort=how.cohort,
        procedure=how.procedure(getattr(setting.made_attacked_topology(), "serverless", False)),
        topology=setting.made_attacked_topology() or "server",
        defenses=exposed_defenses(setting, seed),
        adversary=how.position(),
        seed=seed,
        weights=weights,
        engine=setting.engine,
        engine_options=setting.engine_options(),
        rounds=how.rounds,
        clients=how.clients,
        selection=how.selection,
        attrition=how.made_attrition(),
    )
    trained = weights is not None
    members = datasets(setting.data, setting.data_dir)[0] if trained and held_out else None
    outsiders = held_out or not trained
    return stage(
        exposure,
        goal,
        seed=seed,
        auxiliary=how.auxiliary,
        members=members,
        outsiders=outsiders,
        images=images,
    )


def with_same_label(data: Dataset, batch: int, clients: int, count: int) -> np.ndarray:
    """An order of the examples in which so many of each batch have one label, and the others one each.

    Args:
      data: in the order in which examples are taken as far as labels allow.
      batch: examples a client.
      clients: how many batches are made, one after the other.
      count: how many have one label together; 0 for none.

    Returns:
      `[n]` indices, the batches first, then all that are left, in their order.

    Raises:
      ParameterError: the data has no classes, too few of them, or too few examples of one.
    """
    kinds = batch - count + (count > 0)
    if not data.num_classes or data.y.ndim != 1:
        raise ParameterError(f"same_label={count}: the targets of '{data.name}' are no classes; leave it out")
    there = len(np.unique(data.y))
    if kinds > there:
        raise ParameterError(
            f"same_label={count} of batch={batch} takes {kinds} labels a batch, but '{data.name}' has {there}; take a "
            f"smaller batch, or let at least {batch - there + 1} share one"
        )
    waiting = {int(c): list(np.flatnonzero(data.y == c)) for c in np.unique(data.y)}
    order: list[int] = []
    for _ in range(clients):
        chosen: list[int] = []
        # The label that is shared is that of the example whose turn it is, where enough of it are left.
        turn = sorted((c for c in waiting if len(waiting[c]) >= max(count, 1)), key=lambda c: waiting[c][0])
        if count and turn:
            chosen += [waiting[turn[0]].pop(0) for _ in range(count)]
        used = {int(data.y[i]) for i in chosen}
        others = sorted((c for c in waiting if waiting[c] and c not in used), key=lambda c: waiting[c][0])
        chosen += [waiting[c].pop(0) for c in others[: batch - count]]
        if len(chosen) < batch:
            raise ParameterError(
                f"same_label={count}: '{data.name}' has too few examples of its classes for {clients} batches of "
                f"{batch}; attack fewer images"
            )
        order += sorted(chosen)
    rest = np.setdiff1d(np.arange(len(data.y)), order)
    return np.concatenate([np.array(order, np.int64), rest])


def threat_line(setting: Setting, staged: Stage) -> str:
    """Who attacks, what it holds, and whether the claims of the training's defenses are about somebody like it."""
    made = setting.made_attack()
    said = setting.exposure.threat(made.brings() if made is not None else ())
    adversary, federation = staged.exposure.adversary, staged.exposure.federation
    if "defense" in adversary.knows:
        added = [(d.name, n) for d in federation.line.links if (n := d.noise(federation.plan)) is not None]
        sizes = [
            f"{n.distribution}, standard deviation {n.scale:.3g}, at '{n.where}' ({of})" for of, n in added if n.scale
        ]
        if sizes:
            said += f" It knows the noise's size: {'; '.join(sizes)}."
    told = adversary.at.sees_only_released and "num_examples" in adversary.knows
    secret = any("cohort sizes stay unpublished" in claim.checks for claim in federation.line.claims())
    if told and secret and not setting.training.sampling.equal_cohorts:
        said += (
            " It knows the size of cohorts and how many examples each client has, which the defenses' claims take for "
            "unpublished: their epsilon is no bound on it. Give it blind=[num_examples] for one that it bounds."
        )
    return said


def describe_images(setting: Setting, staged: Stage, seed: int) -> Row:
    """Which examples a stage attacks.

    Args:
      setting: the values it was made of.
      staged: the rounds.
      seed: that drew them.

    Returns:
      `held_out`: whether they are the test set's; `classes`: how many of each class; `attacked`: both in a sentence;
      `images_of`: alike in cells that draw from the same examples in the same way.
    """
    whole, held_out = attacked_data(setting)
    data = staged.exposure.data
    source = f"the {'test' if held_out else 'training'} set of '{data.name}'"
    few = "" if held_out else " (there is no test set of that size)"
    how = f"drawn by seed {seed}" if setting.exposure.order == "mixed" else f"the first of its {len(whole)}"
    classes: dict[str, int] = {}
    if data.num_classes and data.y.ndim == 1:
        for label, count in zip(*np.unique(data.y, return_counts=True), strict=True):
            name = data.class_names[label] if data.class_names else f"class {label}"
            classes[str(name)] = int(count)
    listed = ", ".join(f"{count} {name}" for name, count in classes.items())
    what = listed if 0 < len(classes) <= 10 else f"{len(classes)} classes" if classes else ""
    pool = f"{setting.exposure.order} of {whole.fingerprint}"
    if type(staged.goal).arrange is not Goal.arrange:  # it chooses among them
        pool += f" by {staged.goal.config()}"
    attack, exposed = setting.made_attack(), setting.exposure
    partial = exposed.attrition != "none" or exposed.population > exposed.cohort
    if partial and attack is not None and not attack.remembers():
        # Who is in a view differs, and with it which image has which number: nothing to pair with.
        pool += f" of whom {setting.identity()}"
    if exposed.same_label is not None:
        pool += f" with {exposed.same_label} of {exposed.batch} alike"
        alike = f"{exposed.same_label} of each {exposed.batch} share a label" if exposed.same_label else "no two alike"
        how += f" so that of a client's labels {alike}"
    said = f"Attacked: {setting.exposure.images} examples of {source}{few}, {how}{': ' + what if what else ''}."
    return {"held_out": held_out, "classes": classes, "attacked": said, "images_of": pool}
