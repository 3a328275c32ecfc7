"""Every option that gives a field of a setting names one there is, and says its default as the setting has it."""

import pytest

from fedpriv.base.errors import ParameterError
from fedpriv.cli import attack, train
from fedpriv.cli.attack import OPTIONS as ATTACK
from fedpriv.cli.mapped import Mapped, Written
from fedpriv.cli.train import OPTIONS as TRAIN
from fedpriv.experiment.setting import Setting

#: What a command does without being told otherwise, where that is not what a file does.
OWN = {"train": {"rounds", "model"}, "attack": {"images"}}


def at(setting, path):
    for part in path.split("."):
        setting = getattr(setting, part)
    return setting


def written(table, **values):
    return Written(table, {row.name: row.default for row in table} | values)


@pytest.mark.parametrize(("command", "table"), [("train", TRAIN), ("attack", ATTACK)])
def test_an_options_default_is_the_settings(command, table):
    plain = Setting(attack="dlg")
    given = written(table).setting({"attack": "dlg"})
    assert len(table) > 15
    for row in table:
        for path in row.paths:
            if row.name in OWN[command]:
                assert at(given, path) == row.default != at(plain, path)
            else:
                assert at(given, path) == at(plain, path), row.option


def test_an_option_reaches_its_fields():
    given = written(TRAIN, tau=0.5, batch_size=0, poisson=0.25, workers="a:1, b:2", engine="tff").setting({})
    assert (given.training.client.epsilon, given.training.server.epsilon) == (0.5, 0.5)
    assert given.training.batch_size is None
    assert given.training.procedure(10).sampling.rate == 0.25
    assert given.workers == ("a:1", "b:2")
    given = written(TRAIN, fraction=0.1).setting({"training.client": {"learning_rate": 0.7}})
    assert given.training.procedure(50).sampling.size == 5
    assert given.training.procedure(3).sampling.size == 1
    assert given.training.client.learning_rate == 0.7


@pytest.mark.parametrize(
    ("options", "rate"),
    [({}, 1.0), ({"local_steps": 5}, 0.1), ({"batch_size": 2}, 0.1), ({"local_steps": 5, "client_lr": 0.3}, 0.3)],
)
def test_the_attacked_clients_rate_is_the_files(options, rate):
    given = written(ATTACK, **options).setting({"attack": "dlg"})
    assert given.exposure.procedure().client.learning_rate == rate
    fields = {"local_steps": "local_epochs", "batch_size": "batch_size"}
    same = {fields[k]: v for k, v in options.items() if k in fields}
    if "client_lr" not in options:
        file = Setting.model_validate({"attack": "dlg", "exposure": same})
        assert file.exposure.procedure() == given.exposure.procedure()


def test_a_mistake_names_the_option_that_was_given():
    with pytest.raises(ParameterError, match=r"^--weighting: training\.weighting='unifrom' is unknown\. Did you mean"):
        written(TRAIN, weighting="unifrom").setting({})
    with pytest.raises(ParameterError, match=r"--beta-1: training\.client\.beta_1=2"):
        written(TRAIN, beta_1=2).setting({})
    with pytest.raises(ParameterError, match="--cohort and --fraction exclude each other"):
        written(TRAIN, cohort=2, fraction=0.5).exclusive("cohort", "fraction", "poisson")


def test_a_command_has_the_tables_options_and_its_own():
    import inspect

    for command, table in ((train.train, TRAIN), (attack.attack, ATTACK)):
        names = list(inspect.signature(command).parameters)
        assert len(names) == len(set(names))
        assert {row.name for row in table} | {"seed", "json_lines"} <= set(names)
    assert Mapped("client_lr", float, 0.1, ("x",)).option == "--client-lr"
