import numpy as np
import pytest
from fedpriv_defenses.encryption.ckks_sum import CkksSum
from fedpriv_defenses.encryption.selection import chosen, sensitivities
from scipy import stats

from fedpriv.base.errors import ParameterError
from fedpriv.base.lazy import tf
from fedpriv.defense.parties import SERVER, client
from fedpriv.defense.protocol import Aborted
from fedpriv.defense.wire import Interference
from fedpriv.models import load as load_model
from tests.defenses.encrypted import KEY_HOLDER, random_vectors, ring, run

FIRST = CkksSum(fraction=0.4, select="first")


def test_the_server_sees_the_rest_of_every_client_and_the_sum():
    signed = random_vectors(FIRST, 3, 11)
    session, outcome = run(FIRST, signed, watched=None, wire=True)
    np.testing.assert_array_equal(outcome.total, ring(FIRST, signed.sum(0)))
    *single, whole = session.seen_by([SERVER])
    # Ten coordinates, of which four are encrypted, and the weight.
    visible = np.arange(11) >= 4
    for c, seen in enumerate(single):
        assert (seen.kind, seen.clients) == ("client", (c,))
        np.testing.assert_array_equal(seen.visible, visible)
        np.testing.assert_array_equal(seen.value, np.where(visible, ring(FIRST, signed[c]), 0))
    assert (whole.kind, whole.visible) == ("sum", None)
    np.testing.assert_array_equal(whole.value, outcome.total)
    (at_holder,) = session.seen_by([KEY_HOLDER])
    np.testing.assert_array_equal(at_holder.visible, ~visible | (np.arange(11) == 10))
    np.testing.assert_array_equal(at_holder.value, np.where(at_holder.visible, outcome.total, 0))
    np.testing.assert_array_equal([s.value for s in session.seen_by([SERVER, KEY_HOLDER])], ring(FIRST, signed))
    *_, rest = session.seen_by([SERVER, client(2)])
    np.testing.assert_array_equal(rest.value, ring(FIRST, signed[:2].sum(0)))
    _, rest = session.seen_by([KEY_HOLDER, client(2)])
    np.testing.assert_array_equal(rest.value, np.where(rest.visible, ring(FIRST, signed[:2].sum(0)), 0))
    (heard,) = session.seen_by([], wire=True)
    assert (heard.kind, heard.value) == ("payloads", None)


def test_less_is_sent_where_less_is_encrypted():
    sizes = []
    for fraction in (0.05, 0.5, 1.0):
        protocol = CkksSum(fraction=fraction, select="random")
        session, _ = run(protocol, random_vectors(protocol, 2, 10_001))
        sizes.append(session.wire.bytes(sender="client", receiver="server"))
    assert sizes[0] < sizes[1] / 2 < sizes[2] / 3
    assert sizes[0] > 2 * 9500 * 4


def test_a_weight_that_differs_in_the_clear_ends_the_round():
    signed = random_vectors(FIRST, 2, 11)

    def heavier(d):
        if d.phase == "encrypt" and d.receiver == SERVER and d.sender == client(1):
            at = 32 + 6 * 4
            return d.payload[:at] + (1).to_bytes(4, "little") + d.payload[at + 4 :]
        return d.payload

    session, outcome = run(FIRST, signed, interference=Interference(by_sender=heavier), watched=[SERVER])
    assert isinstance(outcome, Aborted)
    assert outcome.reason.startswith("the weights that clients sent in the clear do not sum to those")
    *_, whole = session.seen_by([SERVER])  # the sum itself has passed the check
    assert (whole.kind, whole.clients) == ("sum", (0, 1))
    np.testing.assert_array_equal(whole.value, ring(FIRST, signed.sum(0)))


def test_choices_are_the_same_for_all_and_of_the_size_that_was_asked_for():
    model = load_model("mlp", input_shape=(5,), num_classes=3)
    weights = model.initial_weights(0)
    d = model.spec.size
    masks = {s: chosen(s, 0.25, d, 4, 7, model, weights) for s in ("largest", "random", "first")}
    for select, mask in masks.items():
        assert mask.sum() == int(np.ceil(0.25 * d))
        np.testing.assert_array_equal(mask, chosen(select, 0.25, d, 4, 7, model, weights))
        assert chosen(select, 1.0, d, 4, 7, None, None).all()
    assert masks["first"][: masks["first"].sum()].all()
    assert (masks["random"] != chosen("random", 0.25, d, 5, 7, None, None)).any()  # another round
    assert (masks["random"] != chosen("random", 0.25, d, 4, 8, None, None)).any()  # another run
    found = sensitivities(model, weights)
    assert found[masks["largest"]].min() >= found[~masks["largest"]].max()
    with pytest.raises(ParameterError, match="select=largest looks at the model and the broadcast weights"):
        chosen("largest", 0.25, d, 4, 7, None, None)


def test_sensitivity_is_the_derivative_in_the_true_output():
    # FedML-HE's definition, for softmax cross-entropy: mean over examples and classes of |d(dl/dw)/dy|.
    model = load_model("mlp", input_shape=(4,), num_classes=3)
    weights = tf.constant(model.initial_weights(1))
    x = np.random.default_rng(5).uniform(size=(60, 1, 4)).astype(np.float32)
    defined = np.zeros(model.spec.size)

    @tf.function
    def gradient(x, y):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = tf.reduce_mean(model.example_losses(model.spec.unflatten(weights), x, y))
        return tape.gradient(loss, weights)

    for one in tf.constant(x):
        y = tf.fill([1, 3], 1 / 3)
        for k in range(3):  # the gradient is linear in y, so that a difference is the derivative
            changed = gradient(one, y + tf.one_hot([k], 3)) - gradient(one, y)
            defined += np.abs(changed.numpy()) / (3 * len(x))
    ours = sensitivities(model, weights.numpy())
    assert stats.spearmanr(ours, defined)[0] > 0.95  # of 64 examples each
    assert abs(ours.sum() / defined.sum() - 1) < 0.15


@pytest.mark.slow
def test_buffers_and_batch_statistics():
    model = load_model("resnet20", input_shape=(8, 8, 3), num_classes=4)
    found = sensitivities(model, model.initial_weights(0))
    assert np.isfinite(found).all()
    assert not found[: model.buffer_size].any()
    assert found[model.buffer_size :].any()
