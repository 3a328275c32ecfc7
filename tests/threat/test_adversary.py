"""An adversary is written one way: what is parsed prints back, and what is wrong is named."""

import pickle

import pytest

from fedpriv.base.errors import FedprivError, ParameterError
from fedpriv.experiment.setting import Exposed
from fedpriv.threat.acts import Plant
from fedpriv.threat.adversary import USUAL, Adversary
from fedpriv.threat.knowledge import Auxiliary, Generator, Labels
from fedpriv.threat.position import Aggregators, OtherClient, Server

#: As written, and as printed.
WRITTEN = {
    "server": "server",
    " server( ) ": "server",
    "server(identified=false)": "server(identified=false)",
    "observer": "observer",
    "eavesdropper(persistent=true)": "eavesdropper(persistent=true)",
    "aggregators(0,1)": "aggregators(0,1)",
    "aggregators(members=[0,1])": "aggregators(0,1)",
    "client(3)": "client(3)",
    "server(knows=labels)": "server(knows=[labels])",
    "server(knows=[num_examples])": "server",
    "server(knows=[labels,auxiliary(data=mnist,examples=1000)],blind=[defense])": (
        "server(knows=[auxiliary(mnist,examples=1000),labels],blind=[defense])"
    ),
    "aggregators(0,knows=[generator(fashion)])": "aggregators(0,knows=[generator(fashion)])",
    "server(blind=[procedure,defense,num_examples])": "server(blind=[defense,num_examples,procedure])",
    "server(acts=[plant(weights=a.npy,clients=[1,2],rounds=[0])])": (
        "server(acts=[plant(weights=a.npy,clients=[1,2],rounds=[0])])"
    ),
    "server(knows=none)": "server",
}


@pytest.mark.parametrize("text", WRITTEN)
def test_what_is_parsed_prints_back(text):
    adversary = Adversary.parse(text)
    assert str(adversary) == WRITTEN[text]
    again = Adversary.parse(str(adversary))
    assert again == adversary
    assert hash(again) == hash(adversary)
    assert pickle.loads(pickle.dumps(adversary)) == adversary


def test_python_and_text_make_the_same():
    assert (
        Adversary.parse("aggregators(0,1)")
        == Adversary("aggregators", corrupted=(0, 1))
        == Adversary(Aggregators(members=(0, 1)))
    )
    text = "server(knows=[labels,auxiliary(data=mnist,examples=10)],blind=[defense])"
    made = Adversary().knowing("labels", Auxiliary(data="mnist", examples=10)).without("defense")
    assert Adversary.parse(text) == made
    assert made.knows == {"labels", "auxiliary", "num_examples", "procedure"}
    assert made.held(Auxiliary) == (Auxiliary(data="mnist", examples=10),)
    assert made.held(Generator) == ()
    assert Adversary(knows=USUAL) == Adversary()
    assert Adversary("client(2)").at == OtherClient(number=2)
    acting = Adversary().acting(Plant(weights="a.npy"))
    assert acting == Adversary.parse("server(acts=[plant(weights=a.npy)])")


def test_shortcuts_say_the_same_as_the_text():
    full = Adversary.parse("aggregators(0,1,knows=[labels],blind=[defense])")
    assert Adversary.parse("aggregators(0,1)", knows=["labels"], blind=["defense"]) == full
    assert Adversary.parse("aggregators", knows=["labels"], blind=["defense"], corrupted=(0, 1)) == full
    yaml = Exposed(adversary="aggregators", corrupted=[0, 1], knows="labels", blind=["defense"])
    assert yaml.position() == full
    assert Exposed(adversary=str(full)).position() == full
    # What a cell is called does not depend on the spelling.
    assert yaml.identity() == Exposed(adversary=str(full)).identity()
    assert yaml.identity() != Exposed(adversary="aggregators(0,1)").identity()


WRONG = {
    "sever": "adversary position 'sever' is unknown. Did you mean 'server'",
    "server(knows=[label])": "cannot know 'label'. Did you mean 'labels'",
    "server(blind=[defence])": "cannot know 'defence'. Did you mean 'defense'",
    "server(knows=[labels": r"lacks its closing '\]'",
    "server(knows=[labels)": r"closes a bracket '\)' that is not open",
    "server(labels)x": "not written as name",
    "": "not written as name",
    "aggregators": r"needs its members; write aggregators\(0,1\)",
    "aggregators(a)": "members are numbers",
    "client": "needs a value for number",
    "server(3)": "'3' is no key=value",
    "server(color=red)": "no parameter 'color'",
    "server(knows=[auxiliary])": "needs a value for data",
    "server(knows=[auxiliary(data=mnist,examples=0)])": "examples='0'",
    "server(knows=[labels],blind=[labels])": "is to know 'labels' and be blind to it",
    "server(knows=[labels],knows=[labels])": "gives 'knows' twice",
    "observer(acts=[plant(weights=a.npy)])": "the observer cannot do 'plant",
    "server(acts=[plan(weights=a.npy)])": "cannot do 'plan'. Did you mean 'plant'",
    "server(acts=[plant(weights=trap)])": "neither an .npy or .npz file nor a function",
}


@pytest.mark.parametrize("text", WRONG)
def test_mistakes_are_named_with_the_way_out(text):
    with pytest.raises(FedprivError, match=WRONG[text]):
        Adversary.parse(text)


def test_members_are_for_coalitions():
    with pytest.raises(ParameterError, match="names aggregators"):
        Adversary.parse("server", corrupted=(0,))
    with pytest.raises(ParameterError, match="both name members"):
        Adversary.parse("aggregators(0,1)", corrupted=(2,))


class Weather(Labels):
    """Something of a user's own, found by its path."""

    name = ""

    def describe(self):
        return "tomorrow's weather"


def test_plug_ins_without_a_name_are_found_by_their_path():
    own = f"{Weather.__module__}:Weather"
    adversary = Adversary().knowing(Weather())
    assert own in adversary.knows
    assert str(adversary) == f"server(knows=[{own}])"
    assert "tomorrow's weather" in adversary.describe()


def test_what_an_attack_brings_stands_in_the_threat_line():
    brought = (Auxiliary(data="mnist"), Labels())
    line = Adversary().knowing("labels").describe(brought)
    assert "The attack brings in: auxiliary data of the same kind (examples of 'mnist', with their labels)." in line
    assert line.count("the labels of the examples") == 1
    assert "brings in" not in Adversary().knowing("labels", "auxiliary(data=mnist)").describe(brought)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("eavesdropper(blind=[procedure])", "A"),
        ("eavesdropper(blind=[procedure],knows=[statistics])", "B"),
        ("server", "C"),
        ("server(knows=[auxiliary(data=mnist)])", "D"),
        ("server(knows=[generator(fashion)])", "D"),
        ("server(knows=[batch_statistics])", "E"),
        ("server(acts=[plant(weights=a.npy)])", "F"),
        ("server(knows=[auxiliary(data=mnist)],acts=[plant(weights=a.npy)])", "G"),
        ("observer", None),
        ("aggregators(0)", None),
    ],
)
def test_the_field_s_letters(text, letter):
    adversary = Adversary.parse(text)
    assert adversary.letter() == letter
    assert (f"Threat model {letter} " in adversary.describe()) is (letter is not None)
    assert ("malicious" in adversary.describe()) is bool(adversary.acts)


def test_what_is_brought_counts_for_the_letter():
    assert "Threat model D (data-enhanced eavesdropper)" in Adversary().describe((Generator(source="fashion"),))


def test_server_is_a_position():
    assert Adversary(Server(identified=False)).at.identified is False
    with pytest.raises(ParameterError, match=r"it must be, or return, a fedpriv\.threat\.position\.Position"):
        Adversary(Labels())  # type: ignore[arg-type]
