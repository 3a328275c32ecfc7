"""The report: what it says follows from the numbers, and it stands alone."""

from __future__ import annotations

import copy
import re
import shutil
from types import SimpleNamespace

import pytest

from fedpriv.base.errors import ExperimentError
from fedpriv.cli import main
from fedpriv.experiment import conclusion
from fedpriv.experiment.arm import Arm, arms, attacked_arms
from fedpriv.experiment.document import Document
from fedpriv.experiment.drawings import drawings
from fedpriv.experiment.experiment import load, resolve
from fedpriv.experiment.report import write_report
from fedpriv.experiment.runner import job_code
from fedpriv.experiment.setting import Setting
from fedpriv.experiment.store import attack_job, training_job
from fedpriv.experiment.table import gather
from fedpriv.experiment.work import adaptive
from fedpriv.experiment.work import attack as attack_cell
from fedpriv.report.manifest import problems, read_manifest
from fedpriv.report.page import show
from tests.experiment.conftest import finish

#: The figures drawn where a test asserts nothing of them.
ONE = ["costs"]


@pytest.mark.slow
def test_it_stands_alone_and_says_everything(noisy):
    experiment, store = noisy
    page = write_report(experiment, store, ["fedpriv", "run", "small.yaml"]).read_text()
    assert not re.search(r'(src|href)="(https?:|/)', page)
    assert "Figures left out" not in page
    shown = re.findall(r'<img src="([^"]*)"', page)
    assert shown == [f"figures/{d.stem}.png" for d in drawings(experiment, arms(gather(experiment, store)))]
    assert all((store.folder / picture).read_bytes().startswith(b"\x89PNG") for picture in shown)
    for words in (
        "Does it run?",
        "An honest-but-curious server",
        "fedpriv run small.yaml",
        "Limitations",
        "lower bound",
    ):
        assert words in page
    links = [link for link in re.findall(r'href="([^"#][^"]*)"', page) if not link.startswith("data:")]
    assert links
    assert set(links) <= read_manifest(store.folder)["files"].keys()  # a checkout has them, too
    for link in links:
        assert (store.folder / link).exists(), link
    for sentence in conclusion.RULES:
        assert sentence.replace("'", "&#39;")[:60] in page


def test_each_figure_is_drawn_where_its_numbers_are(noisy):
    experiment, store = noisy
    made = arms(gather(experiment, store))
    stems = {d.stem for d in drawings(experiment, made)}
    assert any(s.startswith("reconstructions") for s in stems)
    assert {"success_over_batch", "psnr_over_batch", "privacy_utility", "training_curves"} <= stems
    assert {"heat_map_1", "heat_map_2", "success_epsilon", "costs", "noise"} <= stems
    captions = {d.stem: d.caption for d in drawings(experiment, made)}
    assert captions["success_over_batch"].endswith(
        "Where there is one batch only, its images count as independent: the truth is wider."
    )
    assert captions["psnr_over_batch"].endswith("over images and seeds.")  # a mean has no interval there
    one_level = [a for a in made if a.labels["defense"] != "weak"]
    assert "noise" not in {d.stem for d in drawings(experiment, one_level)}
    bare = [a for a in made if a.labels["defense"] == "none"]
    assert not {"success_epsilon", "privacy_utility"} & {d.stem for d in drawings(experiment, bare)}
    assert drawings(experiment, []) == []


def texts(figure):
    return " ".join(t.get_text() for t in figure.findobj(lambda o: hasattr(o, "get_text"))).replace("\n", " ")


def test_the_noise_figure_shows_the_strongest_attack_of_each_setting(noisy):
    """First-layer inversion is exact without noise, where DLG's few steps are not."""
    experiment, store = noisy
    made = arms(gather(experiment, store))
    drawn = next(d for d in drawings(experiment, made) if d.stem == "noise")
    assert "by the strongest attack" in drawn.caption
    assert "local_dp, batch 2" in texts(drawn.draw())
    alone = [a for a in made if a.labels["attack"] == "DLG"]
    assert "strongest" not in next(d for d in drawings(experiment, alone) if d.stem == "noise").caption


@pytest.mark.slow
def test_a_guarantee_stands_beside_the_adversary_it_holds_against(write, content, tmp_path):
    """Central noise guards released models; the server that sees updates gets no guarantee written on it."""
    setting = {**content["setting"], "attack": "first_layer", "defense": "central_dp(clip=0.01,noise_multiplier=1)"}
    setting["training"] = {**setting["training"], "weighting": "uniform"}
    path = write(setting=setting, grid={"exposure.adversary": ["server", "observer"]}, seeds=1)
    experiment, store = finish(path, tmp_path / "r")
    server, observer = arms(gather(experiment, store))
    assert observer.mean("epsilon_released") == server.mean("epsilon_released") > 0
    said = {name: observer.row()[name] for name in ("unit_released", "relation_released", "noise_multiplier")}
    assert list(said.values()) == ["client", "add_or_remove_one", "central_dp 1"]
    page = write_report(experiment, store, ["fedpriv"]).read_text()
    assert "What each epsilon means" in page
    assert all(word in page for word in ("add_or_remove_one", "central_dp 1", "whoever sees released models"))
    assert "relation_released" in (store.folder / "arms.csv").read_text()
    drawn = {d.stem: d for d in drawings(experiment, [server])}
    assert "success_epsilon" not in drawn
    both = next(d for d in drawings(experiment, [server, observer]) if d.stem == "success_epsilon")
    assert "the adversary of each setting" in both.caption
    figure = both.draw()
    assert "observer" in texts(figure)
    (bare,) = (axes for axes in figure.axes if axes.get_gid() == "no guarantee")
    assert [t.get_text() for t in bare.get_xticklabels()] == ["server"]


def test_costs_say_over_what_they_are_medians_and_show_the_range(noisy):
    made = attacked_arms(arms(gather(*noisy)))
    said = "medians over the settings of defense and batch; lines show the range"
    drawn = next(d for d in drawings(noisy[0], made) if d.stem == "costs")
    figure = drawn.draw()
    assert said in drawn.caption
    assert said in texts(figure)
    for key, axes in ((axes.get_gid(), axes) for axes in figure.axes):
        for i, attack in enumerate(dict.fromkeys(a.labels["attack"] for a in made)):
            values = [a.row()[f"{key}_median"] for a in made if a.labels["attack"] == attack]
            ((low, _), (high, _)) = axes.collections[i].get_paths()[0].vertices
            assert (low, high) == pytest.approx((min(values), max(values)))
    # One setting of each attack has no range.
    alone = [a for a in made if a.labels["defense"] == "none" and a.labels["batch"] == made[0].labels["batch"]]
    drawn = next(d for d in drawings(noisy[0], alone) if d.stem == "costs")
    assert "medians over" not in drawn.caption + texts(drawn.draw())
    assert not any(axes.collections for axes in drawn.draw().axes)


FEW = "restarts=1,optimizer.max_evaluations=5"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("defense", "attack", "adversary", "considered"),
    [
        ("none", f"dlg({FEW})", "server", None),
        ("clip(norm=1)", f"dlg({FEW})", "server", True),
        ("clip(norm=1)", "rgap", "server", False),  # works on the update alone
        ("central_dp(clip=1,noise_multiplier=1)", f"dlg({FEW})", "server", True),  # it sees what the noise is added to
        ("central_dp(clip=1,noise_multiplier=1)", f"dlg({FEW})", "observer", False),
        ("local_dp(clip=1,noise_multiplier=1)", f"dlg({FEW})", "server", False),  # replays the clip, not the noise
        ("secret_sharing(aggregators=3)", f"dlg({FEW})", "server", True),
    ],
)
def test_which_attacks_take_a_defense_into_account(defense, attack, adversary, considered):
    """Measured in the run, twice: the second time dlg takes its graph from the cache."""
    setting = Setting(
        data="tests.experiment.toys:toy",
        model="logistic",
        defense=defense,
        attack=attack,
        exposure={"adversary": adversary, "images": 1},
    )
    for seed in (0, 1):
        assert attack_cell(setting, seed, None, 0).facts["adaptive"] is considered
    if considered:
        blind = setting.model_copy(update={"exposure": setting.exposure.model_copy(update={"blind": ("defense",)})})
        assert not attack_cell(blind, 0, None, 0).facts["adaptive"]


def test_an_attack_that_a_defense_names_takes_it_into_account():
    setting = Setting(defense="local_dp(clip=1,noise_multiplier=1)", attack="maximum_posterior")
    assert adaptive(setting, ())


@pytest.mark.slow
def test_published_numbers_stand_beside_the_best_that_fits_them(small):
    experiment, store = small
    numbers = [
        {"where": {"attack": "first layer"}, "fact": "success_rate", "value": 0.5, "source": "Someone (2020), Table 1"},
        {"fact": "accuracy", "value": 0.25, "source": "Someone else"},
    ]
    document = Document({**copy.deepcopy(experiment.source), "published": numbers, "draw": ONE})
    page = write_report(resolve(document), store, ["fedpriv"]).read_text()
    made = arms(gather(experiment, store))
    assert "Beside what was published" in page
    best = max(a.mean("accuracy") for a in made)
    for words in ("Someone (2020), Table 1", "Someone else", show(best), show(best / 0.25)):
        assert words in page
    both = {**numbers[0], "where": {"attack": ["first layer", "R-GAP"]}}
    page = write_report(resolve(Document({**document.content, "published": [both]})), store, ["fedpriv"]).read_text()
    assert "first layer, R-GAP" in page
    assert show(max(a.row()["success_rate"] for a in made) / 0.5) in page
    for change, says in (
        ({"where": {"atack": "first layer"}}, "published names no axis 'atack'. Did you mean 'attack'"),
        ({"where": {"attack": "first"}}, "axis 'attack' has no 'first'"),
        ({"fact": "psnr"}, "fact='psnr'"),
    ):
        wrong = Document({**document.content, "published": [{**numbers[0], **change}]})
        with pytest.raises(ExperimentError, match=re.escape(says)):
            resolve(wrong)


@pytest.mark.slow
def test_images_that_the_model_may_have_seen_are_named(write, tmp_path):
    """15 images are held out; an attack on 16 takes them from the training set."""
    said = "The attacked images are the training set"
    for images, expected in ((15, False), (16, True)):
        path = write(grid={"attack": ["labels"]}, seeds=1, keep_images=1, draw=ONE)
        experiment, store = finish(path, tmp_path / f"{images}", f"exposure.images={images}")
        assert (said in write_report(experiment, store, ["fedpriv"]).read_text()) is expected


def test_many_arms_are_pictured_attack_by_attack(noisy, monkeypatch):
    """What is too much for one figure gets one for each attack, and rows name the rest."""
    from fedpriv.experiment.drawings import reconstructions

    experiment, store = noisy
    made = arms(gather(experiment, store))

    def pictured():
        return [d for d in drawings(experiment, made) if d.stem.startswith("reconstructions")]

    assert [d.heading for d in pictured()] == ["Reconstructions"]
    monkeypatch.setattr(reconstructions, "ROWS", 4)
    headings = ["first layer", "DLG (1 of 2)", "DLG (2 of 2)"]
    assert [d.heading for d in pictured()] == [f"Reconstructions: {words}" for words in headings]
    assert "weak, batch 1" in texts(pictured()[0].draw())


def test_all_images_are_pictured_where_many_are_kept(noisy, monkeypatch):
    from fedpriv.experiment.drawings import reconstructions

    experiment, store = noisy
    made = arms(gather(experiment, store))

    def pictured():
        return [d for d in drawings(experiment, made) if d.stem == "mosaic"]

    assert not pictured()
    monkeypatch.setattr(reconstructions, "MANY", 1)
    (drawn,) = pictured()
    figure = drawn.draw()
    words = [t.get_text() for t in (*figure.texts, *(t for axes in figure.axes for t in axes.texts))]
    assert words.count("Original") == 1
    assert len([a for a in figure.axes if a.images]) > 1
    assert any(re.fullmatch(r"\d+ of \d+", w) for w in words)


def test_training_curves_are_named_by_what_tells_trainings_apart(noisy, monkeypatch):
    """Two attacks and two batch sizes attack the three trainings, one a defense."""
    from fedpriv.experiment.drawings import training
    from fedpriv.figures import curves

    experiment, store = noisy
    made = arms(gather(experiment, store))
    drawn = []
    monkeypatch.setattr(curves, "training_curves", lambda histories, target, over: drawn.append(histories))

    def draw(arms):
        drawn.clear()
        figures = [d for d in drawings(experiment, arms) if d.stem.startswith("training_curves")]
        for figure in figures:
            figure.draw()
        return [f.heading for f in figures], [list(d) for d in drawn]

    assert draw(made) == (["Training"], [["none", "weak", "strong"]])
    monkeypatch.setattr(training, "CURVES", 2)
    assert draw(made) == (["Training"], [["none", "weak", "strong"]])  # one axis cannot be split
    two = [Arm({**a.labels, "kind": "noise" if a.labels["defense"] != "none" else "plain"}, a.results) for a in made]
    two = [Arm({"kind": a.labels["kind"], **a.labels}, a.results) for a in two]
    assert draw(two) == (["Training: plain", "Training: noise"], [["none"], ["weak", "strong"]])


def test_sentences_follow_their_rules(noisy):
    experiment, store = noisy
    made = arms(gather(experiment, store))
    said = conclusion.sentences(experiment, made)
    assert any(
        s.startswith("none, batch 1: first layer, the strongest of 2 attacks, gets through (2 of 2") for s in said
    )
    assert any("strong, batch 1" in s and "reconstructs nothing (0 of 2" in s for s in said)
    moved = [s for s in said if "from batch 1 to 2, success rate goes from" in s]
    assert moved
    assert all(s.endswith("(one batch only, no interval).") for s in moved)  # both images are in it
    assert any(s.startswith("Test accuracy lies between") for s in said)
    warning = conclusion.warnings(made)[0]
    assert "weak, batch 1" in warning
    assert "none, batch 1" not in warning


def test_warnings_of_rounds_are_counted_over_seeds_and_arms():
    def arm(name, *told):
        return SimpleNamespace(name=name, results=[SimpleNamespace(facts={"warnings": list(w)}) for w in told])

    cut, noise = "dp: the clip cut every update", "dp: the noise is long"
    made = [
        arm("a", [f"{cut} (in 3 of 60 rounds)", "odd"], [f"{cut} (in 5 of 60 rounds)", f"{noise} (in 1 of 60 rounds)"]),
        arm("b", [f"{cut} (in 60 of 60 rounds)"], []),
        arm("c", [f"{noise} (in 1 of 2 trials)"]),
    ]
    assert conclusion._noted(made) == [
        f"in a; b: {cut} (in 68 of 180 rounds).",
        "in a: odd.",
        f"in a: {noise} (in 1 of 60 rounds).",
        f"in c: {noise} (in 1 of 2 trials).",
    ]


@pytest.mark.slow
def test_an_attack_that_replays_the_defense_is_no_cause_for_a_warning(write, tmp_path):
    path = write(grid={"attack": ["dlg(restarts=1,optimizer.max_evaluations=5)"], "defense": ["clip(norm=1)"]}, seeds=1)
    experiment, store = finish(path, tmp_path / "r")
    assert conclusion.warnings(arms(gather(experiment, store))) == []
    path = write(grid={"attack": ["first_layer"], "defense": ["clip(norm=1)"]}, seeds=1)
    experiment, store = finish(path, tmp_path / "s")
    (warning,) = conclusion.warnings(arms(gather(experiment, store)))
    assert "ignore the defense" in warning


def test_updates_that_round_to_zero_where_they_are_attacked_are_warned_of(write, content, tmp_path):
    coarse = "fixed_point(range=8,resolution=8)"
    setting = {**content["setting"], "training": {"rounds": 0}}
    path = write(setting=setting, grid={"attack": ["first_layer"], "defense": ["none", coarse]}, seeds=1)
    experiment, store = finish(path, tmp_path / "r")
    said = [w for w in conclusion.warnings(arms(gather(experiment, store))) if "rounding" in w]
    assert len(said) == 1
    assert said[0].startswith(f"in first_layer, {coarse}: fixed_point: rounding to a multiple of the resolution made")
    assert said[0].endswith("(in 2 of 2 trials).")


def test_a_report_of_half_a_run_says_so(write, small):
    _, store = small
    page = write_report(load(write(seeds=3, draw=ONE)), store, ["x"]).read_text()
    assert "Of 12 cells, 4 have not run yet and 0 failed" in page


@pytest.mark.slow
def test_the_manifest_of_a_run_names_what_a_reader_needs_and_what_made_it(small):
    experiment, store = small
    write_report(experiment, store, ["fedpriv", "run", "small.yaml"])
    manifest = read_manifest(store.folder)
    assert problems(store.folder) == []
    tables = {"arms.csv", "differences.csv", "experiment.yaml", "provenance.json", "report.html", "table.csv"}
    figures = {f"figures/{path.name}" for path in (store.folder / "figures").glob("*.png")}
    assert manifest["files"].keys() == tables | figures
    assert [made["command"] for made in manifest["made"]] == ["fedpriv run small.yaml"]
    jobs = [job for cell in experiment.cells for job in (training_job(cell), attack_job(cell)) if job is not None]
    assert manifest["code"] == sorted({job_code(job) for job in jobs})


def test_a_folder_without_its_cells_is_not_overwritten(small, capsys, monkeypatch):
    experiment, store = small
    monkeypatch.setattr(experiment.contents, "draw", ONE)
    write_report(experiment, store, ["x"])
    for part in ("cells", "trainings"):
        shutil.rmtree(store.folder / part)
    for command in (["report", str(store.folder)], ["compare", str(store.folder), str(store.folder)]):
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert "not the cells they were made from" in error
        assert f"fedpriv run {store.folder}/experiment.yaml --out {store.folder}" in " ".join(error.split())
    assert problems(store.folder) == []


def test_figures_of_a_former_grid_go(small, monkeypatch):
    experiment, store = small
    monkeypatch.setattr(experiment.contents, "draw", ONE)
    write_report(experiment, store, ["x"])
    (store.folder / "figures" / "old.png").write_bytes(b"")
    write_report(experiment, store, ["x"])
    assert not (store.folder / "figures" / "old.png").exists()
    assert (store.folder / "figures" / "costs.png").exists()


@pytest.mark.slow
def test_from_the_command_line(write, tmp_path, capsys, monkeypatch):
    def cli(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        return ended.value.code, *capsys.readouterr()

    path, folder = write(quick={"seeds": 1, "grid": {"defense": ["none"]}}, draw=ONE), tmp_path / "r"
    code, out, _ = cli("run", path, "--dry-run", "--quick")
    assert code == 0
    assert len([line for line in out.splitlines() if line.startswith("attack=")]) == 2
    assert "2 attacks and 1 training to run" in out
    assert "About" in out
    code, out, _ = cli("run", path, "--quick", "--out", folder, "--log", "tensorboard")
    assert code == 0, out
    assert out.count("attacked") == 2
    assert "[3/3]" in out
    assert list((folder / "tensorboard").glob("*/events*"))
    code, out, _ = cli("run", path, "--quick", "--out", folder)
    assert (code, "0 attacks to run, 3 done already" in out) == (0, True)
    code, out, _ = cli("report", folder)
    assert (code, "report.html" in out, "have no result" in out) == (0, True, False)
    code, out, err = cli("report", folder, "--set", "seeds=2")
    assert (code, "2 of 4 cells have no result" in out + err) == (0, True)
    code, out, _ = cli("report", folder)
    code, out, _ = cli("compare", folder, folder, "--out", tmp_path / "d.csv")
    assert code == 0
    assert "difference" in out.splitlines()[0]
    assert (tmp_path / "d.csv").exists()
    code, out, _ = cli("schema")
    assert (code, '"$schema"' in out) == (0, True)
    for wrong, says in (
        (("run", tmp_path / "none.yaml"), "No such file"),
        (("run", "dlg_reproductoin"), "Did you mean 'dlg_reproduction'"),
        (("run", path, "--set", "nme=1"), "Did you mean 'name'"),
        (("run", write("b.yaml", name="another"), "--out", folder), "holds the results of experiment 'small'"),
        (("report", tmp_path), "holds no experiment.yaml"),
        (("compare", folder, tmp_path), "holds no experiment.yaml"),
        (("run", write(), "--out", folder, "--log", "wandb"), "--log 'wandb' is unknown"),
    ):
        code, _, err = cli(*wrong)
        assert code == 2, wrong
        assert says in err
        assert "Traceback" not in err


def test_what_lies_in_the_folder_besides_is_passed_over_and_kept(small, monkeypatch):
    experiment, store = small
    monkeypatch.setattr(experiment.contents, "draw", ONE)
    figures = store.folder / "figures"
    (figures / "old").mkdir(parents=True)
    (figures / "notes.txt").write_text("mine")
    (figures / "gone.png").write_bytes(b"of a grid that has changed")
    for i, identity in enumerate(("null", "[]", "3", '{"cell": 1}', '[["data", 1]]', '{"data": {}}')):
        (store.folder / "cells" / f"foreign_{i}.json").write_text(f'{{"body": {{"identity": {identity}}}}}')
    page = write_report(experiment, store, ["x"]).read_text()
    assert "first layer" in page
    assert not (figures / "gone.png").exists()
    assert (figures / "notes.txt").read_text() == "mine"
    assert (figures / "old").is_dir()
    assert store.find("attack", experiment.cells[0]) is not None


@pytest.mark.slow
def test_draw_chooses_figures_and_the_page_names_the_others(noisy, monkeypatch):
    experiment, store = noisy
    monkeypatch.setattr(experiment.contents, "draw", ["costs", "noise_1"])
    page = write_report(experiment, store, ["fedpriv"]).read_text().replace("&#39;", "'")
    assert {p.stem for p in (store.folder / "figures").glob("*.png")} == {"costs", "noise"}
    assert "since the experiment's draw does not name them: heat_map_1" in page
