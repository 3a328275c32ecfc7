"""Components: what users may write, and what they are told when it is wrong."""

from __future__ import annotations

import pytest
import yaml
from fedpriv_attacks.inversion.inversion import Inversion
from fedpriv_attacks.parts.component import ROLES, Component, changed, create
from fedpriv_attacks.parts.objectives import Cosine, SquaredError
from fedpriv_attacks.parts.optimizers.first_order import SignedAdam
from fedpriv_attacks.parts.optimizers.lbfgs import LBFGS
from fedpriv_attacks.parts.priors import L2, TotalVariation

from fedpriv.base import registry
from fedpriv.base.errors import DataError, ParameterError
from fedpriv.threat.attack import Attack

PRESETS = [n for n in registry.attacks.names() if issubclass(registry.attacks.load(n), Inversion)]
COMPONENTS = [(role, name) for role, parts in registry.components().items() for name in parts.names()]


def test_a_component_may_be_written_in_four_ways():
    made = [
        create("objective", "cosine"),
        create("objective", {"kind": "cosine"}),
        create("objective", Cosine()),
        create("objective", "fedpriv_attacks.parts.objectives:Cosine"),
    ]
    assert all(m == Cosine() for m in made)
    assert len(set(made)) == 1


@pytest.mark.parametrize(
    ("role", "value", "says"),
    [
        ("objective", "cosin", "Did you mean 'cosine'"),
        ("objective", {"kind": "cosine", "per_layers": True}, "Did you mean 'per_layer'"),
        ("objective", {"per_layer": True}, "needs its 'kind'"),
        ("optimizer", "lbfgs(memory=0)", "memory"),
        ("prior", "total_variation(weight=-1)", "weight"),
        (
            "objective",
            "fedpriv_attacks.inversion.dlg:DLG",
            "must be, or return, a fedpriv_attacks.parts.component.Component",
        ),
    ],
)
def test_mistakes_are_named(role, value, says):
    with pytest.raises(ValueError, match=says):
        create(role, value)


def test_parameters_inside_parts_by_dots():
    made = registry.attacks.create(
        "inverting_gradients(optimizer.steps=50,priors.total_variation.weight=0.5,priors.0.power=2)"
    )
    assert made.optimizer == SignedAdam(steps=50, learning_rate=0.1)
    assert made.priors == (TotalVariation(weight=0.5, power=2, opponents="auto"),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dlg(optimizer.steps=5)", "'lbfgs' has no parameter 'steps'"),
        ("inverting_gradients(priors.l2.weight=5)", "'l2' is none of"),
        ("dlg(restarts.most=5)", "'restarts' has no parameters of its own"),
        ("dlg(optimiser.memory=5)", "Did you mean 'optimizer'"),
        ("dlg(constraint=box)", "cannot keep pixels in a box"),
        ("inversion(priors=[group_consistency])", "group=2"),
        ("dlg(target=1e-3,tolerance=1e-6)", "tolerance"),
    ],
)
def test_compositions_that_cannot_work_are_refused(text, says):
    with pytest.raises(ParameterError, match=says):
        registry.attacks.create(text)


def test_several_priors_one_or_none():
    parts = "[total_variation(weight=0.1),l2(weight=1)]"
    assert registry.attacks.create(f"inversion(priors={parts})").priors == (TotalVariation(weight=0.1), L2(weight=1))
    assert registry.attacks.create("inversion(priors=l2(weight=2))").priors == (L2(weight=2),)
    assert registry.attacks.create("inverting_gradients(priors=none)").priors == ()


def test_changed_replaces_one_parameter_and_keeps_the_rest():
    before = LBFGS(memory=7, max_evaluations=9)
    assert changed(before, "memory", 3) == LBFGS(memory=3, max_evaluations=9)
    assert before.memory == 7


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_file_that_gives_the_same_attack(name, tmp_path):
    made = registry.attacks.create(name)
    path = tmp_path / "attack.yaml"
    path.write_text(yaml.safe_dump(made.config()))
    again = registry.attacks.create(str(path))
    assert again == made
    assert type(again) is type(made)
    assert registry.attacks.create(str(path), restarts=3).restarts == 3


@pytest.mark.parametrize(
    ("content", "says"),
    [("restarts: 2", "needs a mapping with a 'name'"), ("- dlg", "needs a mapping"), ("name: [", "is not YAML")],
)
def test_files_that_are_no_attack_are_refused(content, says, tmp_path):
    path = tmp_path / "attack.yaml"
    path.write_text(content)
    with pytest.raises(DataError, match=says):
        registry.attacks.create(str(path))
    with pytest.raises(DataError, match="cannot be read"):
        registry.attacks.create(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_say_their_paper_and_what_they_need(name):
    kind = registry.attacks.load(name)
    assert kind.name == name
    assert kind.paper or name in ("inversion", "modern")
    assert kind().requirements() >= kind.needs


@pytest.mark.parametrize(("role", "name"), COMPONENTS)
def test_every_component_is_registered_under_its_kind_and_described(role, name):
    assert role in ROLES
    kind = registry.components()[role].load(name)
    assert issubclass(kind, Component)
    assert kind.kind == name
    assert len(kind.summary()) > 20


def test_a_component_is_described_as_it_would_be_written():
    assert SquaredError().describe() == "squared_error"
    assert TotalVariation(weight=0.5, power=2).describe() == "total_variation(weight=0.5,power=2)"
    made = create("prior", TotalVariation(weight=0.5, power=2).describe())
    assert made == TotalVariation(weight=0.5, power=2)


def test_requirements_are_those_of_all_parts():
    from fedpriv.threat.attack import Capability

    assert Capability.LABELS not in registry.attacks.create("dlg").requirements()
    assert Capability.LABELS in registry.attacks.create("dlg(labels=known)").requirements()
    assert Capability.PROCEDURE in registry.attacks.create("inversion").requirements()
    assert isinstance(registry.attacks.create("dlg"), Attack)
