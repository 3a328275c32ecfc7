import inspect

import pytest

RARE = ("-q", "1e-3", "-r", 1500)


def test_a_budget_gives_a_noise_multiplier(run, strict):
    status, out, err = run("budget", "epsilon=2, delta=1e-6", *RARE, "--accountant", "rdp", "--json")
    assert (status, err) == (0, "")
    (found,) = strict(out)
    assert found["noise_multiplier"] == pytest.approx(0.714, abs=5e-4)
    assert (found["epsilon"], found["rounds"], found["accountant"]) == (2, 1500, "rdp")


def test_a_noise_multiplier_gives_an_epsilon_at_several_deltas(run, strict):
    status, out, _ = run("epsilon", 0.714, *RARE, "--accountant", "rdp", "--delta", 1e-6, "--delta", 1e-5, "--json")
    found = strict(out)
    assert status == 0
    assert [row["delta"] for row in found] == [1e-6, 1e-5]
    assert found[0]["epsilon"] == pytest.approx(2, abs=0.005)
    assert found[1]["epsilon"] < found[0]["epsilon"]


def test_dp_ftrl_at_a_published_setting(run):
    status, out, _ = run("epsilon", 7, "-r", 2000, "--participations", 6, "--separation", 313, "--delta", 1e-10)
    assert status == 0
    assert "epsilon 8.899 at delta 1e-10 after 2000 rounds" in out  # the conversion of zCDP
    assert "epsilon 8.526 at delta 1e-10 after 2000 rounds" in out  # a Gaussian mechanism's own
    assert "zCDP rho 0.8061, GDP mu 1.27" in out


def test_dp_sgd_is_asked_in_epochs(run, strict):
    sgd = ("--examples", 60_000, "-B", 256, "--epochs", 60, "--accountant", "rdp", "--json")
    (found,) = strict(run("epsilon", 1.1, *sgd)[1])
    assert (found["unit"], found["rounds"]) == ("example", 14063)
    assert found["epsilon"] == pytest.approx(2.597, abs=1e-3)


def test_dp_sgd_as_a_defense_is_asked_as_the_bare_mechanism_is(run, strict):
    sgd = ("--examples", 60_000, "-B", 256, "--epochs", 60, "--accountant", "rdp", "--json")
    (bare,) = strict(run("epsilon", 1.1, *sgd)[1])
    (found,) = strict(run("epsilon", "-d", "dp_sgd(clip=1,noise_multiplier=1.1)", *sgd)[1])
    assert found["epsilon"] == pytest.approx(bare["epsilon"])
    budget = f"epsilon={bare['epsilon']}, delta=1e-5"
    (found,) = strict(run("budget", budget, "-d", "dp_sgd(clip=1)", *sgd)[1])
    assert found["noise_multiplier"] == pytest.approx(1.1, rel=1e-3)


def test_registered_defenses_are_asked_as_they_are(run, strict):
    cohorts = ("--cohort", 100, "-K", 100, "-r", 10, "--accountant", "rdp", "--json")
    defended = ("-d", "local_dp(clip=3,noise_multiplier=40)")
    (released,) = strict(run("epsilon", *defended, *cohorts)[1])
    (server,) = strict(run("epsilon", *defended, *cohorts, "--against", "server")[1])
    assert server["epsilon"] > released["epsilon"]
    assert released["mu"] == pytest.approx(server["mu"] / 10)
    target = f"epsilon={server['epsilon']}, delta=1e-5, against=server"
    (found,) = strict(run("budget", target, "-d", "local_dp(clip=3)", *cohorts)[1])
    assert found["noise_multiplier"] == pytest.approx(40, rel=1e-3)


@pytest.mark.slow
def test_a_cohort_means_what_it_means_to_train(run, strict, npz):
    asked = ("--cohort", 2, "-K", 4, "-r", 2, "--accountant", "rdp")
    (found,) = strict(run("budget", "epsilon=9, delta=1e-3", *asked, "--json")[1])
    train = ("train", "--model", "logistic", "--clients", 4, "--seed", 0, "--data", npz, "--weighting", "uniform")
    z = found["noise_multiplier"]
    told = ("--rounds", 2, "--cohort", 2, "--delta", 1e-3, "--json", "-d", f"central_dp(clip=0.5,noise_multiplier={z})")
    assert strict(run(*train, *told)[1])[-1]["epsilon"] == pytest.approx(9, rel=1e-3)
    assert run("epsilon", 3, *asked)[1].splitlines()[0].endswith("drawn without replacement (fixed-size sampling).")
    rate = ("--rate", 0.5, "-r", 2, "--accountant", "rdp")
    poisson = run("epsilon", 3, *rate)[1]
    assert poisson.splitlines()[0].endswith("(Poisson sampling).")
    assert run("epsilon", 3, *asked, "--sampling", "poisson")[1].splitlines()[1] == poisson.splitlines()[1]


@pytest.mark.slow
def test_a_table_ends_with_the_number_that_is_stated(run, strict):
    told = ("--examples", 1000, "-B", 100, "-r", 50, "--accountant", "pld", "--table", "--json")
    rows = strict(run("epsilon", 1.1, *told)[1])
    assert rows[-1]["epsilon"] == rows[0]["epsilon"] > rows[-2]["epsilon"]


def test_no_number_is_given_by_another_claim_in_silence(run):
    asked = ("--cohort", 20, "-K", 100, "-r", 2)
    local = run("epsilon", *asked, "-d", "local_dp(clip=1,noise_multiplier=10)")[1]
    assert "by another claim" in local.splitlines()[2]
    distributed = ("-d", "distributed_dp(clip=1)", "-d", "secagg", "--size", 100)
    status, out, _ = run("budget", "epsilon=2, delta=1e-6", *asked, *distributed)
    assert status == 0
    assert "rdp: noise multiplier" in out
    assert "pld: none (no privacy loss distribution is known of sum of skellam noises" in out


@pytest.mark.slow
def test_a_table_and_a_figure_as_training_goes(run, tmp_path):
    told = ("--rate", 0.05, "-r", 20, "--accountant", "rdp", "--table", "--figure", tmp_path / "spent.png")
    status, out, _ = run("epsilon", 1.2, *told)
    assert status == 0
    rows = [line.split() for line in out.splitlines() if line.strip()[:1].isdigit()]
    assert [int(row[0]) for row in rows][:3] == [0, 1, 2]
    assert [float(row[1]) for row in rows] == sorted(float(row[1]) for row in rows)
    assert (tmp_path / "spent.png").stat().st_size > 5000
    assert (tmp_path / "spent.pdf").exists()


def test_the_command_has_an_option_for_every_field_of_a_claim():
    from fedpriv.account.stated import Stated
    from fedpriv.cli.check_claim import check_claim

    options = set(inspect.signature(check_claim).parameters) - {"file", "json_lines"}
    assert options == set(Stated.model_fields)


def test_a_claim_is_checked_by_options_over_a_file(run, strict, tmp_path):
    file = tmp_path / "claim.yaml"
    file.write_text("epsilon: 10\ndelta: 1.0e-5\nclip: 5\nsensitivity: 0.01\nadded_to: update\nagainst: server\n")
    status, out, _ = run("check-claim", "--rounds", 100, file)
    assert status == 0
    assert "The stated number does not hold: epsilon is 5.33e+07" in out
    (found,) = strict(run("check-claim", "--json", "--stddev", 25, "--rounds", 100, file)[1])
    assert found["holds"]
    file.write_text("epsilon: 10\nclipp: 5\n")
    status, _, err = run("check-claim", file)
    assert (status, "line 2: there is no 'clipp'. Did you mean 'clip'" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("epsilon", 1.2, "-q", 1.5, "-r", 3), "rate=1.5 must lie in (0, 1]"),
        (("epsilon", 1.2, "-q", 0.5, "-r", 3, "--delta", 1), "delta=1.0 must lie strictly between 0 and 1"),
        (("epsilon", 1.2, "-q", 0.5, "-r", 3, "--sampling", "shuffle"), "is none the ledger can account"),
        (("epsilon", 0, "-q", 0.5, "-r", 3), "noise_multiplier=0.0 bounds no epsilon"),
        (("epsilon", "nan", "-q", 0.5, "-r", 3), "noise_multiplier=nan bounds no epsilon"),
        (("epsilon", 1, "-q", 0.5, "-r", 3, "--relation", "replace_one"), "only under add_or_remove_one"),
        (("epsilon", 1, "-q", 0.5, "-r", 3, "--relation", "replace"), "relation='replace' is unknown"),
        (("budget", "epsilon=1e-9, delta=1e-15", "-r", 3), "still spends more than epsilon=1e-09"),
        (("budget", "epsilon=2, epsilon=3, delta=1e-6", "-r", 3), "says something twice"),
        (("epsilon", "-q", 0.5, "-r", 3), "a noise multiplier is missing"),
        (("epsilon", 1.2), "the number of rounds is missing"),
        (("epsilon", 1.2, "--examples", 10, "-B", 20, "--epochs", 1), "is a rate outside of (0, 1]"),
        (("epsilon", 1.2, "-r", 9, "--participations", 2), "participations=2 need separation"),
        (("epsilon", "-d", "central_dp(clip=0,noise_multiplier=1)", "-r", 9), "clip"),
        (("budget", "epsilon=2, delta=2", "-r", 3), "delta=2.0 must lie strictly between 0 and 1"),
        (("budget", "epsilon=1e-9, delta=1e-6", "-r", 3), "still spends more than epsilon=1e-09"),
        (("check-claim", "--epsilon", 1, "--delta", 1e-5, "--clip", -1, "--stddev", 1), "clip=-1.0"),
    ],
)
def test_senseless_questions_get_one_line(run, arguments, message):
    status, out, err = run(*arguments)
    assert status == 2
    assert message in err
    assert (err.count("\n"), out) == (1, "")


@pytest.mark.slow
def test_training_within_a_budget(run, strict, npz):
    small = ("train", "--model", "logistic", "--clients", 4, "--seed", 0, "--data", npz, "--weighting", "uniform")
    told = ("--rounds", 3, "--poisson", 0.5, "--budget", "epsilon=4, delta=1e-3", "--json")
    status, out, err = run(*small, *told, "-d", "central_dp(clip=0.5)")
    assert status == 0
    assert "central_dp has noise_multiplier=" in err
    assert strict(out)[-1]["epsilon"] == pytest.approx(4, rel=1e-3)
    status, _, err = run(*small, *told, "-d", "central_dp(clip=0.5,noise_multiplier=0.2)")
    assert (status, "does not reach for one round" in err) == (2, True)
    status, _, err = run(*small, "--rounds", 3, "-d", "central_dp(clip=0.5)")
    assert (status, "or a budget that it is set by" in err) == (2, True)
    assert "Update norms" not in run(*small, "--rounds", 1, "-d", "central_dp(clip=0.5,noise_multiplier=0)")[1]


def test_what_cannot_work_is_said_before_the_data_are_loaded(run):
    missing = ("--data", "no_such_data", "-d", "dp_sgd(clip=1)")
    status, _, err = run("attack", "dlg", *missing)
    assert (status, "dp_sgd says not how much noise it adds" in err, "--budget" in err) == (2, True, False)
    status, _, err = run("train", *missing)
    assert (status, "dp_sgd says not how much noise it adds" in err, "--budget" in err) == (2, True, True)
    for clip in ("1e38", "1e-38"):
        status, _, err = run("train", "-d", f"central_dp(clip={clip},noise_multiplier=1)")
        assert (status, "float32" in err) == (2, True)


def test_only_a_larger_federation_is_simulated(run, npz):
    small = ("train", "--model", "logistic", "--clients", 4, "--data", npz, "--weighting", "uniform", "--cohort", 3)
    for text in ("cohort=2, population=10000", "cohort=3, population=3"):
        status, _, err = run(*small, "-d", "central_dp(clip=1,noise_multiplier=1)", "--simulate", text)
        assert (status, "is smaller than the real one" in err) == (2, True)
