import json
import math

import numpy as np
import pytest

from fedpriv.base.atomic import to_json
from fedpriv.base.errors import ParameterError
from fedpriv.metrics.score import aligned, score, success_rate, summarize, summarize_each
from fedpriv.threat.attack import Finding
from fedpriv.threat.truth import Truth


def truth(n=4, shape=(12, 12, 3), seed=0):
    rng = np.random.default_rng(seed)
    return Truth(x=rng.uniform(0.2, 0.8, (n, *shape)).astype(np.float32), y=np.arange(n) % 10, clients=(0,))


def finding(x, y=None, **costs):
    return Finding(x=x, y=y, **costs)


def test_a_shuffled_exact_batch_is_a_full_success():
    t = truth()
    s = score(finding(t.x[[2, 0, 3, 1]], t.y[[2, 0, 3, 1]]), t)
    assert [i.psnr for i in s.images] == [math.inf] * 4
    assert [i.ssim for i in s.images] == pytest.approx([1] * 4)
    assert all(i.success and i.label_right for i in s.images)
    assert s.matched.tolist() == [1, 3, 0, 2]
    assert s.label_accuracy == 1


def test_the_threshold_is_inclusive_and_decides():
    t = Truth(x=np.full((1, 4, 4, 1), 0.25), y=np.array([0]), clients=(0,))
    off = finding(t.x + 0.125)  # exact in binary: 18.06 dB
    level = -20 * math.log10(0.125)
    assert score(off, t, threshold_db=level - 1e-9).images[0].success
    assert not score(off, t, threshold_db=level + 1e-6).images[0].success


def test_one_good_reconstruction_sent_twice_earns_one_success():
    t = truth(2)
    s = score(finding(np.stack([t.x[0], t.x[0]])), t)
    assert [i.success for i in s.images] == [True, False]


def test_labels_follow_their_images():
    t = truth(3)
    s = score(finding(t.x, np.array([0, 2, 1])), t)  # right labels, two of them with the wrong image
    assert [i.label_right for i in s.images] == [True, False, False]
    assert s.label_accuracy == 1


def test_labels_alone_are_matched_as_a_multiset():
    t = Truth(x=truth(3).x, y=np.array([5, 5, 7]), clients=(0,))
    s = score(finding(None, np.array([7, 5, 1])), t)
    assert [i.label_right for i in s.images] == [True, False, True]
    assert s.label_accuracy == pytest.approx(2 / 3)
    assert s.images[0].psnr is None
    assert s.images[0].success is None
    summary = summarize([s])
    assert summary.success_rate is None
    assert summary.psnr_mean is None
    assert summary.label_accuracy == pytest.approx(2 / 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_pixel_that_is_not_finite_fails_its_image_only(bad):
    t = truth(2)
    x = t.x.copy()
    x[1, 0, 0, 0] = bad
    s = score(finding(x), t)
    assert s.images[0].success
    failed = s.images[1]
    assert (failed.psnr, failed.ssim, failed.mse, failed.success, failed.finite) == (0, 0, 1, False, False)
    summary = summarize([s])
    assert summary.not_finite == 1
    assert summary.psnr_worst == 0
    assert "1 of 2 missing or not finite" in summary.describe()


def test_missing_reconstructions_are_failures():
    t = truth(3)
    s = score(finding(t.x[1:2], t.y[1:2]), t)
    assert [i.success for i in s.images] == [False, True, False]
    assert [i.finite for i in s.images] == [False, True, False]
    assert [i.label_right for i in s.images] == [False, True, False]
    assert s.label_accuracy == pytest.approx(1 / 3)


def test_no_reconstruction_at_all_is_a_failure_of_every_image():
    s = score(finding(np.zeros((0, 12, 12, 3))), truth(2))
    assert [i.success for i in s.images] == [False, False]


def test_spare_guesses_do_not_count():
    t = truth(1)
    s = score(finding(np.concatenate([t.x * 0, t.x])), t)
    assert not s.images[0].success
    assert s.surplus == 1


def test_reconstructions_are_clipped_to_the_range_of_the_truth():
    t = Truth(x=np.array([[[[0.0], [1.0], [1.0]]] * 3], np.float32).reshape(1, 3, 3, 1), y=np.array([0]), clients=(0,))
    s = score(finding(t.x * 5 - 2), t)
    assert s.images[0].psnr == math.inf


def test_feature_vectors_have_no_ssim():
    t = Truth(x=np.full((2, 30), 0.5), y=np.array([0, 1]), clients=(0,))
    s = score(finding(t.x + 0.1), t)
    assert [i.psnr for i in s.images] == pytest.approx([20, 20])
    assert [i.ssim for i in s.images] == [None, None]
    assert summarize([s]).ssim_mean is None


@pytest.mark.parametrize("shape", [(4, 12, 12, 1), (4, 12, 11, 3), (12, 12, 3), (4,)])
def test_a_wrong_shape_is_an_error(shape):
    with pytest.raises(ParameterError, match="expected"):
        score(finding(np.zeros(shape)), truth())


def test_an_empty_claim_is_an_error():
    with pytest.raises(ParameterError, match="nothing to score"):
        score(finding(None), truth())


def test_a_truth_outside_the_unit_range_is_an_error():
    t = truth()
    with pytest.raises(ParameterError, match=r"\[0, 1\]"):
        score(finding(t.x), Truth(x=t.x * 255, y=t.y, clients=(0,)))


def test_aligned_puts_reconstructions_in_the_truths_order():
    t = truth(3)
    x = t.x[[2, 0, 1]].copy()
    x[0] = np.nan
    f = finding(x)
    rows = aligned(f, score(f, t))
    np.testing.assert_array_equal(rows[:2], t.x[:2])
    assert np.isnan(rows[2]).all()
    f = finding(None, t.y)
    assert aligned(f, score(f, t)) is None


def test_rows_are_json_with_extra_columns_first():
    t = truth(2)
    s = score(finding(t.x, t.y, seconds=1.5, evaluations=7, restarts=2, compile_seconds=0.5), t)
    rows = s.rows(seed=3)
    assert list(rows[0])[:2] == ["seed", "image"]
    back = json.loads(to_json(rows))
    assert back[1]["psnr"] == "inf"
    assert (back[1]["seconds"], back[1]["evaluations"], back[1]["restarts"], back[1]["batch"]) == (1.5, 7, 2, 2)
    assert back[1]["label_right"] is True


def test_summary_of_known_values():
    t = Truth(x=np.full((1, 12, 12, 1), 0.5), y=np.array([1]), clients=(0,))
    offsets = [0.01] * 18 + [0.1] * 2  # 40 dB and 20 dB
    scores = [
        score(finding(t.x + o, np.array([1 if i else 2]), seconds=float(i), evaluations=100 * (i + 1)), t)
        for i, o in enumerate(offsets)
    ]
    s = summarize(scores)
    assert (s.images, s.batches, s.successes) == (20, 20, 18)
    assert s.success_interval == pytest.approx((0.699, 0.972), abs=5e-4)
    assert (s.psnr_mean, s.psnr_median) == pytest.approx((38, 40))
    assert (s.psnr_best, s.psnr_worst) == pytest.approx((40, 20))
    assert s.psnr_interval[0] < 38 < s.psnr_interval[1] <= 40 + 1e-9
    assert s.label_accuracy == s.label_right_rate == pytest.approx(19 / 20)
    assert (s.seconds_total, s.seconds_median) == (190, 9.5)
    assert (s.evaluations_total, s.evaluations_median) == (21000, 1050)
    assert s.describe().startswith("18 of 20 images reconstructed at 30 dB or better (90%, 95% interval 70% to 97%).")
    assert summarize(scores) == s
    assert success_rate(scores) == 0.9


def test_exact_images_leave_the_mean_finite():
    t = truth(1)
    s = summarize([score(finding(t.x), t)] * 2)
    assert s.psnr_mean == s.psnr_median == s.psnr_best == 100
    assert s.psnr_interval == s.psnr_median_interval == (100, 100)
    assert "PSNR mean 100 dB or more (95% interval 100 dB or more), median 100 dB or more" in s.describe()


def test_mean_and_median_count_an_exact_image_alike():
    t = truth(1)
    near = t.x + np.float32(0.1) * (t.x < 0.5) - np.float32(0.1) * (t.x >= 0.5)  # 20 dB
    s = summarize([score(finding(x), t) for x in (t.x, t.x, near)])
    assert s.psnr_mean == pytest.approx((100 + 100 + 20) / 3, abs=1e-3)
    assert s.psnr_median == s.psnr_best == s.psnr_median_interval[1] == 100
    assert s.psnr_worst == pytest.approx(20, abs=1e-3)
    assert s.psnr_mean <= s.psnr_best


def test_scores_that_do_not_belong_together_are_refused():
    t = truth(1)
    with pytest.raises(ParameterError, match="threshold"):
        summarize([score(finding(t.x), t), score(finding(t.x), t, threshold_db=20)])
    with pytest.raises(ParameterError, match="reconstructions"):
        summarize([score(finding(t.x, t.y), t), score(finding(None, t.y), t)])
    with pytest.raises(ParameterError, match="labels"):
        summarize([score(finding(t.x, t.y), t), score(finding(t.x), t)])
    with pytest.raises(ParameterError, match="no scores"):
        summarize([])


def blur(found, originals):
    """Mean absolute error."""
    return np.abs(found - originals).mean(axis=(1, 2, 3))


class Likeness:
    higher_is_better = True

    def __call__(self, found, originals):
        return 1 - blur(found, originals)


def test_extra_metrics_are_columns_matched_like_the_others():
    t = truth(3)
    f = finding(t.x[[2, 0, 1]] + np.array([0.3, 0.1, 0.2])[:, None, None, None])
    s = score(f, t, extra_metrics={"l1": blur, "likeness": Likeness()})
    assert [i.extra["l1"] for i in s.images] == pytest.approx([0.1, 0.2, 0.3], abs=0.02)
    assert s.rows()[1]["l1"] == s.images[1].extra["l1"]
    summary = summarize([s, s])
    assert summary.extra["l1"]["median"] == pytest.approx(0.2, abs=0.02)
    assert summary.extra["l1"]["best"] < summary.extra["l1"]["worst"]
    assert summary.extra["likeness"]["best"] > summary.extra["likeness"]["worst"]
    assert summary.as_dict()["l1_mean"] == pytest.approx(0.2, abs=0.02)
    assert "extra" not in summary.as_dict()
    assert "l1 mean 0.2" in summary.describe() or "l1 mean 0.19" in summary.describe()
    json.loads(to_json(summary.as_dict()))


def test_diverging_is_no_advantage_under_an_extra_metric():
    t = truth(2)
    x = t.x.copy()
    x[1] = np.nan
    s = score(finding(x), t, extra_metrics={"l1": blur, "likeness": Likeness()})
    assert s.images[0].extra == {"l1": 0, "likeness": 1}
    assert s.images[1].extra["l1"] == pytest.approx(max(t.x[1].mean(), 1 - t.x[1].mean()), abs=1e-6)
    assert s.images[1].extra["likeness"] == pytest.approx(1 - s.images[1].extra["l1"])
    labels_only = score(finding(None, t.y), t, extra_metrics={"l1": blur})
    assert labels_only.rows()[0]["l1"] is None
    assert summarize([labels_only]).extra == {}


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        ({"psnr": blur}, "cannot be called 'psnr'"),
        ({"my metric": blur}, "cannot be called"),
        ({"one": lambda a, b: 0.5}, "'one' gave float64 .. for 2 pairs"),
        ({"nan": lambda a, b: [np.nan, 1]}, "'nan'.*not-a-number"),
        ({"text": lambda a, b: ["a", "b"]}, "'text'"),
    ],
)
def test_an_extra_metric_must_be_one_number_an_image(metrics, says):
    t = truth(2)
    with pytest.raises(ParameterError, match=says):
        score(finding(t.x), t, extra_metrics=metrics)


def test_intervals_are_over_images_and_seeds():
    t = Truth(x=np.full((1, 12, 12, 1), 0.5), y=np.array([1]), clients=(0,))

    def of(image, run):
        return score(finding(t.x + 0.01 * (1 + image) + 0.001 * run, seconds=1.0, evaluations=10), t)

    one = summarize([of(i, 0) for i in range(6)])
    repeated = [of(i, r) for r in range(5) for i in range(6)]
    runs = [r for r in range(5) for _ in range(6)]
    both, pooled = summarize(repeated, runs=runs), summarize(repeated)
    assert (both.images, both.batches, both.runs) == (30, 30, 5)
    assert "of 30 images in 5 runs" in both.describe()

    def width(interval):
        return interval[1] - interval[0]

    for name in ("psnr_interval", "psnr_median_interval", "ssim_interval", "success_interval"):
        assert width(getattr(both, name)) > 1.3 * width(getattr(pooled, name)), name
    assert width(both.psnr_interval) == pytest.approx(width(one.psnr_interval), rel=0.25)
    assert summarize(repeated, runs=runs) == both
    by_batch = summarize(repeated, runs=runs, batches=[i for _ in range(5) for i in range(6)])
    assert by_batch == both


def test_batches_widen_the_interval_of_the_rate():
    t = truth(4)
    scores = [score(finding(t.x if k % 2 else 1 - t.x), t) for k in range(10)]
    low, high = summarize(scores).success_interval
    assert high - low > 0.45  # as ten trials, not forty


def test_summaries_by_group():
    t = truth(1)
    good, bad = score(finding(t.x), t), score(finding(1 - t.x), t)
    each = summarize_each([good, bad, good], ["a", "b", "a"])
    assert list(each) == ["a", "b"]
    assert (each["a"].success_rate, each["b"].success_rate) == (1, 0)
    with pytest.raises(ParameterError, match="2 groups given for 1 scores"):
        summarize_each([good], ["a", "b"])
    with pytest.raises(ParameterError, match="1 runs given for 2 scores"):
        summarize([good, bad], runs=[0])
    with pytest.raises(ParameterError, match="extra metrics"):
        summarize([good, score(finding(t.x), t, extra_metrics={"l1": blur})])
