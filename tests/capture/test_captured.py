import math

import numpy as np
import pytest

from fedpriv import Adversary, load_model, make_attack, make_defense, run_trial
from fedpriv.base.errors import CapabilityError, DataError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.capture import captured
from fedpriv.capture.stated import stated_procedure


def stepped(model, weights, x, y, rate, decay=0.0, still=()):
    """Weights after one step of SGD, written down once more."""
    tensors = [tf.constant(w) for w in weights.values()]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        loss = tf.reduce_mean(model.example_losses(tensors, x, tf.constant(y)))
    gradient = tape.gradient(loss, tensors)
    return {
        n: w if n in still else w - np.float32(rate) * (g.numpy() + np.float32(decay) * w)
        for (n, w), g in zip(weights.items(), gradient, strict=True)
    }


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(1)
    return rng.uniform(size=(4, 6)).astype(np.float32), np.array([0, 1, 2, 0])


def test_a_captured_view_holds_what_was_given_and_no_more(small, batch):
    model, weights = small
    after = stepped(model, weights, *batch, 0.1)
    view = captured(model, before=weights, after=after, procedure="lr=0.1", examples=4).view
    np.testing.assert_allclose(view.observed, model.spec.flatten_numpy(list(after.values())) - view.weights, atol=1e-7)
    assert (view.num_examples, view.client_rate, view.labels, view.kind) == ((4,), 0.1, None, "update")
    blind = captured(model, before=weights, after=after).view
    assert (blind.procedure, blind.num_examples, blind.client_rate) == (None, None, None)
    assert not {"procedure", "num_examples"} & blind.adversary.knows
    with pytest.raises(CapabilityError, match="number of examples"):
        make_attack("dlg").run(blind)
    told = captured(model, before=weights, after=after, procedure="lr=0.1", examples=4, labels=batch[1]).view
    assert "labels" in told.adversary.knows
    hidden = captured(
        model, before=weights, after=after, procedure="lr=0.1", examples=4, adversary=Adversary().without("procedure")
    ).view
    assert (hidden.procedure, hidden.client_rate) == (None, None)


def test_a_gradient_is_the_same_as_the_step_that_it_makes(small, batch):
    model, weights = small
    after = stepped(model, weights, *batch, 1.0)
    gradient = {n: weights[n] - after[n] for n in weights}
    one = captured(model, before=weights, update=gradient, examples=4)
    two = captured(model, before=weights, after=after, procedure="lr=1", examples=4)
    np.testing.assert_allclose(one.view.observed, two.view.observed, atol=1e-6)
    difference = {n: -g for n, g in gradient.items()}
    three = captured(model, before=weights, update=difference, update_is="difference", procedure="lr=1.0", examples=4)
    np.testing.assert_allclose(three.view.observed, two.view.observed, atol=1e-6)
    with pytest.raises(ParameterError, match="a gradient is one step's"):
        captured(model, before=weights, update=gradient, procedure="epochs=2,lr=0.1", examples=4)


def test_a_mean_over_clients_is_replayed_as_one(small, batch):
    model, weights = small
    x, y = batch
    parts = [stepped(model, weights, x[s], y[s], 0.1) for s in (slice(0, 3), slice(3, 4))]
    for weighting, share in (("uniform", 0.5), ("examples", 0.75)):
        mean = {n: share * parts[0][n] + (1 - share) * parts[1][n] for n in weights}
        made = captured(model, before=weights, after=mean, procedure="lr=0.1", examples=(3, 1), weighting=weighting)
        assert made.view.kind == "sum"
        assert made.check(x, y).error < 1e-5
        assert not made.check().contradicted


def test_weight_decay_of_one_step_is_taken_out_so_that_exact_attacks_read_it(small, batch):
    model, weights = small
    x, y = batch[0][:1], batch[1][:1]
    after = stepped(model, weights, x, y, 0.1, decay=0.05)
    made = captured(model, before=weights, after=after, procedure="lr=0.1,weight_decay=0.05", examples=1)
    assert made.check(x, y).error < 1e-5
    assert "weight_decay=0.05 of the one step is taken out" in made.warnings[0]
    np.testing.assert_allclose(make_attack("first_layer").run(made.view).x, x, atol=1e-3)
    ignoring = captured(model, before=weights, after=after, procedure="lr=0.1", examples=1)
    assert ignoring.check(x, y).contradicted
    more = captured(model, before=weights, after=after, procedure="lr=0.1,weight_decay=0.05,epochs=2", examples=1)
    with pytest.raises(CapabilityError, match=r"weight_decay=0\.05"):
        make_attack("first_layer").run(more.view)


def test_frozen_layers_are_replayed_as_such_whether_sent_or_not(small, batch):
    model, weights = small
    still = ("dense2/kernel", "dense2/bias")
    after = stepped(model, weights, *batch, 0.1, still=still)
    said = captured(model, before=weights, after=after, procedure="lr=0.1", examples=4, frozen=["dense2"])
    assert said.check(*batch).error < 1e-5
    part = {n: a for n, a in after.items() if n not in still}
    unsent = captured(model, before=weights, after=part, procedure="lr=0.1", examples=4)
    assert unsent.check(*batch).error < 1e-5
    assert "not sent, so taken to be frozen: dense2/kernel, dense2/bias" in unsent.warnings
    unsaid = captured(model, before=weights, after=after, procedure="lr=0.1", examples=4)
    assert unsaid.check(*batch).contradicted
    assert "did not move at all: dense2/kernel, dense2/bias" in unsaid.warnings[0]
    moved = stepped(model, weights, *batch, 0.1)
    with pytest.raises(ParameterError, match="'dense2/kernel' is said to be frozen, but it moved"):
        captured(model, before=weights, after=moved, procedure="lr=0.1", examples=4, frozen=["dense2"])
    with pytest.raises(ParameterError, match="no weight or layer 'dense3'"):
        captured(model, before=weights, after=moved, procedure="lr=0.1", examples=4, frozen=["dense3"])
    nowhere = {n: a for n, a in weights.items() if n not in still}
    gone = captured(model, before=nowhere, after=part, procedure="lr=0.1", examples=4, frozen=["dense2"])
    assert "'dense2/kernel' is in no file: it is as the model was built" in gone.warnings
    assert gone.check(*batch).error < 1e-5  # the fixture's weights are those of seed 0


def test_an_update_of_nothing_is_refused(small):
    model, weights = small
    with pytest.raises(ParameterError, match=r"equals .*state_dict\(\) refers to the weights"):
        captured(model, before=weights, after=weights)
    with pytest.raises(ParameterError, match="is zero"):
        captured(model, before=weights, update={n: np.zeros_like(w) for n, w in weights.items()})
    with pytest.raises(ParameterError, match="one of the two"):
        captured(model, before=weights)
    with pytest.raises(ParameterError, match="a whole number from 1 on"):
        captured(model, before=weights, after={n: w + 1 for n, w in weights.items()}, examples=0)


def test_half_precision_is_weighed_against_the_update(small, batch):
    model, weights = small
    rng = np.random.default_rng(0)
    weights = {n: rng.uniform(-1, 1, w.shape).astype(np.float32) for n, w in weights.items()}

    def halved(arrays):
        return {n: a.astype(np.float16) for n, a in arrays.items()}

    large = stepped(model, weights, *batch, 1.0)
    noted = captured(model, before=halved(weights), after=halved(large), procedure="lr=1", examples=4)
    assert "half precision (float16): rounding is about" in noted.warnings[0]
    assert noted.check(*batch).error < 3 * noted.rounding < 0.01
    assert not noted.check(*batch).contradicted
    # a rate that is 5% wrong is further off than rounding, though not than a bound on it
    wrong = captured(model, before=halved(weights), after=halved(large), procedure="lr=0.95", examples=4)
    assert wrong.check(*batch).contradicted
    with pytest.raises(ParameterError, match="times as large; capture the round in float32"):
        captured(model, before=halved(weights), after=halved(stepped(model, weights, *batch, 0.0002)))


def test_the_rounding_of_half_precision_is_as_large_as_said(small):
    """Against what float32 says: of weights that all moved by more than they are rounded by."""
    model, weights = small
    rng = np.random.default_rng(0)
    weights = {n: rng.uniform(-1, 1, w.shape).astype(np.float32) for n, w in weights.items()}
    after = {n: w + rng.normal(0, 0.1, w.shape).astype(np.float32) for n, w in weights.items()}
    for kind, unit in (("float16", 2.0**-11), ("bfloat16", 2.0**-8)):

        def rounded(arrays, kind=kind):
            if kind == "float16":
                return {n: a.astype(np.float16) for n, a in arrays.items()}
            return {n: tf.cast(tf.cast(a, tf.bfloat16), tf.float32).numpy() for n, a in arrays.items()}

        whole = captured(model, before=weights, after=after).view.observed
        made = captured(model, before=rounded(weights), after=rounded(after))
        off = np.linalg.norm(made.view.observed - whole) / np.linalg.norm(whole)
        assert 0.6 < off / made.rounding < 1.6
        assert kind in made.warnings[0]
        sent = {n: after[n] - w for n, w in weights.items()}
        gradient = captured(model, before=weights, update=rounded(sent), update_is="difference")
        assert 0.1 * unit < gradient.rounding < 0.6 * unit


def test_a_layer_that_never_moved_is_named(small, batch):
    model, weights = small
    after = stepped(model, weights, *batch, 1.0) | {n: weights[n] for n in weights if n.startswith("dense2")}
    check = captured(model, before=weights, after=after, procedure="lr=1", examples=4).check(*batch)
    assert check.contradicted
    assert "dense2/kernel, dense2/bias did not move" in check.describe()
    assert "(frozen)" in check.describe()


def test_swapped_files_and_a_turned_sign_show_without_the_truth(small, batch):
    model, weights = small
    one = batch[0][:1], batch[1][:1]
    after = stepped(model, weights, *one, 1.0)
    assert not captured(model, before=weights, after=after, procedure="lr=1", examples=1).check().contradicted
    gradient = {n: weights[n] - w for n, w in after.items()}
    turned = {n: -g for n, g in gradient.items()}
    assert not captured(model, before=weights, update=gradient, examples=1).check().contradicted
    for made in (
        captured(model, before=after, after=weights, procedure="lr=1", examples=1),
        captured(model, before=weights, update=turned, examples=1),
    ):
        check = made.check()
        assert check.contradicted
        assert "rises for 2 classes, and SGD on 1 example raises it for at most 1: files" in check.describe()


def test_noise_that_a_defense_adds_is_no_contradiction_and_its_absence_is(small, batch):
    model, weights = small
    plain = stepped(model, weights, *batch, 1.0)
    length = math.sqrt(sum(float(np.sum((plain[n] - w) ** 2)) for n, w in weights.items()))
    rng = np.random.default_rng(0)

    def noisy(scale):
        return {n: w + rng.normal(0, scale, w.shape) for n, w in plain.items()}

    scale = 0.5 * length
    defense = make_defense(f"local_dp(clip={2 * length},noise_multiplier=0.25)")  # clips nothing
    for sent, verdict in ((noisy(scale), "consistent"), (plain, "contradiction"), (noisy(5 * scale), "contradiction")):
        made = captured(model, before=weights, after=sent, procedure="lr=1", examples=4, defenses=[defense])
        (remark,) = made.check(*batch).remarks
        assert remark.verdict == verdict
        assert "without what 'local_dp' draws" in remark.text


def test_an_attack_on_a_capture_with_its_truth_is_scored(small, batch):
    model, weights = small
    after = stepped(model, weights, *batch, 1.0)
    made = captured(model, before=weights, after=after, procedure="lr=1", examples=4.0)  # as R writes it
    trial = run_trial(make_attack("first_layer"), made.observation(*batch))
    assert len(trial.score.rows()) == 4
    with pytest.raises(ParameterError, match=r"the truth has 3 examples, but 4 are stated"):
        made.observation(batch[0][:3], batch[1][:3])
    for wrong in (2.5, "4", [4, None]):
        with pytest.raises(ParameterError, match="a whole number from 1 on"):
            captured(model, before=weights, after=after, examples=wrong)


def test_what_was_not_said_is_named_where_it_is_wanted(small, batch):
    model, weights = small
    after = stepped(model, weights, *batch, 1.0)
    said = captured(model, before=weights, after=after, procedure="lr=1").check(*batch).describe()
    assert "since the number of examples is not said" in said
    said = captured(model, before=weights, after=after, examples=4).check(*batch).describe()
    assert "since the procedure is not said" in said


def test_files_of_two_models_are_refused(small):
    model, weights = small
    after = {n: w + 1 for n, w in weights.items()}
    with pytest.raises(
        ParameterError, match=r"before has not: 'fc/kernel' \(nearest: 'dense2/kernel' of shape \[5, 3\]\)"
    ):
        captured(model, before=weights, after={**after, "fc/kernel": np.ones((3, 3))})
    renamed = {n.replace("dense2", "head"): w for n, w in after.items()}
    with pytest.raises(
        ParameterError, match=r"'head/kernel' \(nearest: 'dense2/kernel'.*'head/bias' \(nearest: 'dense2"
    ):
        captured(model, before=weights, after=renamed)
    with pytest.raises(ParameterError, match=r"shape \[3\], but \[5\] in the other"):
        captured(model, before=weights, after={**after, "dense1/bias": np.ones(3)})
    with pytest.raises(DataError, match="'dense1/bias' has 1 of 5 numbers that are not finite"):
        captured(model, before=weights, after={**after, "dense1/bias": np.array([1, 1, 1, 1, np.inf])})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("epochs=2", "learning rate is missing"),
        ("lr=0.1, epoch=2", "Did you mean 'epochs'"),
        ("lr=0.1, learning_rate=0.1", "a second time"),
        ("lr=-1", "learning_rate"),
        ("lr=0.1, epochs", "no key=value"),
        ("lr=0.1 epochs=2", "write commas between"),
        ("lr=0.1, steps=2", "number of examples"),
        ("lr=0.1, momentum=much", "no number"),
    ],
)
def test_what_a_procedure_cannot_be(text, why):
    with pytest.raises(ParameterError, match=why):
        stated_procedure(text)


def test_a_procedure_in_other_frameworks_words(small):
    made = stated_procedure("epochs=3, batch_size=32, client.learning_rate=0.01, momentum=0.9, weight_decay=1e-4")
    assert (made.local_epochs, made.batch_size) == (3, 32)
    client = made.client
    assert (client.kind, client.learning_rate, client.momentum, client.weight_decay) == ("momentum", 0.01, 0.9, 1e-4)
    steps = stated_procedure("steps=7, batch_size=4, lr=1", (10,))
    assert steps.local_steps(10) == 7
    assert stated_procedure("lr=1, momentum=0").client.kind == "sgd"
    adam = stated_procedure("lr=1, optimizer=adam").client
    assert (adam.beta_1, adam.beta_2, adam.epsilon) == (0.9, 0.999, 1e-8)
    assert stated_procedure("lr=1, optimizer=adam, client.epsilon=1e-7").client.epsilon == 1e-7
    model, weights = small
    after = {n: w + 1 for n, w in weights.items()}
    with pytest.raises(
        ParameterError, match=r"96 examples do not fit into 2 local steps of batch_size=32.* 64 of them"
    ):
        captured(model, before=weights, after=after, procedure="steps=2,batch_size=32,lr=1", examples=96)


def test_sizes_tell_of_a_procedure_without_the_truth(small, batch):
    model, weights = small
    after = stepped(model, weights, *batch, 0.5)

    def said(procedure, examples=4, changed=after):
        check = captured(model, before=weights, after=changed, procedure=procedure, examples=examples).check()
        return check.contradicted, check.describe()

    assert said("lr=0.5")[0] is False
    contradicted, text = said("lr=0.001")
    assert contradicted
    assert "rate or steps were at least" in text
    contradicted, text = said("lr=0.5", 1)
    assert contradicted
    assert "1 examples give at most 1" in text
    assert "less than a thousandth" in said("lr=5000")[1]
    noisy = {n: a + np.random.default_rng(0).normal(0, 0.1, a.shape) for n, a in after.items()}
    assert "under softmax cross-entropy" in said("lr=0.5", changed=noisy)[1]
    assert "adam rescales" in said("lr=0.5, optimizer=adam")[1]


def test_the_replay_says_what_would_explain_an_update(small, batch):
    model, weights = small
    after = stepped(model, weights, *batch, 0.1)
    text = captured(model, before=weights, after=after, procedure="lr=0.2", examples=4).check(*batch).describe()
    assert "a learning rate of 0.1 would explain it" in text
    text = captured(model, before=after, after=weights, procedure="lr=0.1", examples=4).check(*batch).describe()
    assert "before and after may be exchanged" in text
    made = captured(model, before=weights, after=after, procedure="lr=0.1", examples=4)
    with pytest.raises(ParameterError, match="the truth has 3 examples, but 4 are stated"):
        made.check(batch[0][:3], batch[1][:3])
    with pytest.raises(ParameterError, match="order has shape"):
        made.check(*batch, order=np.array([[0, 1, 2, 2]]))


def test_statistics_that_no_file_has_are_asked_for(path):
    model = load_model(
        "fedpriv_experiments.captures:normalized(batch_norm=running)", input_shape=(14, 14, 1), num_classes=10
    )
    names = [n for n in model.spec.names if "running" not in n]
    shapes = dict(zip(model.spec.names, model.spec.shapes, strict=True))
    before, after = ({n: np.full(shapes[n], v) for n in names} for v in (0.1, 0.2))
    with pytest.raises(ParameterError, match="batch_norm=train if the client normalized with its batches' own"):
        captured(model, before=before, after=after)
