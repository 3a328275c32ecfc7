import json
import signal
import time

import numpy as np
import pytest

from fedpriv.base.seeds import Purpose, integer_seed
from fedpriv.models import load
from fedpriv.rounds.checkpoint import Checkpoint

SMALL = ("train", "--model", "logistic", "--clients", "4", "--seed", "0", "--batch-size", "3", "--client-lr", "0.5")
STATEFUL = (
    "--server-optimizer", "adam", "--server-lr", "0.05", "--poisson", "0.7", "--weighting", "uniform",
    "--defense", "central_dp(clip=0.5,noise_multiplier=0.4)",
)  # fmt: skip


@pytest.mark.slow
def test_json_is_one_strict_object_a_round(run, strict, npz):
    status, out, err = run(*SMALL, *STATEFUL, "--data", npz, "--rounds", 3, "--json")
    assert (status, err) == (0, "")
    rows = strict(out)
    assert [r["round"] for r in rows] == [0, 1, 2]
    assert rows[0]["epsilon"] < rows[2]["epsilon"]
    assert {"loss", "accuracy", "bytes_up", "metrics", "survivors"} <= set(rows[0])


def test_what_json_cannot_say_is_null(run, strict, npz, tmp_path, monkeypatch):
    """A model whose logits are not finite in evaluation has no test loss."""
    with np.load(npz) as z:
        x, y = z["x"], z["y"]
    model = tmp_path / "steep.py"
    model.write_text(
        "import numpy as np\n"
        "from fedpriv.base.lazy import tf\n"
        "from fedpriv.models import Model\n"
        "from fedpriv.models.spec import Spec\n"
        "def steep(input_shape, num_classes):\n"
        "    spec = Spec(('w',), ((16, num_classes),))\n"
        "    def apply(w, x, training):\n"
        "        z = tf.reshape(x, [-1, 16]) @ w[0]\n"
        "        return z if training else z / 0.0\n"
        "    return Model('steep', input_shape, num_classes, spec, apply,\n"
        "                 lambda seed: [np.zeros((16, num_classes), np.float32)])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    data = write_folder(tmp_path, x, y)
    status, out, _ = run("train", "--data", data, "--model", "steep:steep", "--clients", 3, "--rounds", 1, "--json")
    assert status == 0
    (row,) = strict(out)
    assert row["test_loss"] is None


def write_folder(folder, x, y):
    """An IDX folder, which has a test set."""
    import struct

    made = folder / "idx"
    made.mkdir()
    for prefix in ("train", "t10k"):
        images = np.round(x[..., 0] * 255).astype(np.uint8)
        (made / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, *images.shape) + images.tobytes())
        (made / f"{prefix}-labels-idx1-ubyte").write_bytes(
            struct.pack(">2i", 2049, len(y)) + y.astype(np.uint8).tobytes()
        )
    return str(made)


@pytest.mark.slow
def test_plain_output_ends_in_a_conclusion(run, npz):
    status, out, err = run(*SMALL, *STATEFUL, "--data", npz, "--rounds", 2)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("round 1/2  loss ")
    assert "epsilon" in lines[1]
    assert "2 rounds:" in out
    assert "Against 'released': epsilon" in out
    _, out, _ = run(*SMALL, "--data", npz, "--rounds", 1)
    assert "No formal privacy guarantee" in out


@pytest.mark.slow
def test_fedsgd_and_every_loop_option(run, strict, npz):
    _, one, _ = run(*SMALL, "--data", npz, "--rounds", 2, "--algorithm", "fedsgd", "--server-lr", 0.3, "--json")
    _, two, _ = run(
        "train", "--model", "logistic", "--clients", 4, "--data", npz, "--rounds", 2, "--batch-size", 0, "--seed", 0,
        "--client-lr", 1.0, "--server-lr", 0.3, "--json",
    )  # fmt: skip
    same = [[{k: v for k, v in r.items() if k != "seconds"} for r in strict(t)] for t in (one, two)]
    assert same[0] == same[1]
    status, _, err = run(
        "train", "--model", "logistic", "--clients", 5, "--data", npz, "--rounds", 2, "--json", "--partition",
        "dirichlet(alpha=1)", "--local-epochs", 2, "--max-local-steps", 3, "--fraction", 0.5, "--client-optimizer",
        "momentum", "--client-momentum", 0.5, "--client-schedule", "exponential(decay=0.9)", "--server-optimizer",
        "momentum", "--server-schedule", "warmup(over=3)", "--proximal", 0.1, "--eval-every", 2, "--seed", 3,
    )  # fmt: skip
    assert (status, err) == (0, "")


def test_a_diverging_run_names_round_and_client(run, npz):
    status, _, err = run(*SMALL[:-1], "1e38", "--data", npz, "--rounds", 5, "--local-epochs", 3)
    assert status == 2
    assert "round 0: the update of client 0 is not finite" in err
    assert "drop" in err


def train_to(tmp_path, name, npz, rounds):
    return [*SMALL, *STATEFUL, "--data", npz, "--rounds", rounds, "--checkpoint", tmp_path / name, "--json"]


def rows_of(out):
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in out.splitlines()]


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(run, start, npz, tmp_path):
    process = start(*train_to(tmp_path, "killed", npz, 5000))
    seen = [process.stdout.readline() for _ in range(3)]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = Checkpoint.load(tmp_path / "killed").round
    assert 3 <= done < 5000
    target = done + 4
    status, resumed, _ = run(*train_to(tmp_path, "killed", npz, target))
    assert status == 0
    _, straight, _ = run(*train_to(tmp_path, "straight", npz, target))
    assert rows_of("".join(seen)) == rows_of(straight)[:3]
    assert rows_of(resumed) == rows_of(straight)[done:]
    a, b = (Checkpoint.load(tmp_path / n) for n in ("killed", "straight"))
    assert a.weights.tobytes() == b.weights.tobytes()
    for x, y in zip(a.server, b.server, strict=True):
        assert x.tobytes() == y.tobytes()


@pytest.mark.slow
def test_a_checkpoint_of_other_settings_or_of_more_rounds_is_refused(run, npz, tmp_path):
    assert run(*train_to(tmp_path, "c", npz, 3))[0] == 0
    status, _, err = run(*train_to(tmp_path, "c", npz, 2))
    assert status == 2
    assert "3 rounds already" in err
    status, _, err = run(*train_to(tmp_path, "c", npz, 4), "--seed", 9)
    assert status == 2
    assert "seed was 0, is 9" in err
    assert run(*train_to(tmp_path, "c", npz, 2), "--no-resume")[0] == 0


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_and_130(start, npz, tmp_path):
    process = start(*train_to(tmp_path, "c", npz, 100_000), "--checkpoint-every", 100_000)
    process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == ""  # TensorFlow's log included
    assert Checkpoint.load(tmp_path / "c").round == len(out.splitlines()) + 1


@pytest.mark.slow
def test_a_closed_pipe_ends_it_quietly_and_the_log_is_silent(start, npz):
    process = start(*SMALL, "--data", npz, "--rounds", 100_000)
    assert process.stdout.readline().startswith("round 1/")
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=60) != 0
    assert err == ""


@pytest.mark.slow
def test_verbose_brings_tensorflows_log_back(start, npz):
    quiet, loud = (start(*v, *SMALL, "--data", npz, "--rounds", 1) for v in ((), ("-v",)))
    assert quiet.communicate()[1] == ""
    assert loud.communicate()[1] != ""


@pytest.mark.slow
def test_drop_outs_are_shown_and_cost_what_they_cost(run, strict, npz):
    options = ("--data", npz, "--rounds", 4)
    status, out, _ = run(*SMALL, *options, "--attrition", "fixed(count=1)", "--json")
    assert status == 0
    for row in strict(out):
        assert (len(row["lost"]), row["survivors"], row["aborted"]) == (1, 3, "")
    _, out, _ = run(*SMALL, *options, "--attrition", "fixed(count=1)")
    assert "lost 1 of 4" in out.splitlines()[0]
    assert "Clients dropped out 4 times; 0 rounds were aborted" in out


def test_a_round_that_is_aborted_is_shown_and_changes_nothing(run, strict, npz, tmp_path):
    gone = ("--defense", "secret_sharing(aggregators=2)", "--attrition", "parties(gone=[aggregator 1])")
    options = (*SMALL, "--data", npz, "--rounds", 2, *gone)
    status, out, err = run(*options, "--json", "--checkpoint", tmp_path / "c")
    assert status == 0, err
    for row in strict(out):
        assert "aggregator 1" in row["aborted"]
        assert row["survivors"] == 0
    with np.load(npz) as z:
        fresh = load("logistic", input_shape=z["x"].shape[1:], num_classes=int(z["y"].max()) + 1)
    weights = Checkpoint.load(tmp_path / "c").weights
    np.testing.assert_array_equal(weights, fresh.initial_weights(integer_seed(0, Purpose.WEIGHTS)))
    _, out, _ = run(*options)
    assert "aborted: " in out.splitlines()[0]
    assert "2 rounds were aborted and changed nothing" in out
    status, _, err = run(*options, "--on-abort", "stop")
    assert status == 2
    assert "round 0 was aborted: aggregator 1 of 2 gone, and all are needed" in err
    assert "Traceback" not in err
    status, _, err = run(*options, "--on-abort", "sotp")
    assert status == 2
    assert "--on-abort" in err


@pytest.mark.slow
def test_without_a_seed_the_operating_system_draws_one_and_the_run_can_be_resumed(run, strict, npz, tmp_path):
    free = [v for i, v in enumerate(SMALL) if "--seed" not in SMALL[max(0, i - 1) : i + 1]]
    assert len(free) == len(SMALL) - 2
    options = (*free, *STATEFUL, "--data", npz)
    losses = [[r["loss"] for r in strict(run(*options, "--rounds", 2, "--json")[1])] for _ in range(2)]
    assert losses[0] != losses[1]
    c = tmp_path / "c"
    status, out, _ = run(*options, "--rounds", 2, "--checkpoint", c)
    assert status == 0
    assert "Seed drawn by the operating system" in out
    first = Checkpoint.load(c)
    assert first.seed > 2**64
    status, _, err = run(*options, "--rounds", 3, "--checkpoint", c)
    assert (status, err) == (0, "")
    assert (Checkpoint.load(c).seed, Checkpoint.load(c).round) == (first.seed, 3)
    assert "Seed drawn" not in run(*SMALL, "--data", npz, "--rounds", 1)[1]


@pytest.mark.slow
def test_what_a_user_should_know_of_the_model_and_the_delta_is_said(run, strict, npz):
    arguments = ("--data", npz, "--model", "tests.experiment.toys:scaled", "-K", 5, "--cohort", 5, "-r", 1, "--seed", 0)
    private = ("-d", "central_dp(clip=1,noise_multiplier=1)", "--weighting", "uniform", "--delta", 0.3)
    status, out, _ = run("train", *arguments, *private)
    assert status == 0
    assert out.startswith("Note on model 'tests.experiment.toys:scaled': its first layer")
    assert "assumes that delta 0.3 is small enough, though above 1/5 (clients)" in out
    status, out, err = run("train", *arguments, "--json")
    assert status == 0
    assert len(strict(out)) == 1
    assert "Note on model" in err
    status, out, _ = run("attack", "labels", "--data", npz, "--model", "tests.experiment.toys:scaled", "-n", 1)
    assert status == 0
    assert out.startswith("Note on model")


@pytest.mark.slow
def test_a_proxy_in_the_environment_does_not_stand_between_tff_and_its_runtime(start, npz, monkeypatch):
    """Nothing listens at that proxy, so a channel that went through it would never be ready."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    process = start("train", "--data", npz, "--model", "logistic", "-K", 4, "--cohort", 2, "-r", 1, "--engine", "tff")
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert "1 rounds: test accuracy" in out


@pytest.mark.slow
def test_a_resolution_that_rounds_updates_away_is_said(run, strict, npz):
    arguments = (
        "train",
        "--data",
        npz,
        "--model",
        "logistic",
        "-K",
        4,
        "--cohort",
        2,
        "-r",
        2,
        "--weighting",
        "uniform",
    )
    status, out, _ = run(*arguments, "-d", "secret_sharing(resolution=0.5)")
    assert status == 0
    assert "Warning, in 2 of 2 rounds: fixed_point: rounding to a multiple of the resolution made 100.0%" in out
    status, out, _ = run(*arguments, "-d", "secret_sharing(resolution=0.5)", "--json")
    assert all("a finer resolution" in row["warnings"][0] for row in strict(out))
    status, out, _ = run(*arguments, "-d", "secret_sharing")
    assert "Warning" not in out


@pytest.mark.slow
def test_a_simulated_federation_and_secure_noise_are_said_in_words(run, npz):
    noisy = ("--weighting", "uniform", "--defense", "central_dp(clip=0.5,noise_multiplier=1)", "--data", npz)
    status, out, _ = run(*SMALL, *noisy, "--rounds", 1, "--simulate", "cohort=200, population=9000", "--secure-rng")
    assert status == 0
    said = "cohort 200 of 9,000 simulated with 4; no guarantee for the clients that took part"
    assert out.count(said) >= 2
    assert "Signal to noise:" in out
    assert "measured on unprotected updates" in out
    assert "expanded by ChaCha20" in out
    assert "initial weights, cohorts, the order of batches and drop-outs followed --seed 0" in " ".join(out.split())
    for text, complaint in (
        ("cohort=200", "--simulate"),
        ("cohort=200, population=100", "exceeds its population"),
        ("many", "key=value"),
    ):
        status, _, err = run(*SMALL, *noisy, "--simulate", text)
        assert status == 2
        assert complaint in err
        assert "Traceback" not in err


def test_an_undefended_training_says_what_clip_to_begin_with(run, npz):
    status, out, _ = run(*SMALL, "--data", npz, "--rounds", 1)
    assert status == 0
    assert "Update norms: median" in out
    assert "central_dp(clip=" in out


def test_a_selection_is_an_option(run, npz):
    apart = ("--selection", "min_separation(size=2,separation=2)", "--defense", "dp_ftrl(clip=0.5,noise_multiplier=4)")
    status, out, _ = run(*SMALL, *apart, "--weighting", "uniform", "--data", npz, "--rounds", 3)
    assert status == 0
    assert "replace_special" in out
    assert "each at most every 2 rounds" in out
    status, _, err = run(*SMALL, *apart, "--cohort", 2, "--data", npz)
    assert status == 2
    assert "--cohort and --selection exclude each other" in err


@pytest.mark.slow
def test_gossip_on_the_command_line(run, npz, tmp_path):
    small = [*SMALL, "--data", npz, "--clients", 9, "--rounds", 1, "--weighting", "uniform"]
    figure = tmp_path / "graph.png"
    status, out, _ = run(*small, "--topology", "gossip(graph=torus)", "--topology-figure", figure)
    assert status == 0
    assert "torus of 9 peers: connected, each sends to 4 a round; spectral gap 0.6" in out
    assert "Peers sent each other" in out
    assert figure.exists()
    for topology, said in (("gosip", "Did you mean 'gossip'"), ("gossip(graph=grid)", "no grid")):
        status, _, err = run(*small, "--clients", 7, "--topology", topology)
        assert status == 2
        assert said in err
    status, _, err = run(*small, "--topology-figure", figure)
    assert (status, "shows who sends to whom in gossip" in err) == (2, True)


@pytest.mark.slow
def test_after_another_run_clients_are_the_same_or_refused(run, npz, toy, tmp_path):
    def after(checkpoint, *more, seed=2, clients=4, data=npz):
        base = ("train", "--model", "logistic", "--clients", clients, "--batch-size", 3, "--data", data, "--rounds", 1)
        given = [] if seed is None else ["--seed", seed]
        begun = [] if checkpoint is None else ["--after", checkpoint]
        return run(*base, *given, *begun, "--weighting", "uniform", *more)

    noise = ("--defense", "central_dp(clip=0.5,noise_multiplier=4)")
    first, second, bare = (tmp_path / name for name in ("first", "second", "bare"))
    assert after(None, *noise, "--checkpoint", first, seed=1)[0] == 0
    status, out, _ = after(first, *noise, "--checkpoint", second)
    assert status == 0
    assert f"Examples are dealt to clients as in {first}, by seed 1." in out
    assert "after 2 rounds (client level" in out
    layouts = {Checkpoint.load(path).config["layout"] for path in (first, second)}
    assert len(layouts) == 1
    assert "after 3 rounds (client level" in after(second, *noise, seed=None)[1]
    status, _, err = after(first, *noise, clients=5)
    assert status == 2
    assert "trained on other clients (iid(clients=4) dealt by seed 1, not iid(clients=5) dealt by seed 1)" in err
    other = tmp_path / "other.npz"
    np.savez(other, x=toy.x[::-1], y=toy.y[::-1])
    status, _, err = after(first, *noise, data=other)
    assert status == 2
    assert "was trained on other data" in err
    assert after(None, "--defense", "clip(norm=1)", "--checkpoint", bare)[0] == 0
    status, out, _ = after(bare, *noise)
    assert status == 0
    assert "Against 'released': no guarantee (an earlier phase of 1 rounds gives no number" in out
    status, _, err = after(bare, "--defense", "central_dp(clip=0.5)", "--budget", "epsilon=3, delta=1e-3")
    assert status != 0
    assert "the weights that it released are unprotected" in err


def test_a_checkpoint_without_word_of_its_clients_is_read_by_its_config(run, npz, tmp_path):
    path = tmp_path / "c"
    assert run(*SMALL, "--data", npz, "--rounds", 1, "--checkpoint", path)[0] == 0
    made = Checkpoint.load(path)
    said, made.dealt = made.dealt, {}
    made.save(path)
    again = Checkpoint.load(path)
    assert {**again.dealt, "data": said["data"]} == said
    again.require_clients(said, path)


@pytest.mark.slow
@pytest.mark.parametrize(("similarity", "said"), [(0.01, "clients alarmed in 2 of 2"), (1, "no client alarmed in 2")])
def test_alarms_stand_in_each_round_and_at_the_end(run, npz, similarity, said):
    check = f"watch_weights(similarity={similarity},rank=0,balance=1)"
    given = ("--model", "2nn(hidden=[16,16])", "--rounds", 2, "--data", npz, "--defense", check)
    status, out, _ = run(*SMALL[:1], *SMALL[3:], *given)
    assert status == 0
    assert f"watch_weights: {said} rounds" in out
    assert out.count("100% alarmed by watch_weights") == (2 if similarity < 1 else 0)
