"""Matching on text: points of an embedding, TAG, LAMP's moves and its language model; where each fails and says so."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
from fedpriv_attacks.inversion.dlg import DLG
from fedpriv_attacks.inversion.inverting_gradients import InvertingGradients
from fedpriv_attacks.inversion.lamp import LAMP
from fedpriv_attacks.inversion.tag import TAG
from fedpriv_attacks.labels.auto import Auto
from fedpriv_attacks.labels.inference import Known
from fedpriv_attacks.modern import Modern
from fedpriv_attacks.parts.embedding import Embedding
from fedpriv_attacks.parts.initializers import Points
from fedpriv_attacks.parts.language_model import NGrams, count, nats, perplexity
from fedpriv_attacks.parts.moves import Ground, Reorder, orders, shuffles
from fedpriv_attacks.parts.objectives import Cosine, SquaredAndAbsolute
from fedpriv_attacks.parts.optimizers.first_order import Adam
from fedpriv_attacks.parts.priors import EmbeddingLength, Scene

from fedpriv.base import registry
from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.data.dataset import Dataset
from fedpriv.data.kinds.tokens import Tokens
from fedpriv.models import load
from fedpriv.models.sequences import with_presence
from fedpriv.models.spec import Spec
from fedpriv.rounds.exposure import Exposure
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.knowledge import Auxiliary

LENGTH, VOCABULARY = 6, 30
KIND = Tokens(length=LENGTH, vocabulary=VOCABULARY, padding=0)


def text(n=1, each=False, lengths=None, seed=0):
    draws = np.random.default_rng(seed)
    x = draws.integers(1, VOCABULARY, (n, LENGTH)).astype(np.int32)
    for row, length in zip(x, lengths or [LENGTH] * n):
        row[length:] = 0
    last = draws.integers(1, VOCABULARY, (n, 1)) if lengths is None else np.zeros((n, 1))
    y = np.concatenate([x[:, 1:], last], 1).astype(np.int32) if each else draws.integers(0, 2, n).astype(np.int32)
    return x, y


@pytest.fixture(scope="module")
def models():
    def made(name, each):
        x, y = text(4, each)
        return load(name, Dataset("made", x, y, VOCABULARY if each else 2, kind=KIND))

    return {
        "classes": made("gpt(layers=1,width=16,heads=2)", False),
        "next": made("gpt(layers=1,width=16,heads=2,tied=false)", True),
    }


def view_of(helpers, model, x, y, told=None, **options):
    found = helpers.make_view(model, x.astype(np.float32), y, **options)
    return dataclasses.replace(found, data_kind=KIND, told={} if told is None else {"lengths": np.asarray(told)})


@pytest.fixture(scope="module")
def view(helpers, models):
    return view_of(helpers, models["classes"], *text())


def test_the_gradient_at_points_is_that_at_tokens_but_for_the_table(view):
    x, y = text()
    model, where = view.model, view.model.embedding.table
    rows = view.model.spec.unflatten_numpy(view.weights)[where]
    tokens = np.eye(VOCABULARY, dtype=np.float32)[x]
    points = with_presence(tf.constant(tokens @ rows), x != 0)
    found = model.spec.unflatten_numpy(view.simulate(points, tf.constant(y)).numpy())
    wanted = model.spec.unflatten_numpy(view.observed)
    for i in Embedding().compared(model):
        np.testing.assert_allclose(found[i], wanted[i], atol=1e-6)
    assert not np.any(found[where])
    assert np.any(wanted[where])


def test_dlg_takes_points_on_text_and_finds_a_sentence_and_its_class(view):
    x, y = text()
    finding = DLG(restarts=1).run(view, seed=1)
    assert (finding.x == x).all()
    assert list(finding.y) == list(y)
    assert finding.extra["coordinates"] == "embedding"


@pytest.mark.slow
def test_next_tokens_follow_from_the_points(helpers, models):
    x, y = text(each=True)
    finding = DLG(restarts=1).run(view_of(helpers, models["next"], x, y), seed=1)
    assert (finding.x == x).all()
    assert (finding.y == y).all()


def test_relaxed_targets_at_the_truth_are_the_client_s(helpers, models):
    x, y = text(2, each=True, lengths=[6, 4])
    view = view_of(helpers, models["next"], x, y, told=[6, 4])
    model, part = view.model, Embedding()
    rows = model.spec.unflatten_numpy(view.weights)[model.embedding.table]
    tensors = tuple(tf.constant(t, "float32") for t in part.tensors(view))
    points = part.entering(tf.constant(rows[x] / np.float32(tensors[0])), tensors, KIND)
    free = tf.one_hot([[0], [0]], VOCABULARY)  # the text ends
    relaxed = part.relaxed_targets(free, points, tf.constant(view.weights), tensors, model)
    ours, theirs = (
        np.concatenate([p.ravel() for p in model.spec.unflatten_numpy(a)[1:]])
        for a in (view.simulate(points, relaxed).numpy(), view.observed)
    )
    assert np.linalg.norm(ours - theirs) < 0.02 * np.linalg.norm(theirs)
    assert (model.task.harden(relaxed.numpy()) == y).all()


@pytest.mark.slow
def test_tag_finds_a_sentence(helpers):
    x, y = text()
    model = load("gpt", Dataset("made", *text(4), 2, kind=KIND))
    finding = TAG().run(view_of(helpers, model, x, y), seed=1)
    assert (finding.x == x).mean() >= 5 / 6


@pytest.mark.slow
def test_lamp_finds_a_sentence_and_none_where_the_update_is_noise(helpers, models):
    x, y = text(seed=1)
    view = view_of(helpers, models["classes"], x, y)
    noise = np.random.default_rng(0).normal(size=view.update_size).astype(np.float32)
    lamp = LAMP(
        optimizer=Adam(steps=500, learning_rate=0.1, decay="linear"),
        initializer=Points(draws=20, permutations=20),
        moves=Reorder(candidates=10),
    )
    assert (lamp.run(view, seed=1).x == x).mean() >= 5 / 6
    spoiled = lamp.run(dataclasses.replace(view, observed=noise), seed=1)
    assert (spoiled.x == x).mean() < 0.5


def test_a_zero_update_says_nothing(view):
    with pytest.raises(CapabilityError, match="exactly zero"):
        TAG().run(dataclasses.replace(view, observed=np.zeros_like(view.observed)))
    alone = np.zeros_like(view.observed)
    alone[view.model.spec.slice_of("embedding/table")] = 1
    with pytest.raises(CapabilityError, match="but for the embedding's table"):
        DLG().run(dataclasses.replace(view, observed=alone))


def test_attacks_that_follow_pixels_refuse_text(view):
    with pytest.raises(CapabilityError, match="numbers of tokens are names; use coordinates=embedding"):
        InvertingGradients().run(view)
    with pytest.raises(CapabilityError, match="coordinates=embedding"):
        DLG(coordinates="pixels").run(view)


def test_points_refuse_images(helpers):
    model = helpers.dense((8, 8, 1))
    with pytest.raises(CapabilityError, match="points for tokens, but examples are images"):
        TAG().run(helpers.make_view(model, helpers.smooth_images(1, (8, 8, 1), 1), [7]))


def test_parts_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="start from points"):
        TAG(initializer="normal")
    with pytest.raises(ValueError, match="takes no moves"):
        LAMP(optimizer="lbfgs")


def test_lengths_are_told_or_read_off_the_positions(helpers, models):
    x, y = text(2, lengths=[5, 3])
    untold = view_of(helpers, models["classes"], x, y)
    told = view_of(helpers, models["classes"], x, y, told=[5, 3])
    assert list(Embedding().lengths_of(untold)) == [5, 5]
    assert list(Embedding().lengths_of(told)) == [5, 3]
    assert list(Embedding(lengths="full").lengths_of(told)) == [6, 6]
    rows = told.model.spec.unflatten_numpy(told.weights)[told.model.embedding.table]
    for distance in ("inputs", "cosine", "euclidean"):
        assert (Embedding(distance=distance).found(told, rows[x]) == x).all()
    shorter = Embedding().found(told, rows[np.zeros_like(x)])
    assert ((shorter == 0) == (x == 0)).all()  # padding beyond the end and nowhere else


def test_what_a_normalization_forgets_is_not_asked_of_a_point(view):
    x = text()[0]
    parts = view.model.spec.unflatten_numpy(view.weights)
    rows, positions = parts[view.model.embedding.table], parts[view.model.embedding.positions]
    points = 0.2 * (rows[x] + positions) + 0.05 - positions
    assert (Embedding().found(view, points) == x).all()
    assert (Embedding(distance="cosine").found(view, points) != x).any()


def test_rows_of_the_table_that_moved_are_all_tokens_there_can_be(view):
    x = text()[0]
    possible = Embedding(table="tokens").tensors(view)[2]
    assert set(np.flatnonzero(possible)) == set(x[0])


@pytest.mark.parametrize("make", [orders, shuffles])
def test_orders_keep_every_place_and_what_is_beyond_the_end(make):
    lengths = tf.constant([LENGTH, 3])
    found = make(200, lengths, LENGTH, [1, 2]).numpy()
    assert found.shape == (200, 2, LENGTH)
    assert (np.sort(found) == np.arange(LENGTH)).all()
    assert (found[:, 1, 3:] == [3, 4, 5]).all()
    changed = (found != np.arange(LENGTH)).any(2)
    assert changed.any(0).all()
    if make is orders:
        assert changed.sum(1).max() == 1  # one sentence at a time


@pytest.mark.slow
def test_an_attack_told_the_rows_finds_no_token_whose_row_did_not_move(helpers, models):
    x, y = text(2, seed=3)
    part = Embedding(table="tokens")
    few = DLG(coordinates=part, labels="known", restarts=1, optimizer="lbfgs(max_evaluations=2)")
    view = view_of(helpers, models["classes"], x, y, knows=("labels",))
    found = few.run(view, seed=1)
    assert set(found.x.ravel()) <= set(x.ravel())  # far from done, and among the tokens there are
    points = part.decode(tf.constant(found.extra["variables"][0]), (2, LENGTH, 16)).numpy()
    assert not set(Embedding().found(view, points).ravel()) <= set(x.ravel())


def test_next_tokens_may_be_known(helpers, models):
    x, y = text(2, each=True)
    view = view_of(helpers, models["next"], x, y, knows=("labels",))
    for part in (Auto(), Known()):
        np.testing.assert_array_equal(part(view).y, y)


@pytest.mark.slow
def test_an_adversary_of_a_federation_is_told_the_lengths(models):
    x, y = text(4, lengths=[6, 2, 3, 5])
    data = Dataset("made", x, y, 2, kind=KIND)
    adversary = Adversary().knowing("sequence_lengths")
    views = [o.view for o in Exposure(models["classes"], data, trials=2, batch=2, adversary=adversary)]
    assert [list(Embedding().lengths_of(view)) for view in views] == [[6, 2], [3, 5]]
    alone = [o.view for o in Exposure(models["classes"], data, trials=2, batch=2)]
    assert [list(Embedding().lengths_of(view)) for view in alone] == [[6, 6], [5, 5]]


def two_epochs(helpers, models, rate):
    x, y = text(2, seed=2)
    return view_of(helpers, models["classes"], x, y, procedure=helpers.local_steps(2, rate)), x, y


def test_what_points_miss_of_two_epochs_is_of_the_steps_size(helpers, models):
    missed = []
    for rate in (0.01, 0.001):
        view, x, y = two_epochs(helpers, models, rate)
        model, kept = view.model, Embedding().compared(view.model)
        rows = model.spec.unflatten_numpy(view.weights)[model.embedding.table]
        found = view.simulate(with_presence(tf.constant(rows[x]), x != 0), tf.constant(y)).numpy()
        ours, theirs = (model.spec.unflatten_numpy(a) for a in (found, view.observed))
        ours, theirs = (np.concatenate([parts[i].ravel() for i in kept]) for parts in (ours, theirs))
        missed.append(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    assert 0.01 < missed[0] < 0.2
    assert missed[1] < 0.2 * missed[0]


@pytest.mark.slow
def test_two_local_epochs_do_not_hide_a_batch(helpers, models):
    view, x, _ = two_epochs(helpers, models, 0.001)
    found = DLG(labels="auto", restarts=2).run(view, seed=1).x
    assert max((found == x).mean(), (found[::-1] == x).mean()) > 0.9


@pytest.mark.parametrize("name", ["class_representatives", "maximum_posterior", "ggl", "gradinversion", "dlf", "rgap"])
def test_attacks_on_images_refuse_text_by_name(name, view):
    with pytest.raises(CapabilityError):
        registry.attacks.create(name).run(view)


@pytest.mark.slow
def test_modern_finds_a_text_with_what_is_made_for_text(view):
    finding = Modern().run(view, seed=1)
    assert (finding.x == text()[0]).all()
    assert finding.extra["tried"][0]["attack"] == "dager"


def test_modern_takes_attacks_on_text_and_leaves_its_configuration(view, helpers):
    modern, images = Modern(), helpers.make_view(helpers.dense(), helpers.smooth_images(1, (8, 8, 1), 1), [7])
    assert [a.name for a in modern.tried_on(view)] == ["dager", "dlg", "lamp"]
    assert modern.tried_on(images) == modern.attacks
    assert [a["name"] for a in modern.config()["attacks"]][:3] == ["first_layer", "rgap", "spear"]
    asked = Modern(attacks=["inverting_gradients"])
    assert asked.tried_on(view) == asked.attacks
    with pytest.raises(CapabilityError, match=r"none of the attacks of 'modern' applies.*numbers of tokens are names"):
        asked.run(view)


def test_the_language_model_s_text_is_read_from_a_path_if_its_tokens_are_the_clients_(view, tmp_path):
    x, y = text(5, seed=8)

    def saved(name, kind):
        np.savez(tmp_path / name, x_train=x, y_train=y, x_test=text(3, seed=9)[0], y_test=y[:3], kind=kind)
        return Reorder(auxiliary=str(tmp_path / name))

    moves = saved("own.npz", f"tokens(length={LENGTH},vocabulary={VOCABULARY},padding=0)")
    assert moves.brings() == (Auxiliary(data=str(tmp_path / "own.npz")),)
    wanted = [a for part in count(x, VOCABULARY, 0) for a in part]
    for found, right in zip(moves.tensors(view), wanted, strict=True):
        np.testing.assert_array_equal(found, right)
    with pytest.raises(CapabilityError, match="consists of 31 tokens, but the clients' of 30 tokens"):
        saved("other.npz", f"tokens(length={LENGTH},vocabulary={VOCABULARY + 1},padding=0)").tensors(view)
    with pytest.raises(CapabilityError, match="'fashion_small' consists of images"):
        Reorder(auxiliary="fashion_small").tensors(view)


def test_language_weighs_against_the_objective_s_logarithm(view):
    """A tenth of a nat's worth does not overrule an objective that the move raises tenfold."""
    x = text()[0]
    known = count(np.repeat(x, 20, 0), VOCABULARY, 0)
    own = tuple(tf.constant(a) for part in known for a in part)
    rows = view.model.spec.unflatten_numpy(view.weights)[view.model.embedding.table]
    v = tf.constant(rows[x[0, ::-1]].reshape(-1) / np.float32(Embedding().tensors(view)[0]))
    ground = ground_of(view, own)
    for least in (1e-9, 1e-3):
        worse = functools.partial(tf.constant, [least] + [10 * least] * 40)
        _, moved = Reorder(candidates=40, language=0.1).moved(v, lambda rows, w=worse: w(), ground, [7, 0])
        assert not moved
        _, moved = Reorder(candidates=40, language=10).moved(v, lambda rows, w=worse: w(), ground, [7, 0])
        assert moved


def ground_of(view, own=()):
    tensors = tuple(tf.constant(t, "float32") for t in Embedding().tensors(view))
    shape = (1, LENGTH, 16)
    return Ground(view.static, Embedding(), shape, tf.constant(view.weights), tensors, own)


def test_moves_never_raise_the_score_and_keep_the_points(view):
    wanted = tf.random.stateless_normal([LENGTH * 16], [3, 4])
    start = tf.reshape(tf.reverse(tf.reshape(wanted, [LENGTH, 16]), [0]), [-1])

    def scores(rows):
        return tf.reduce_sum(tf.square(rows - wanted), 1)

    v, last = start, float(scores(start[None])[0])
    for step in range(12):
        new, moved = Reorder(candidates=30).moved(v, scores, ground_of(view), [5, step])
        value = float(scores(new[None])[0])
        assert value < last if bool(moved) else value == last
        v, last = new, value
    points = {row.tobytes() for row in v.numpy().reshape(LENGTH, 16)}
    assert points == {row.tobytes() for row in wanted.numpy().reshape(LENGTH, 16)}
    assert last < 0.5 * float(scores(start[None])[0])


def test_a_language_model_puts_words_in_order_where_the_update_cannot(view):
    x = text()[0]
    known = count(np.repeat(x, 20, 0), VOCABULARY, 0)
    own = tuple(tf.constant(a) for part in known for a in part)
    rows = view.model.spec.unflatten_numpy(view.weights)[view.model.embedding.table]
    unit = Embedding().tensors(view)[0]
    v = tf.constant(rows[x[0, ::-1]].reshape(-1) / np.float32(unit))
    for step in range(20):
        v, _ = Reorder(candidates=40, language=1.0).moved(
            v, lambda rows: tf.zeros([41]), ground_of(view, own), [7, step]
        )
    points = v.numpy().reshape(1, LENGTH, 16) * unit
    assert (Embedding().found(view, points) == x).all()


def test_the_language_model_mixes_orders_as_witten_and_bell_do():
    seen = np.array([[1, 2, 3], [1, 2, 0]])
    model = NGrams(*(tuple(tf.constant(a) for a in part) for part in count(seen, 4, 0)))
    # Seven tokens were counted, ends among them, of four kinds; each of the five there can be has a share besides.
    one, two, end = ((times + 4 / 5) / (7 + 4) for times in (2, 2, 2))
    three = (1 + 4 / 5) / (7 + 4)
    first = (2 + (2 + one) / 3) / 3  # 1 is all that begins, twice
    second = (2 + (2 + two) / 3) / 3  # 2 is all that follows 1
    third = (1 + 2 * (1 + 2 * three) / 4) / 4  # after 2 come 3 and the end, once each
    ends = (1 + 2 * (1 + 2 * end) / 4) / 4
    last = (1 + (1 + end) / 2) / 2  # after 3 the end
    longer = nats(model, tf.constant([[1, 2, 3]]), tf.ones([1, 3], "float64"), 4)
    shorter = nats(model, tf.constant([[1, 2, 0]]), tf.constant([[1.0, 1, 0]], "float64"), 4)
    np.testing.assert_allclose(longer, -np.log([first * second * third * last]) / 4)
    np.testing.assert_allclose(shorter, -np.log([first * second * ends]) / 3)
    assert perplexity(count(seen, 4, 0), seen, 4, 0) < perplexity(count(seen, 4, 0), seen[:, ::-1], 4, None)


def test_a_language_model_refuses_what_is_no_text_of_its_vocabulary():
    with pytest.raises(ParameterError, match="tokens below 4"):
        count(np.array([[1, 7]]), 4, 0)


def test_angles_leave_out_what_rounding_moved():
    spec = Spec(("a", "b"), ((2,), (2,)))
    observed = tf.constant([1.0, 0, 1e-8, 0])
    simulated = tf.constant([1.0, 0, -1, 0])
    assert float(Cosine(per_layer=True)(simulated, observed, spec)) == pytest.approx(1.0)
    assert float(Cosine(per_layer=True, least=1e-6)(simulated, observed, spec)) == pytest.approx(0.0, abs=1e-6)


def test_tag_s_objective():
    spec = Spec(("a", "b"), ((1,), (1,)))
    observed, simulated = tf.constant([0.6, 0.8]), tf.constant([0.6, 0.0])
    assert float(SquaredAndAbsolute(alpha=0)(simulated, observed, spec)) == pytest.approx(0.64)
    # The second tensor counts half: 0.5 * 0.8 / (0.6 + 0.5 * 0.8).
    assert float(SquaredAndAbsolute(alpha=2)(simulated, observed, spec)) == pytest.approx(0.64 + 2 * 0.4)
    even = SquaredAndAbsolute(alpha=1, decay=False)(simulated, observed, spec)
    assert float(even) == pytest.approx(0.64 + 0.8 / 1.4)


def test_the_length_prior_is_nothing_at_the_table_s_mean_length(view):
    rows = view.model.spec.unflatten_numpy(view.weights)[view.model.embedding.table]
    length = np.linalg.norm(rows, axis=1).mean()
    points = np.zeros((1, LENGTH, 17), np.float32)
    points[:, :, 0], points[:, :, -1] = length, 1
    scene = Scene(view.static, tf.constant(view.weights), tf.zeros([1]))
    assert float(EmbeddingLength(weight=2)(tf.constant(points), scene)) == pytest.approx(0, abs=1e-6)
    points[:, :, 0] *= 1.5
    assert float(EmbeddingLength(weight=2)(tf.constant(points), scene)) == pytest.approx(2 * 0.25, rel=1e-4)
    points[:, 3:] = 0  # padding does not count
    assert float(EmbeddingLength(weight=2)(tf.constant(points), scene)) == pytest.approx(2 * 0.25, rel=1e-4)
    with pytest.raises(ParameterError, match="needs points of an embedding"):
        EmbeddingLength()(tf.zeros([1, 4]), scene)
