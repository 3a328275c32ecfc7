"""The search for policies: both scores against closed forms, what is kept, and that it goes on where it was."""

import json

import numpy as np
import pytest
from fedpriv_defenses.ats.search import Scored, Search, best, separation

from fedpriv.base.errors import DataError, ParameterError, StackError
from fedpriv.data.embedded import fashion_small
from fedpriv.models.zoo import logistic


@pytest.fixture(scope="module")
def data():
    return fashion_small()[0]


@pytest.fixture(scope="module")
def search(data):
    return Search(model=logistic((28, 28, 1), 10), data=data, candidates=3, examples=4, points=4, train=0, seed=3)


def test_separation_is_minus_one_for_uncorrelated_rows_and_far_lower_for_equal_ones():
    apart = np.array([[1, -1, 0, 0], [0, 0, 1, -1], [1, 1, -1, -1.0]])
    np.testing.assert_allclose(separation(apart), -1, rtol=1e-9, atol=1e-8)
    alike = np.tile(apart[:1], (4, 1))
    least = 1e-5
    expected = -(np.log(4 + least) + 1 / (4 + least) + 3 * (np.log(least) + 1 / least)) / 4
    np.testing.assert_allclose(separation(alike), expected, rtol=1e-6)
    assert np.isfinite(separation(np.zeros((3, 4))))


def test_the_privacy_score_is_the_mean_cosine_on_the_line(search, data):
    weights = search._weights()
    kernel, bias = search.model.spec.unflatten_numpy(weights)
    x, y = data.floats(np.arange(4)).reshape(4, -1), data.y[:4]
    noise = np.random.default_rng(0).random(x.shape).astype(np.float32)

    def gradient(image, label):
        logits = image @ kernel + bias
        blame = np.exp(logits - logits.max())
        blame = blame / blame.sum() - np.eye(10)[label]
        found = np.outer(np.append(image, 1), blame).ravel()
        return found / np.linalg.norm(found)

    shape = (4, 28, 28, 1)
    similar = search._similarity(weights, x.reshape(shape), noise.reshape(shape), y).numpy()
    for i in range(4):
        steps = [gradient(noise[i] + s * (x[i] - noise[i]), y[i]) @ gradient(x[i], y[i]) for s in (0, 0.25, 0.5, 0.75)]
        np.testing.assert_allclose(similar[i], np.mean(steps), rtol=1e-4)


def test_a_policy_that_changes_nothing_scores_as_none(search):
    idle, none = search.score((39,)), search.score(())
    np.testing.assert_allclose([idle.privacy, idle.accuracy], [none.privacy, none.accuracy], rtol=1e-5)
    assert search.score((3, 1, 7)).privacy != none.privacy


def test_candidates_are_different_and_repeat(search):
    drawn = search.drawn()
    assert len(set(drawn)) == 3
    assert drawn == search.drawn()
    assert all(1 <= len(policy) <= 3 and max(policy) < 50 for policy in drawn)


def test_it_goes_on_where_it_was_and_with_no_other_search(search, tmp_path, data):
    path = tmp_path / "found.json"
    whole = search.run(path)
    held = json.loads(path.read_text())
    path.write_text(json.dumps({**held, "scored": held["scored"][:2]}))
    told = []
    again = search.run(path, told.append)
    assert again == whole
    assert [s.policy for s in told] == [s.policy for s in whole[2:]]
    other = Search(model=search.model, data=data, candidates=3, examples=5, points=4, train=0, seed=3)
    with pytest.raises(ParameterError, match="is of another search: examples=4"):
        other.run(path)
    path.write_text("{")
    with pytest.raises(DataError, match="is no file of a search"):
        search.run(path)


def test_the_most_private_of_those_that_are_fit_come_first():
    scored = [
        Scored((), 0.5, -2.0),
        Scored((1,), 0.4, -1.9),
        Scored((2,), 0.3, -2.1),
        Scored((3,), 0.2, -1.5),
    ]
    assert [s.policy for s in best(scored, 5)] == [(3,), (1,)]
    assert [s.policy for s in best(scored, 2, threshold=-3)] == [(3,), (2,)]


def test_what_cannot_be_searched_is_refused(data):
    with pytest.raises(ParameterError, match="more than the"):
        Search(model=logistic((28, 28, 1), 10), data=data, train=10**6)
    with pytest.raises(StackError, match="transforms images"):
        Search(model=logistic((784,), 10), data=data)
