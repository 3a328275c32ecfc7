"""What a cell's result depends on is in its key, field by field: change one and the cell runs again."""

import pydantic
import pytest

from fedpriv.experiment.experiment import Cell
from fedpriv.experiment.setting import Setting
from fedpriv.experiment.store import attack_job, training_job

BASE = {
    "data": "tests.experiment.toys:toy",
    "model": "logistic",
    "attack": "dlg",
    "defense": ["clip(norm=1)"],
    "training": {"rounds": 2, "clients": 6, "server": {"kind": "adam"}},
    "exposure": {"images": 4, "local_epochs": 2, "client": {"kind": "momentum"}},
}

#: Fields that no result depends on, and why.
FREE = {
    "workers": "results do not depend on what carries the cohorts",
    "worker_timeout": "likewise",
}

#: Another value of each field that a rule by type would not find.
OTHER = {
    "training.batch_selection": "poisson",
    "training.simulates": {"cohort": 20, "population": 400},
    "training.budget": "epsilon=2, delta=1e-6",
    "data": "tests.experiment.toys:by_class",
    "model": "mlp(hidden=[4])",
    "defense": ["clip(norm=2)"],
    "attack": "idlg",
    "goal": "labels",
    "control": "noise",
    "metrics": ["gap=fedpriv.metrics.image:mse"],
    "threshold_db": 20.0,
    "accountant": "pld",
    "on_nonfinite": "drop",
    "on_overflow": "abort",
    "on_abort": "stop",
    "engine": "tff",
    "training.partition": "dirichlet(alpha=1)",
    "training.clients": 5,
    "training.cohort": 3,
    "training.fraction": 0.5,
    "training.attrition": "bernoulli(rate=0.1)",
    "training.target_accuracy": 0.5,
    "training.batch_size": 3,
    "training.max_local_steps": 2,
    "training.weighting": "uniform",
    "training.client.kind": "momentum",
    "training.server.kind": "yogi",
    "training.sampling.kind": "poisson",
    "exposure.order": "file",
    "exposure.batch_size": 2,
    "exposure.max_local_steps": 2,
    "exposure.weighting": "examples",
    "exposure.adversary": "observer",
    "exposure.corrupted": [0],
    "exposure.knows": ["labels"],
    "exposure.blind": ["defense"],
    "exposure.client.kind": "adam",
    "exposure.images": 8,
    "exposure.rounds": 2,
    "exposure.clients": 2,
    "exposure.selection": "cyclic(size=1)",
    "exposure.attrition": "bernoulli(rate=0.1)",
    "exposure.server": {"learning_rate": 0.5},
    "training.topology": "gossip(graph=ring)",
    "exposure.topology": "gossip(graph=ring)",
    "exposure.same_label": 0,
    "exposure.batch": 2,
    "exposure.cohort": 2,
}

#: What must change with a field for its other value to make sense.
WITH = {
    "training.topology": {"exposure.topology": "server"},
    "exposure.topology": {"exposure.adversary": "neighbour(0)", "exposure.cohort": 2},
    "exposure.rounds": {"attack": "sum_difference(inner=dlg)"},
    "training.sampling.kind": {"training.sampling.rate": 0.5},
    "exposure.corrupted": {"exposure.adversary": "aggregators", "defense": ["secret_sharing(aggregators=3)"]},
}

#: Parameters of optimizers, samplings and schedules that the kind in use, or the server, does not have.
UNUSED = ("schedule.", "sampling.size", "sampling.rate", "sampling.strategy", "server.weight_decay")
#: Where files lie: the fingerprint of what is read there is in the key (tests of the runner change the data).
ELSEWHERE = ("data_dir",)


def leaves(model, value, path=""):
    for name in type(value).model_fields:
        inner, here = getattr(value, name), f"{path}{name}"
        if isinstance(inner, pydantic.BaseModel):
            yield from leaves(model, inner, f"{here}.")
        else:
            yield here, inner


def changed(path, value):
    made = {k: (dict(v) if isinstance(v, dict) else v) for k, v in BASE.items()}
    for where, new in {path: value, **WITH.get(path, {})}.items():
        *folders, last = where.split(".")
        inner = made
        for folder in folders:
            inner[folder] = dict(inner.get(folder, {}))
            inner = inner[folder]
        inner[last] = new
    return Setting.model_validate(made)


def keys(setting, seed=0):
    cell = Cell({}, setting, seed)
    return attack_job(cell).key, training_job(cell).key


PATHS = [
    (p, v) for p, v in leaves(Setting, Setting.model_validate(BASE)) if not any(u in p for u in (*UNUSED, *ELSEWHERE))
]


@pytest.mark.parametrize(("path", "value"), PATHS, ids=[p for p, _ in PATHS])
def test_every_field_is_in_the_key_or_named_as_free(path, value):
    if path in OTHER:
        other = OTHER[path]
    elif isinstance(value, bool):
        other = not value
    elif isinstance(value, int | float):
        other = type(value)(value + 1) if value >= 1 or value == 0 else value / 2
    else:
        other = {"workers": []}[path]
    before, after = keys(Setting.model_validate(BASE)), keys(changed(path, other))
    if path in FREE:
        assert after == before
    else:
        assert after[0] != before[0]
    if path.startswith("exposure.") and path not in WITH:
        assert after[1] == before[1]  # the training does not depend on what is attacked afterwards


def test_the_usual_policy_for_aborted_rounds_leaves_keys_as_they_were():
    assert not {"on_abort", "on_overflow"} & set(Setting.model_validate(BASE).training_identity())


def test_a_control_is_in_the_key_where_there_is_one_and_nowhere_else():
    base, ggl = Setting.model_validate(BASE), changed("attack", "ggl")
    assert keys(changed("control", "none")) == keys(base)
    assert "control" not in base.identity()
    assert ggl.identity()["control"] == "noise"
    asked = ggl.model_copy(update={"control": "noise"})
    assert keys(asked) == keys(ggl)
    without = ggl.model_copy(update={"control": "none"})
    assert without.identity() == {k: v for k, v in ggl.identity().items() if k != "control"}
    assert keys(without)[1] == keys(ggl)[1]


def test_the_seed_and_the_spelling():
    base = Setting.model_validate(BASE)
    assert keys(base, 1) != keys(base, 0)
    assert keys(changed("attack", "dlg()")) == keys(base)
    assert keys(changed("defense", "clip( norm = 1.0 )")) == keys(base)


def test_a_topology_is_in_the_key_however_it_is_written_and_a_server_is_as_it_was():
    base = Setting.model_validate(BASE)
    assert "topology" not in base.training.identity()
    assert "topology" not in base.exposure.identity()
    assert keys(changed("training.topology", "server")) == keys(base)
    written = changed("training.topology", "gossip(graph=ring)")
    assert keys(changed("training.topology", "gossip(protocol=d_psgd,graph=ring(),mixing=metropolis)")) == keys(written)
    with pytest.raises(pydantic.ValidationError, match="there is no 'server' in topology 'gossip"):
        Setting.model_validate({**BASE, "exposure": {"topology": "gossip(graph=ring)", "cohort": 2, "images": 2}})
    with pytest.raises(pydantic.ValidationError, match=r"'neighbour' in .*a server, or training.topology a gossip"):
        Setting.model_validate({**BASE, "exposure": {"cohort": 2, "images": 2, "adversary": "neighbour(0)"}})
    torus = {"topology": "gossip(graph=torus)", "cohort": 14, "images": 14, "adversary": "neighbour(0)"}
    with pytest.raises(pydantic.ValidationError, match=r"exposure.cohort: 14 peers make no torus"):
        Setting.model_validate({**BASE, "exposure": torus})
