"""Experiment files: what they make, and how mistakes in them are answered."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.base import registry
from fedpriv.base.errors import ExperimentError
from fedpriv.experiment.document import Document
from fedpriv.experiment.experiment import load, resolve, schema
from fedpriv.experiment.store import attack_job, training_job


def test_cells_are_the_product_of_axes_and_seeds(write):
    experiment = load(write())
    assert len(experiment.cells) == 2 * 2 * 2
    assert [c.seed for c in experiment.cells[:2]] == [0, 1]
    first, last = experiment.cells[0], experiment.cells[-1]
    assert dict(first.labels) == {"attack": "first layer", "defense": "none"}
    assert (first.setting.attack, first.setting.defense) == ("first_layer", ())
    assert last.setting.defense == ("clip(norm=0.01)",)
    assert last.setting.training.rounds == 2


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True),
    st.lists(st.integers(1, 5), min_size=1, max_size=3, unique=True),
    st.integers(1, 3),
)
def test_any_grid_has_as_many_cells_as_it_says_and_no_two_alike(rounds, epochs, seeds):
    grid = {"training.rounds": rounds, "training.local_epochs": epochs}
    experiment = resolve(Document({"name": "a", "grid": grid, "seeds": seeds}))
    assert len(experiment.cells) == len(rounds) * len(epochs) * seeds
    assert len({training_job(c).key for c in experiment.cells}) == len(experiment.cells)


def test_axes_of_ones_own_and_exclusion(write):
    grid = {
        "attack": ["dlg", "idlg"],
        "how": {"plain": {}, "long": {"training.rounds": 5, "exposure": {"images": 4, "batch": 2}}},
    }
    experiment = load(write(grid=grid, exclude=[{"attack": "idlg", "how": ["long"]}], seeds=[7]))
    assert [tuple(c.labels.values()) for c in experiment.cells] == [
        ("dlg", "plain"),
        ("dlg", "long"),
        ("idlg", "plain"),
    ]
    assert experiment.cells[1].setting.training.rounds == 5
    assert experiment.cells[1].setting.exposure.batch == 2
    assert {c.seed for c in experiment.cells} == {7}


def test_shortcuts_stand_for_values_and_for_each_other(write):
    define = {
        "defense": {"weak": "local_dp(clip=1,noise_multiplier=0.001)", "both": ["clip(norm=1)", "weak"]},
        "attack": {"modern": "modern", "quick": "dlg(restarts=1)"},
    }
    grid = {"defense": ["weak", "both", "none"], "attack": ["modern", "quick"]}
    experiment = load(write(define=define, grid=grid, seeds=1))
    of = {tuple(c.labels.values()): c.setting for c in experiment.cells}
    assert of["both", "quick"].defense == ("clip(norm=1)", "local_dp(clip=1,noise_multiplier=0.001)")
    assert of["both", "quick"].attack == "dlg(restarts=1)"
    assert of["none", "modern"].defense == ()


def test_overrides_and_the_quick_size(write):
    path = write(quick={"seeds": 1, "setting": {"training": {"rounds": 1}}, "grid": {"attack": ["dlg"]}})
    quick = load(path, quick=True)
    assert len(quick.cells) == 2
    assert quick.cells[0].setting.training.rounds == 1
    assert quick.cells[0].setting.training.clients == 6
    assert len(load(path).cells) == 8
    changed = load(path, ["training.rounds=9", "grid.exposure.images=[1,2,3]", "seeds=[4]"])
    assert len(changed.cells) == 12
    assert changed.cells[0].setting.training.rounds == 9
    assert "quick" not in yaml.safe_load(changed.text())
    again = resolve(Document(yaml.safe_load(changed.text())))
    assert again.cells == changed.cells


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("setting.exposre.images=1", "there is no 'exposre'. Did you mean 'exposure'"),
        ("training.roundz=1", "there is no 'training.roundz'. Did you mean 'rounds'"),
        ("setting.model=logistik", "no model is named 'logistik'. Did you mean 'logistic'"),
        ("setting.engine=tf", "no engine is named 'tf'. Did you mean 'tff'"),
        ("grid.defense=[clipp]", "no defense is named 'clipp'. Did you mean 'clip'"),
        ("grid.defense=[clip]", "needs a value for norm"),
        ("grid.attack=[dgl]", "no attack is named 'dgl'"),
        ("training.rounds=-1", "training.rounds=-1: Input should be greater than or equal to 0"),
        ("grid.exposure.batch=[]", "axis 'exposure.batch' is empty"),
        ("grid.exposure.batsch=[1]", "no field 'exposure.batsch'. Did you mean 'batch'"),
        ("grid.how={a: {training.round: 1}}", "no field 'training.round'. Did you mean 'rounds'"),
        ("grid.attack=[dlg, dlg]", "has 'dlg' twice"),
        ("grid.attack={blind: {attack: dlg, exposure.knows_defence: false}}", "Did you mean 'knows_defense'"),
        ("exposure.batch=3", "images=2 is no multiple of batch=3 x cohort=1; try 3"),
        ("exposure.adversary=sever", "adversary position 'sever' is unknown. Did you mean 'server'"),
        ("exposure.knows=label", "cannot know 'label'"),
        ("seeds=[]", "at least one"),
        ("seeds=[1, 1]", "each once"),
        ("seeds=0", "seeds=0: it is neither how many, from 1, nor a list"),
        ("sed=1", "there is no 'sed'. Did you mean 'seeds'"),
        ("name=A b", "names a folder"),
        ("exclude=[{atack: R-GAP}]", "no axis 'atack'. Did you mean 'attack'"),
        ("exclude=[{attack: r-gap}]", "has no 'r-gap'. Did you mean 'R-GAP'"),
        ("exclude=[{defense: [none, clip]}]", "leaves no cell"),
        ("define={defense: {a: b, b: a}}", "shortcuts in a circle: a -> b -> a"),
        ("define={defence: {a: b}}", "not 'defence'. Did you mean 'defense'"),
        ("workers=[a:1]", "workers are for engine 'tff'"),
        ("training.cohort=3", "cohort and sampling exclude each other"),
        ("training.rounds", "is no path=value"),
        ("training.rounds=[", "is not YAML"),
    ],
)
def test_mistakes_are_answered_with_the_way_out(write, content, override, says):
    if override.startswith("training.cohort"):
        content["setting"]["training"]["sampling"] = {"kind": "full"}
    with pytest.raises(ExperimentError) as caught:
        load(write(**{"setting": content["setting"]}), [override])
    assert says in str(caught.value)


def test_a_misspelt_shortcut_is_told_from_a_misspelt_attack(write):
    path = write(define={"attack": {"DLG, hard": "dlg(restarts=2)"}})
    with pytest.raises(ExperimentError, match=r"no shortcut 'DLG, had'\. Did you mean 'DLG, hard'"):
        load(path, ["grid.attack=['DLG, had']"])
    with pytest.raises(ExperimentError, match=r"no attack is named 'dagerr'\. Did you mean 'dager'"):
        load(path, ["grid.attack=[dagerr]"])


def test_mistakes_in_the_file_are_named_with_their_line(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text("name: e\nsetting:\n  model: lenet\n  attack: dlg\n  trainin:\n    rounds: 1\n")
    with pytest.raises(ExperimentError, match=r"e.yaml, line 5: there is no 'trainin'"):
        load(path)
    path.write_text("name: e\nsetting:\n  attack: dlg\ngrid:\n  model:\n    - lenet\n    - lenet5\n")
    with pytest.raises(ExperimentError, match=r"e.yaml, line 7: no model is named 'lenet5'"):
        load(path)
    path.write_text("setting:\n  attack: dlg\n")
    with pytest.raises(ExperimentError, match="'name' is missing"):
        load(path)
    path.write_text("name: e\n")
    with pytest.raises(ExperimentError, match="nothing to do"):
        load(path)


def test_a_cells_identity_is_what_its_result_depends_on_and_nothing_else(write):
    def keys(*overrides):
        experiment = load(write(), ["grid.attack=[dlg]", "grid.defense=[clip(norm=1)]", "seeds=1", *overrides])
        (cell,) = experiment.cells
        return training_job(cell).key, attack_job(cell).key

    same = keys()
    assert keys("grid.attack={other name: dlg()}") == same
    assert keys("grid.defense=[clip(norm=1.0)]") == same
    assert keys("worker_timeout=5") == same
    assert keys("keep_images=3") == same
    for change in ("training.rounds=3", "grid.defense=[clip(norm=2)]", "model=2nn", "seeds=[1]"):
        assert not set(keys(change)) & set(same), change
    for change in ("grid.attack=[dlg(restarts=3)]", "exposure.images=4", "threshold_db=20"):
        assert keys(change)[0] == same[0], change  # the training is shared
        assert keys(change)[1] != same[1], change
    assert keys("training.defended=false", "grid.defense=[clip(norm=2)]")[0] == keys("training.defended=false")[0]


def test_changed_data_is_another_cell(write, tmp_path):
    import numpy as np

    from fedpriv.experiment.assembly import datasets

    x = np.random.default_rng(0).random((60, 4, 4, 1)).astype(np.float32)
    keys = set()
    for images in (x, 1 - x, x):
        np.savez(tmp_path / "d.npz", x=images, y=np.arange(60) % 3)
        datasets.cache_clear()
        keys.add(attack_job(load(write(), [f"data={tmp_path / 'd.npz'}"]).cells[0]).key)
    assert len(keys) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.experiments.names())
@pytest.mark.parametrize("quick", [False, True])
def test_shipped_experiments_are_valid(name, quick):
    import jsonschema

    path = registry.experiments.load(name)
    experiment = load(path, quick=quick)
    assert experiment.name == name
    assert experiment.contents.question
    assert experiment.contents.title
    jsonschema.validate(yaml.safe_load(path.read_text()), json.loads(json.dumps(schema())))


def test_the_schema_refuses_what_the_reader_refuses(content):
    import jsonschema

    jsonschema.validate(content, schema())
    for wrong in ({"sed": 1}, {"setting": {"modl": "cnn"}}, {"seeds": 0}, {"setting": {"training": {"rounds": -1}}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**content, **wrong}, schema())


def test_labels_that_are_numbers_make_an_axis_of_numbers(write):
    """YAML takes 1e-3 for text and a mapping's keys come as text; both are numbers in figures."""
    path = write(
        grid={
            "noise": {z: {"defense": f"local_dp(clip=1,noise_multiplier={z})"} for z in ("1e-3", "0.1", "2")},
            "delta": ["1e-5", "1e-6"],
        },
        setting={**load(write()).source["setting"], "attack": "labels"},
    )
    noise, delta = load(path).axes
    assert [o.label for o in noise.options] == [0.001, 0.1, 2]
    assert [o.label for o in delta.options] == [1e-5, 1e-6]
    assert [type(o.label) for o in noise.options] == [float, float, int]


def test_a_fields_own_axis_may_change_other_fields_too(write):
    """A label of `attack` that also says what the attacker knows, beside one that is an attack alone."""
    blind = {"attack": "dlg", "exposure.knows_defense": False}
    path = write(grid={"attack": {"blind": blind, "not": "dlg"}})
    found = {c.labels["attack"]: (c.setting.attack, c.setting.exposure.knows_defense) for c in load(path).cells}
    assert found == {"blind": ("dlg", False), "not": ("dlg", True)}
