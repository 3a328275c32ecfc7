"""Local training, run eagerly, against the same steps by hand."""

from typing import ClassVar

import numpy as np
import pytest

from fedpriv.base.lazy import tf
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Defense, Plan
from fedpriv.defense.walker import Walker
from fedpriv.federation.client import Client, Visit, shuffled_epochs
from fedpriv.procedure.procedure import Sampling, make_procedure

ZERO = np.zeros(2, np.int64)


def plan_of(spec, examples):
    return Plan(
        spec=spec,
        population=1,
        cohort=1,
        expected_cohort=1.0,
        sampling=Sampling.full(),
        weighting="examples",
        max_examples=examples,
    )


@pytest.fixture
def client(double_model):
    def make(defenses=(), **procedure):
        plan = plan_of(double_model.spec, 12)
        return Client(double_model, make_procedure(**procedure), Walker(defenses, plan))

    return make


@pytest.fixture
def examples(toy):
    return toy.x[5:17].astype(np.float64), toy.y[5:17]


def train(client, flat, x, y, rate=0.1, seed=ZERO):
    """(update, loss, metrics), with batches in the order given in every epoch."""
    size = client.procedure.batch_size or len(y)
    tensors = tf.constant(x), tf.constant(y)

    def batch(step):
        return tuple(t[step * size : (step + 1) * size] for t in tensors)

    out = client.train(tf.constant(flat), lambda _: batch, len(y), tf.constant(rate, flat.dtype), visit(client, seed))
    return out.update, out.loss, out.log


def visit(client, seed=ZERO, n=12):
    states = tf.nest.map_structure(tf.constant, client.line.initial_states())
    own = tf.nest.map_structure(tf.constant, client.line.initial_client_states())
    return Visit(tf.constant(seed), states, own, tf.constant(n))


def steps_by_hand(by_hand, flat, x, y, size, epochs, rate=0.1, mu=0.0, most=None):
    w, losses = flat.copy(), []
    for _ in range(epochs):
        for s in range(0, len(y), size):
            if most is None or len(losses) < most:
                losses.append(by_hand.loss(w, x[s : s + size], y[s : s + size]))
                w = w - rate * (by_hand.gradient(w, x[s : s + size], y[s : s + size]) + mu * (w - flat))
    return w - flat, np.mean(losses)


@pytest.fixture
def flat(double_model):
    return np.random.default_rng(3).normal(0, 0.3, double_model.spec.size)


def test_one_step_is_minus_the_gradient_times_the_rate(client, examples, flat, by_hand):
    update, loss, metrics = train(client(batch_size=None), flat, *examples, rate=0.25)
    np.testing.assert_allclose(update, -0.25 * by_hand.gradient(flat, *examples), atol=1e-14)
    assert float(loss) == pytest.approx(by_hand.loss(flat, *examples), rel=1e-12)
    assert metrics == {}


@pytest.mark.parametrize(("epochs", "size"), [(1, 5), (3, 5), (2, 4), (4, None), (2, 100)])
def test_epochs_and_batches_are_the_plain_loop(client, examples, flat, by_hand, epochs, size):
    """Twelve examples; batches of 5 leave a short last one, of 100 a single one."""
    update, loss, _ = train(client(local_epochs=epochs, batch_size=size), flat, *examples)
    expected, mean_loss = steps_by_hand(by_hand, flat, *examples, size or 12, epochs)
    np.testing.assert_allclose(update, expected, atol=1e-13)
    assert float(loss) == pytest.approx(mean_loss, rel=1e-12)


def test_the_proximal_term_pulls_from_the_second_step_on(client, examples, flat, by_hand):
    one, _, _ = train(client(batch_size=None, proximal=0.7), flat, *examples)
    np.testing.assert_allclose(one, -0.1 * by_hand.gradient(flat, *examples), atol=1e-14)
    two, _, _ = train(client(batch_size=None, local_epochs=2, proximal=0.7), flat, *examples)
    w1 = flat + one.numpy()
    expected = one - 0.1 * (by_hand.gradient(w1, *examples) + 0.7 * one.numpy())
    np.testing.assert_allclose(two, expected, atol=1e-13)


@pytest.mark.parametrize("most", [1, 3, 4, 7, 50])
def test_the_step_limit_also_stops_inside_an_epoch(client, examples, flat, by_hand, most):
    update, loss, _ = train(client(local_epochs=2, batch_size=4, max_local_steps=most), flat, *examples)
    expected, mean_loss = steps_by_hand(by_hand, flat, *examples, 4, 2, most=most)
    np.testing.assert_allclose(update, expected, atol=1e-13)
    assert float(loss) == pytest.approx(mean_loss, rel=1e-12)


@pytest.mark.parametrize("kind", ["momentum", "adam", "yogi", "adagrad"])
def test_stateful_client_optimizers_carry_their_state_over_steps_and_start_anew(client, examples, flat, kind):
    from fedpriv.procedure import optimizers

    made = client(local_epochs=2, batch_size=6, client={"kind": kind})
    update, _, _ = train(made, flat, *examples)
    again, _, _ = train(made, flat, *examples)
    np.testing.assert_array_equal(update, again)
    stepper, w = optimizers.build(made.procedure.client), tuple(made.model.spec.unflatten(tf.constant(flat)))
    state = stepper.initialize(made.model.spec.shapes, "float64")
    for i in range(4):
        x, y = (tf.constant(a[(i % 2) * 6 : (i % 2) * 6 + 6]) for a in examples)
        with tf.GradientTape() as tape:
            tape.watch(w)
            loss = tf.reduce_mean(made.model.example_losses(w, x, y))
        state, w = stepper.next(state, w, tuple(tape.gradient(loss, w)), tf.constant(0.1, tf.float64))
    np.testing.assert_allclose(update, made.model.spec.flatten(w) - flat, atol=1e-13)


def test_each_epoch_shows_every_example_once_in_an_order_of_its_own(toy):
    procedure = make_procedure(local_epochs=2, batch_size=5)
    mine = tf.range(5, 17)
    x = tf.reshape(tf.cast(tf.range(30), tf.uint8), [30, 1])
    orders = []
    for seed in ([1, 2], [1, 3]):
        epochs = shuffled_epochs(x, tf.range(30), mine, procedure, tf.constant(seed), "float64")
        for e in range(2):
            batches = [epochs(e)(tf.constant(s)) for s in range(3)]
            assert [len(y) for _, y in batches] == [5, 5, 2]
            labels = np.concatenate([y for _, y in batches])
            np.testing.assert_allclose(np.concatenate([b for b, _ in batches])[:, 0] * 255, labels)  # rows keep labels
            assert sorted(labels) == list(range(5, 17))
            orders.append(tuple(labels))
    assert len(set(orders)) == 4
    again = shuffled_epochs(x, tf.range(30), mine, procedure, tf.constant([1, 2]), "float64")
    assert tuple(np.concatenate([again(0)(tf.constant(s))[1] for s in range(3)])) == orders[0]


def test_unrolled_and_looped_training_agree_to_the_bit(client, examples, flat):
    made = client(local_epochs=2, batch_size=4)
    x, y = map(tf.constant, examples)
    batches = [(x[s : s + 4], y[s : s + 4]) for s in (0, 4, 8)] * 2
    unrolled = made.train_unrolled(tf.constant(flat), batches, tf.constant(0.1, tf.float64), visit(made))
    looped, looped_loss, _ = train(made, flat, *examples)
    np.testing.assert_array_equal(unrolled.update, looped)
    assert float(unrolled.loss) == float(looped_loss)


class Negative(Defense):
    """Inverts the examples."""

    name: ClassVar[str] = "negative"

    def batch(self, x, y, context):
        return 1 - x, y


class Halve(Defense):
    """Halves a step's mean gradient."""

    name: ClassVar[str] = "halve"

    def gradient(self, gradient, context):
        assert gradient.shape.rank == 1
        return Passed(gradient / 2, log={"norm": tf.norm(gradient), "examples": context.num_examples})


class UnitRows(Defense):
    """Scales each example's gradient to length one."""

    name: ClassVar[str] = "unit_rows"
    per_example: ClassVar[bool] = True

    def gradient(self, gradient, context):
        assert gradient.shape.rank == 2
        unit = gradient / tf.norm(gradient, axis=1, keepdims=True)
        return Passed(unit, log={"rows": tf.shape(gradient)[0]})


class Seeds(Defense):
    """Writes down the seeds it is given; acts at three client stations."""

    name: ClassVar[str] = "seeds"
    seen: ClassVar[list] = []

    def _note(self, where, context):
        if tf.executing_eagerly():
            self.seen.append((where, tuple(context.seed.numpy())))

    def batch(self, x, y, context):
        self._note("batch", context)
        return x, y

    def gradient(self, gradient, context):
        self._note("gradient", context)
        return gradient

    def update(self, update, context):
        self._note("update", context)
        return update


def test_the_batch_station_changes_what_training_sees(client, examples, flat, by_hand):
    x, y = examples
    update, _, _ = train(client([Negative()], batch_size=None), flat, x, y)
    np.testing.assert_allclose(update, -0.1 * by_hand.gradient(flat, 1 - x, y), atol=1e-14)


def test_a_mean_gradient_defense_gets_each_steps_mean_and_reports_its_steps_mean(client, examples, flat, by_hand):
    x, y = examples
    update, _, metrics = train(client([Halve()], batch_size=6), flat, x, y)
    first = by_hand.gradient(flat, x[:6], y[:6])
    w = flat - 0.05 * first
    second = by_hand.gradient(w, x[6:], y[6:])
    np.testing.assert_allclose(update, -0.05 * (first + second), atol=1e-14)
    assert float(metrics["halve/norm"]) == pytest.approx((np.linalg.norm(first) + np.linalg.norm(second)) / 2)
    assert float(metrics["halve/examples"]) == 12


def test_a_per_example_defense_gets_each_examples_gradient(client, examples, flat, by_hand):
    x, y = examples
    rows = [by_hand.gradient(flat, x[i : i + 1], y[i : i + 1]) for i in range(12)]
    unit = np.mean([r / np.linalg.norm(r) for r in rows], 0)
    update, _, metrics = train(client([UnitRows()], batch_size=None), flat, x, y)
    np.testing.assert_allclose(update, -0.1 * unit, atol=1e-13)
    assert float(metrics["unit_rows/rows"]) == 12
    then_mean, _, _ = train(client([UnitRows(), Halve()], batch_size=None), flat, x, y)
    np.testing.assert_allclose(then_mean, -0.05 * unit, atol=1e-13)


def test_every_station_step_client_and_defense_has_its_own_seed(client, examples, flat):
    Seeds.seen.clear()
    for run_seed in (ZERO, np.array([5, 9], np.int64)):
        train(client([Seeds(), Seeds()], batch_size=4, local_epochs=2), flat, *examples, seed=run_seed)
    assert len(Seeds.seen) == 2 * 2 * (6 + 6 + 1)
    assert len({seed for _, seed in Seeds.seen}) == len(Seeds.seen)


def test_two_defenses_of_one_name_report_apart(client, examples, flat):
    _, _, metrics = train(client([Halve(), Halve()], batch_size=None), flat, *examples)
    assert float(metrics["halve/norm"]) == pytest.approx(2 * float(metrics["halve#2/norm"]))


class Prune(Defense):
    """Keeps what is large; not-a-number compares as small, so this would hide a divergence."""

    name: ClassVar[str] = "prune"

    def update(self, update, context):
        return tf.where(tf.abs(update) > 1e-9, update, tf.zeros_like(update))


def test_no_update_defense_can_hide_a_divergence(client, examples, flat):
    x, y = examples
    update, _, _ = train(client([Prune()], batch_size=None), flat, x * np.nan, y)
    assert np.isnan(update).all()
    update, _, _ = train(client([Prune()], batch_size=None), flat, x, y)
    assert np.isfinite(update).all()
