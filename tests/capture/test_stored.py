"""Rounds that PyTorch, Flower, NVFlare and TFF trained; `experiments/captures` has the scripts that made the files."""

import numpy as np
import pytest

from fedpriv import load_model, make_attack
from fedpriv.base.errors import ParameterError
from fedpriv.capture import captured

STATED = "epochs=2, batch_size=4, client.learning_rate=0.1, momentum=0.9, weight_decay=0.01"


@pytest.fixture(scope="module")
def network():
    return lambda text: load_model(f"fedpriv_experiments.captures:{text}", input_shape=(14, 14, 1), num_classes=10)


def loop(model, path, procedure=STATED, **more):
    files = {"before": path("torch_cnn_before.pt"), "after": path("torch_cnn_after.pt")}
    return captured(model, **files, procedure=procedure, examples=8, **more)


@pytest.mark.slow
def test_two_epochs_of_a_pytorch_loop_are_replayed_to_rounding(network, path, truth):
    x, y, order = truth("torch_cnn")
    made = loop(network("cnn"), path)
    check = made.check(x, y, order)
    assert check.error < 2e-6
    assert not check.contradicted
    lines = {m.target: (m.source, m.change) for m in made.arrangement.matches}
    assert lines["conv2/kernel"] == ("2.weight", "OIHW to HWIO")
    assert lines["logits/kernel"] == ("5.weight", "transposed, rows from CHW to HWC")
    assert "2.weight" in made.table()
    # in the file's order, with one batch swapped for another, it is as far off as two orders are from each other
    unordered = made.check(x, y)
    assert not unordered.contradicted
    assert 0.01 < unordered.error < 0.5
    assert "order of the batches" in unordered.describe()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("said", "instead"),
    [("momentum=0.9", "momentum=0"), ("weight_decay=0.01", "weight_decay=0"), ("=0.1,", "=0.05,")],
)
def test_another_procedure_does_not_explain_it(network, path, truth, said, instead):
    check = loop(network("cnn"), path, STATED.replace(said, instead)).check(*truth("torch_cnn"))
    assert check.contradicted
    assert check.error > 0.01


def test_rows_of_a_flattened_image_in_the_wrong_order_do_not_explain_it(network, path, truth):
    assert loop(network("cnn"), path, flatten="keras").check(*truth("torch_cnn")).contradicted


@pytest.mark.slow
def test_a_gradient_of_pytorch_gives_the_image_away_without_the_truth(network, path, truth):
    x, y, _ = truth("torch_gradient")
    made = captured(
        network("cnn"),
        before=path("torch_gradient_weights.safetensors"),
        update=path("torch_gradient.safetensors"),
        examples=1,
    )
    assert made.check(x, y).error < 2e-6
    found = make_attack("dlg").run(made.view, 0)
    assert np.mean((found.x - x) ** 2) < 1e-5
    assert made.check(found.x, found.y).error < 1e-3
    wrong = made.check(1 - x, y)
    assert wrong.contradicted


@pytest.mark.slow
def test_batch_normalization_in_train_mode_with_its_statistics_sent_and_not(network, path, truth):
    x, y, _ = truth("torch_norm")
    files = {"before": path("torch_norm_before.pt"), "after": path("torch_norm_after.pt")}
    for mode in ("running", "train"):
        model = network(f"normalized(batch_norm={mode})")
        made = captured(model, **files, procedure="lr=0.1", examples=8)
        assert made.check(x, y).error < 5e-6
        assert (made.view.moments_of_batch is not None) == (mode == "running")
        assert any("running statistics" in w for w in made.warnings) == (mode == "train")
        if mode == "running":
            ((mean, _),) = made.view.moments_of_batch
            ((own, _),) = model.moments(model.spec.unflatten_numpy(made.view.weights), x)
            np.testing.assert_allclose(mean, own, atol=1e-5)


def test_frozen_statistics_that_are_not_the_clients_are_refused(network, path):
    files = {"before": path("torch_norm_before.pt"), "after": path("torch_norm_after.pt")}
    own = captured(network("normalized(batch_norm=eval)"), **files, procedure="lr=0.1", examples=8)
    assert "frozen statistics of its own" in own.warnings[0]  # the client's first round: both have mean 0, variance 1
    swapped = {"before": files["after"], "after": files["before"]}
    with pytest.raises(ParameterError, match=r"'1\.running_mean' of .* is none of them"):
        captured(network("normalized(batch_norm=eval)"), **swapped, procedure="lr=0.1", examples=8)


def test_what_flower_passes_is_a_list_without_names(path, truth):
    x, y, _ = truth("flower")
    model = load_model("mlp(hidden=[40],activation=relu)", input_shape=(14, 14, 1), num_classes=10)
    files = {"before": path("flower_before.npz"), "after": path("flower_client0_after.npz")}
    made = captured(model, **files, procedure="epochs=2, lr=0.05", examples=2)
    assert made.arrangement.layout == "torch"
    assert made.check(x, y).error < 2e-6
    found = make_attack("first_layer").run(made.view, 0)
    assert sorted(found.y) == sorted(y)
    for image in x:
        assert np.abs(found.x - image).max((1, 2, 3)).min() < 1e-4
    with np.load(files["before"]) as first, np.load(files["after"]) as second:
        listed = captured(
            model, before=list(first.values()), after=list(second.values()), procedure="epochs=2, lr=0.05", examples=2
        )
    np.testing.assert_array_equal(listed.view.observed, made.view.observed)


def test_what_tffs_own_process_releases_is_the_mean_of_its_clients(path, truth):
    """Three clients with an image each: none of their updates was seen alone, and all three images come out."""
    x, y, _ = truth("tff")
    model = load_model("mlp(hidden=[60],activation=relu)", input_shape=(14, 14, 1), num_classes=10)
    files = {"before": path("tff_before.npz"), "after": path("tff_after.npz")}
    made = captured(model, **files, procedure="epochs=2, batch_size=1, lr=0.05", examples=(1, 1, 1))
    assert made.view.clients == 3
    assert made.check(x, y).error < 3e-6
    assert captured(model, **files, procedure="epochs=1, lr=0.05", examples=(1, 1, 1)).check(x, y).contradicted
    found = make_attack("first_layer").run(made.view, 0)
    for image in x:
        assert np.abs(found.x - image).max((1, 2, 3)).min() < 1e-4


@pytest.fixture(scope="module")
def nvflare():
    model = load_model("mlp(hidden=[40],activation=relu)", input_shape=(14, 14, 1), num_classes=10)

    def capture(path, update_is="difference", procedure="epochs=3, lr=0.05, momentum=0.9"):
        files = {"before": path("nvflare_before.npz"), "update": path("nvflare_update.npz")}
        return captured(model, **files, update_is=update_is, procedure=procedure, examples=3)

    return capture


def test_what_nvflares_client_sends_is_a_difference_of_weights(nvflare, path, truth):
    x, y, _ = truth("nvflare")
    made = nvflare(path)
    assert [m.source for m in made.arrangement.matches] == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    assert made.check(x, y).error < 2e-6
    assert nvflare(path, procedure="epochs=3, lr=0.05").check(x, y).contradicted
    mistaken = nvflare(path, "gradient", None).check(x, y)
    assert mistaken.contradicted
    assert "or a difference of weights was taken for a gradient" in mistaken.describe()


def test_units_that_begin_to_fire_are_no_sign_of_a_mixture(nvflare, path, truth):
    """Over three epochs two or three units came to fire for an image that they had not fired for."""
    x, _, _ = truth("nvflare")
    found = make_attack("first_layer").run(nvflare(path).view, 0).x
    found = found[np.isfinite(found).all((1, 2, 3))]
    assert len(found) == 2  # the third has one unit of its own, which over several steps is no proof
    for one in found:
        assert np.mean((one - x) ** 2, (1, 2, 3)).min() < 1e-6


@pytest.mark.slow
def test_three_images_come_out_of_three_epochs_of_nvflares_client(nvflare, path, truth):
    x, y, _ = truth("nvflare")
    made = nvflare(path)
    found = make_attack("modern").run(made.view, 0)
    assert sorted(found.y) == sorted(y)
    for image in x:
        assert np.mean((found.x - image) ** 2, (1, 2, 3)).min() < 1e-6
