"""Every parameter is described once, and the page, `show` and the schemas all have that description."""

from pathlib import Path

import pytest

from fedpriv.base.plugin import described, file_schema
from fedpriv.cli.listing import parameters, registries
from fedpriv.cli.reference import page
from fedpriv.experiment.experiment import schema

PAGE = Path(__file__).parents[2] / "docs" / "reference.md"
NAMES = [(kind, name) for kind, reg in registries().items() if kind != "experiments" for name in reg.names()]


def test_the_page_in_the_repository_is_the_one_that_is_printed(run):
    status, out, _ = run("reference")
    assert status == 0
    assert out == page()
    assert PAGE.read_text() == out, "renew it: uv run fedpriv reference > docs/reference.md"


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_every_parameter_of_what_ships_is_described(kind, name):
    rows = parameters(registries()[kind].load(name))
    assert [parameter for parameter, _, text in rows if not text] == []


@pytest.mark.parametrize("name", registries()["defenses"].names())
def test_a_defenses_schema_has_the_descriptions_that_show_has(name):
    target = registries()["defenses"].load(name)
    properties = file_schema(target, name)["properties"]
    for parameter, text in described(target).items():
        assert text.split(".")[0].strip() in properties[parameter]["description"]
    assert set(described(target)) == set(target.model_fields)


def test_an_experiments_schema_describes_its_fields():
    made = schema()
    for model in ("Setting", "Training", "Exposed", "Optimizer"):
        for name, about in made["$defs"][model]["properties"].items():
            assert about.get("description"), f"{model}.{name}"
    assert all(about.get("description") for about in made["properties"].values())
