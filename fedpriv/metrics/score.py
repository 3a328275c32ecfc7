"""Score: a finding compared with the withheld truth; Summary: many scores, with how far they can be trusted.

Reconstructions are matched to originals one-to-one, then scored by the columns of their kind:

- Everybody knows what examples of a kind look like, so reconstructions are made valid first (images are clipped to
  [0, 1], categories of a row one-hot).
- A reconstruction that is not finite (the attack diverged), or that is missing, counts as a failure of the worst
  possible quality: of an image MSE 1, PSNR 0 dB, SSIM 0; of a text no token right. It stays in every mean, so that
  diverging is never an advantage. An extra metric has no known worst value; it takes what a black, a white, a grey or
  a noise image would get, whichever is worst.
- More reconstructions than originals: only the first n count, in the attack's own order. Letting the truth choose
  among spare guesses would reward guessing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fedpriv.base.errors import DataError, ParameterError
from fedpriv.base.types import Row
from fedpriv.data.kind import Kind
from fedpriv.data.kinds.default import kind_of
from fedpriv.metrics.decibels import PSNR_CAP, capped, decibels
from fedpriv.metrics.extra import Metric, higher_is_better, measure
from fedpriv.metrics.interval import cluster_bootstrap, clustered_wilson
from fedpriv.metrics.matching import UNMATCHED, label_accuracy, match, match_labels

if TYPE_CHECKING:
    from fedpriv.threat.attack import Finding
    from fedpriv.threat.truth import Truth

#: psnr, ssim, mse, success, finite
_Quality = tuple[float | None, float | None, float | None, bool | None, bool | None]


@dataclass(frozen=True)
class ImageScore:
    """How one original fared.

    Attributes:
      image: its index in the batch.
      psnr: dB; infinite if exact, 0 if missing or not finite; None if the attack claims no reconstructions.
      ssim: structural similarity; None without reconstructions and for examples that are no images.
      mse: mean squared error; None without reconstructions.
      success: PSNR at or above the threshold; None without reconstructions.
      finite: whether a finite reconstruction was matched to it; None without reconstructions.
      label: its true label, or target; None where a target is itself a sequence.
      label_found: the label claimed for it; None if none was, or if only labels are claimed and it is not found.
      label_right: whether they agree; None if the attack claims no labels.
      extra: values of extra metrics by name, and of those columns of its kind that are none of the above; empty
        without reconstructions.
    """

    image: int
    psnr: float | None
    ssim: float | None
    mse: float | None
    success: bool | None
    finite: bool | None
    label: int | None
    label_found: int | None
    label_right: bool | None
    extra: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """One finding's score: its images, and what the whole batch cost.

    Attributes:
      images: one entry an original, in the truth's order.
      matched: int `[n]`: index of each original's reconstruction, -1 for none; None without reconstructions.
      threshold_db: PSNR from which a reconstruction is a success.
      label_accuracy: labels found, matched one-to-one whatever image they came with; None if none are claimed, or if
        targets are sequences: these are the tokens that follow, which the texts say as well.
      label_existence: fraction of all classes rightly said to be in the batch or not (`fedpriv.metrics.labels`); None
        where that was not asked.
      seconds: wall-clock of the attack on the whole batch, without compilation where the attack tells it apart.
      compile_seconds: one-off tracing and compilation.
      evaluations: gradient evaluations on the whole batch, over all restarts.
      restarts: starts made.
      objective: the attack's own final objective.
      surplus: reconstructions beyond the number of originals, not counted.
      metrics: extra metrics by name, and whether higher is better.
      noun: what one original is called, such as "image".
    """

    images: tuple[ImageScore, ...]
    matched: np.ndarray | None
    threshold_db: float
    label_accuracy: float | None
    seconds: float
    compile_seconds: float
    evaluations: int
    restarts: int
    objective: float
    surplus: int = 0
    metrics: Mapping[str, bool] = field(default_factory=dict)
    label_existence: float | None = None
    noun: str = "image"

    def rows(self, **columns: Any) -> list[Row]:
        """One flat dict an image; `columns` (such as the seed or the defense) come first in each.

        `batch`, `seconds`, `compile_seconds`, `evaluations` and `restarts` are those of the whole batch: add them
        up over batches, not over rows. Examples that have no PSNR are numbered under their noun, and have no columns of
        images. Values may be infinite or None; `fedpriv.base.atomic.jsonable` makes them JSON.
        """
        shared = {
            "batch": len(self.images),
            "seconds": self.seconds,
            "compile_seconds": self.compile_seconds,
            "evaluations": self.evaluations,
            "restarts": self.restarts,
        }
        names = {f.name: f.name for f in fields(ImageScore) if f.name != "extra"}
        if self.matched is not None and all(image.psnr is None for image in self.images):
            names = {"image": self.noun} | {n: n for n in names if n not in ("image", *_FIELDS)}
        empty = dict.fromkeys(self.metrics)
        return [
            {**columns, **{own: getattr(image, n) for n, own in names.items()}, **empty, **image.extra, **shared}
            for image in self.images
        ]


def score(
    finding: Finding, truth: Truth, threshold_db: float = 30.0, extra_metrics: Mapping[str, Metric] | None = None
) -> Score:
    """Compares a finding with the truth.

    Args:
      finding: the attack's claim: reconstructions `[m, *input_shape]`, labels `[m]`, or both.
      truth: what went in: `x` `[n, *kind.shape]` in the kind's range, `y` `[n]`.
      threshold_db: PSNR in dB from which a reconstruction counts as a success.
      extra_metrics: more columns by name, such as `{"lpips": LPIPS.load(path)}`.

    Returns:
      The score; see this module's docstring for how it is taken.

    Raises:
      ParameterError: the finding claims nothing, has examples of another shape than the truth's or labels that
        are no integers, the truth is empty, malformed or outside [0, 1], or an extra metric has a taken name or
        does not give one number an image.
    """
    x, y = _checked_truth(truth)
    metrics, kind = dict(extra_metrics or {}), truth.kind
    _check_names(metrics)
    n = len(y)
    if finding.x is None and finding.y is None:
        raise ParameterError("this finding claims neither reconstructions nor labels, so there is nothing to score")
    sequences = y.ndim > 1
    if sequences and finding.x is None:
        raise ParameterError(
            f"this finding claims targets alone, but targets of shape {list(y.shape[1:])} are no labels to be scored; "
            f"let the attack claim the {kind.noun}s"
        )
    claimed = None if finding.y is None or sequences else np.asarray(finding.y)[:n]
    names = np.issubdtype(y.dtype, np.integer)  # quantities are not found, only approached
    accuracy = None if claimed is None or not names else label_accuracy(claimed, y)

    matched: np.ndarray | None = None
    qualities: list[_Quality] = [(None, None, None, None, None)] * n
    extra: list[dict[str, float]] = [{} for _ in range(n)]
    surplus = 0
    if finding.x is not None:
        found = np.asarray(finding.x, np.float64)
        if found.shape[1:] != x.shape[1:] or found.ndim < 2:
            raise ParameterError(
                f"the finding's reconstructions are {list(found.shape)}, but the truth's examples are "
                f"{list(x.shape[1:])}; expected [n, {', '.join(map(str, x.shape[1:]))}]"
            )
        surplus = max(0, len(found) - n)
        broken = ~np.isfinite(found[:n])
        found = kind.settle(found[:n])
        found[broken] = np.nan
        matched = match(found, x, kind) if len(found) else np.full(n, UNMATCHED, np.int64)
        qualities, own = _quality(kind, found, x, matched, threshold_db)
        extra = measure(metrics, found, x, matched, [bool(q[-1]) for q in qualities])
        extra = [{**a, **b} for a, b in zip(own, extra, strict=True)]

    labels = _labels(claimed, y, matched)
    return Score(
        images=tuple(
            ImageScore(i, *qualities[i], None if sequences else y[i].item(), *labels[i], extra[i]) for i in range(n)
        ),
        matched=matched,
        threshold_db=float(threshold_db),
        label_accuracy=accuracy,
        seconds=float(finding.seconds),
        compile_seconds=float(finding.compile_seconds),
        evaluations=int(finding.evaluations),
        restarts=int(finding.restarts),
        objective=float(finding.objective),
        surplus=surplus,
        metrics=_own_columns(kind, finding.x is not None)
        | {name: higher_is_better(metric) for name, metric in metrics.items()},
        noun=kind.noun,
    )


def aligned(finding: Finding, scored: Score, kind: Kind | None = None) -> np.ndarray | None:
    """A finding's reconstructions in the truth's order, made valid, for figures.

    Returns:
      `[n, *input_shape]` float32, not-a-number where one is missing or was not finite; None if it claims none.
    """
    if finding.x is None or scored.matched is None:
        return None
    found = np.asarray(finding.x, np.float32)
    kind = kind or kind_of(found.shape[1:])
    rows = np.full((len(scored.images), *found.shape[1:]), np.nan, np.float32)
    for i, image in enumerate(scored.images):
        if image.finite:
            rows[i] = kind.settle(found[scored.matched[i]][None])[0]
    return rows


@dataclass(frozen=True)
class Summary:
    """Scores of many batches taken together. Fields are None where nothing was claimed.

    Attributes:
      images: number of originals, counted in every run.
      batches: number of findings.
      runs: number of runs (seeds) they come from.
      threshold_db: PSNR from which a reconstruction is a success.
      success_rate: successes over images.
      successes: how many.
      success_interval: Wilson 95% interval of the rate. Where batches hold several images, or there are several
        runs, it is widened to the effective number of trials (`clustered_wilson`).
      psnr_mean: mean PSNR in dB. In all of these an image's PSNR counts as at most 100 (`fedpriv.metrics.decibels`).
      psnr_interval: bootstrap 95% interval of that mean, drawing batches and runs (`cluster_bootstrap`); None for a
        single batch in a single run.
      psnr_median: median PSNR; likewise best and worst.
      psnr_median_interval: bootstrap 95% interval of the median.
      ssim_mean: mean SSIM; then its interval, median, best and worst.
      not_finite: originals whose reconstruction was missing or not finite.
      label_accuracy: labels found over images, matched one-to-one whatever image they came with.
      label_interval: Wilson 95% interval of it, widened like `success_interval`.
      label_right_rate: fraction of images whose own reconstruction came with the right label.
      seconds_total: wall-clock of all attacks, without compilation where told apart.
      seconds_median: median over batches.
      compile_seconds_total: one-off compilation of all attacks.
      evaluations_total: gradient evaluations of all attacks.
      evaluations_median: median over batches.
      extra: for each extra metric its `mean`, `interval`, `median`, `best` and `worst`.
      noun: what one original is called, such as "image".
    """

    images: int
    batches: int
    runs: int
    threshold_db: float
    success_rate: float | None
    successes: int | None
    success_interval: tuple[float, float] | None
    psnr_mean: float | None
    psnr_interval: tuple[float, float] | None
    psnr_median: float | None
    psnr_median_interval: tuple[float, float] | None
    psnr_best: float | None
    psnr_worst: float | None
    ssim_mean: float | None
    ssim_interval: tuple[float, float] | None
    ssim_median: float | None
    ssim_best: float | None
    ssim_worst: float | None
    not_finite: int
    label_accuracy: float | None
    label_interval: tuple[float, float] | None
    label_right_rate: float | None
    seconds_total: float
    seconds_median: float
    compile_seconds_total: float
    evaluations_total: int
    evaluations_median: float
    extra: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    noun: str = "image"

    def as_dict(self) -> Row:
        """The fields, by name; extra metrics as `lpips_mean`, `lpips_median` and so on."""
        flat = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("extra", "noun")}
        return flat | {f"{name}_{key}": v for name, values in self.extra.items() for key, v in values.items()}

    def describe(self) -> str:
        """Plain sentences: how many of how many, how good, at what cost."""
        unit = self.noun if self.images == 1 else f"{self.noun}s"
        parts = []
        if self.success_rate is not None and self.success_interval is not None:
            low, high = self.success_interval
            where = f" in {self.runs} runs" if self.runs > 1 else ""
            at = "" if self.psnr_mean is None else f" at {self.threshold_db:g} dB or better"
            parts.append(
                f"{self.successes} of {self.images} {unit}{where} reconstructed{at} "
                f"({self.success_rate:.0%}, 95% interval {low:.0%} to {high:.0%})"
            )
            interval = f" (95% interval {decibels(self.psnr_interval, ' dB')})" if self.psnr_interval else ""
            if self.psnr_mean is not None:
                parts.append(
                    f"PSNR mean {decibels(self.psnr_mean, ' dB')}{interval}, median "
                    f"{decibels(self.psnr_median, ' dB')}, best {decibels(self.psnr_best, ' dB')}, worst "
                    f"{decibels(self.psnr_worst, ' dB')}"
                )
            if self.ssim_mean is not None:
                parts.append(f"SSIM mean {self.ssim_mean:.3f}, median {self.ssim_median:.3f}")
            parts += [f"{k} mean {v['mean']:.4g}, median {v['median']:.4g}" for k, v in self.extra.items()]
            if self.not_finite:
                worst = "as the worst" if self.psnr_mean is None else "as 0 dB"
                parts.append(f"{self.not_finite} of {self.images} missing or not finite, counted {worst}")
        if self.label_accuracy is not None:
            parts.append(f"{self.label_accuracy:.1%} of {self.images} labels found")
        parts.append(
            f"{self.seconds_total:.1f} s in all, median {self.seconds_median:.2f} s and "
            f"{self.evaluations_median:g} gradient evaluations a batch"
        )
        return ". ".join(parts) + "."


def summarize(
    scores: Iterable[Score],
    seed: int = 0,
    runs: Sequence[Hashable] | None = None,
    batches: Sequence[Hashable] | None = None,
) -> Summary:
    """Takes scores together; the number of images is always part of the answer.

    Args:
      scores: at least one, all at one threshold; all with reconstructions, or none, and likewise for labels and
        extra metrics.
      seed: seed of the bootstrap.
      runs: which run (seed of weights and starts) each score comes from; None if all come from one. With several,
        intervals are over images and runs.
      batches: which batch of images each score is about; None takes the k-th score of every run to be about the
        same images.

    Raises:
      ParameterError: no scores, scores that do not belong together, or runs or batches of another number.
    """
    scores = list(scores)
    _check_alike(scores)
    run_of, batch_of = _places(len(scores), runs, batches)
    images = [image for s in scores for image in s.images]
    n = len(images)
    image_runs = [run_of[k] for k, s in enumerate(scores) for _ in s.images]
    image_batches = [batch_of[k] for k, s in enumerate(scores) for _ in s.images]

    def interval(values: np.ndarray, statistic: Literal["mean", "median"] = "mean") -> tuple[float, float] | None:
        usable = values.size and np.isfinite(values).all()
        return cluster_bootstrap(values, image_batches, image_runs, statistic, seed=seed) if usable else None

    def rate_interval(right: Sequence[bool], quality: np.ndarray | None = None) -> tuple[float, float]:
        return clustered_wilson(right, image_batches, image_runs, seed=seed, quality=quality)

    measured = np.array([i.psnr for i in images if i.psnr is not None])
    psnrs = capped(measured)
    ssims = np.array([i.ssim for i in images if i.ssim is not None])
    succeeded = [bool(i.success) for i in images] if images[0].success is not None else None
    found: list[bool] | None = None
    if scores[0].label_accuracy is not None:
        found = []
        for s in scores:
            right = round((s.label_accuracy or 0.0) * len(s.images))
            found += [k < right for k in range(len(s.images))]
    extra = {}
    for name, higher in scores[0].metrics.items() if succeeded is not None else ():
        values = np.array([i.extra[name] for i in images])
        ends = (float(values.max()), float(values.min()))
        best, worst = ends if higher else ends[::-1]
        middle = {"mean": float(values.mean()), "interval": interval(values), "median": float(np.median(values))}
        extra[name] = {**middle, "best": best, "worst": worst}
    seconds = [s.seconds for s in scores]
    evaluations = [s.evaluations for s in scores]
    return Summary(
        images=n,
        batches=len(scores),
        runs=len(set(run_of)),
        threshold_db=scores[0].threshold_db,
        success_rate=None if succeeded is None else sum(succeeded) / n,
        successes=None if succeeded is None else sum(succeeded),
        success_interval=None
        if succeeded is None
        else rate_interval(succeeded, np.minimum(measured, 2 * PSNR_CAP) if measured.size else None),
        psnr_mean=_statistic(np.mean, psnrs),
        psnr_interval=interval(psnrs),
        psnr_median=_statistic(np.median, psnrs),
        psnr_median_interval=interval(psnrs, "median"),
        psnr_best=_statistic(np.max, psnrs),
        psnr_worst=_statistic(np.min, psnrs),
        ssim_mean=_statistic(np.mean, ssims),
        ssim_interval=interval(ssims),
        ssim_median=_statistic(np.median, ssims),
        ssim_best=_statistic(np.max, ssims),
        ssim_worst=_statistic(np.min, ssims),
        not_finite=sum(i.finite is False for i in images),
        label_accuracy=None if found is None else sum(found) / n,
        label_interval=None if found is None else rate_interval(found),
        label_right_rate=None if found is None else sum(bool(i.label_right) for i in images) / n,
        seconds_total=math.fsum(seconds),
        seconds_median=float(np.median(seconds)),
        compile_seconds_total=math.fsum(s.compile_seconds for s in scores),
        evaluations_total=sum(evaluations),
        evaluations_median=float(np.median(evaluations)),
        extra=extra,
        noun=scores[0].noun,
    )


def summarize_each(scores: Iterable[Score], groups: Iterable[Hashable], seed: int = 0) -> dict[Hashable, Summary]:
    """A summary for each group of scores, such as each seed or each batch size, in the order they first appear.

    Args:
      scores: the scores.
      groups: the group of each.
      seed: seed of the bootstrap.

    Raises:
      ParameterError: not one group a score, or a group's scores do not belong together.
    """
    scores, groups = list(scores), list(groups)
    if len(scores) != len(groups):
        raise ParameterError(f"{len(groups)} groups given for {len(scores)} scores; give one each")
    members = {g: [s for s, h in zip(scores, groups, strict=True) if h == g] for g in dict.fromkeys(groups)}
    return {g: summarize(own, seed) for g, own in members.items()}


def success_rate(scores: Sequence[Score]) -> float | None:
    """Fraction of images reconstructed at the threshold PSNR or better, over all scores.

    The threshold is the scores' own (30 dB unless set otherwise); `summarize` adds the Wilson 95% interval.
    """
    return summarize(scores).success_rate


def _checked_truth(truth: Truth) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(truth.x, np.float64), np.asarray(truth.y)
    if x.ndim < 2 or y.ndim < 1 or len(x) != len(y) or not len(y):
        raise ParameterError(
            f"a truth needs x [n, ...] and y [n, ...] with n > 0, not shapes {list(x.shape)} and {list(y.shape)}"
        )
    whole = np.issubdtype(truth.kind.dtype, np.integer) and bool((x == np.rint(x)).all())
    try:
        truth.kind.checked(x.astype(truth.kind.dtype) if whole else x, "the truth to be scored")
    except DataError as e:
        raise ParameterError(
            f"{e}; the truth must lie in [0, 1], or in the range of its kind. Scale it when loading"
        ) from e
    return x, y


#: The columns that ImageScore has fields for.
_FIELDS = ("psnr", "ssim", "mse")


def _own_columns(kind: Kind, reconstructed: bool) -> dict[str, bool]:
    """Those of a kind's columns that ImageScore has no field for, and whether higher is better."""
    return {c.name: c.better == "higher" for c in kind.columns if c.name not in _FIELDS} if reconstructed else {}


def _quality(
    kind: Kind, found: np.ndarray, x: np.ndarray, matched: np.ndarray, threshold_db: float
) -> tuple[list[_Quality], list[dict[str, float]]]:
    """Each original's fields, and its kind's other columns."""
    quality: list[_Quality] = []
    own: list[dict[str, float]] = []
    sound = kind.claimed(found)
    together = kind.score_batch(x, found[sound])
    for original, which, shared in zip(x, matched, together, strict=True):
        finite = bool(which != UNMATCHED and sound[which])
        values = (kind.score(original, found[which]) if finite else kind.missing(original)) | shared
        psnr, ssim, mse = (values.get(name) for name in _FIELDS)
        quality.append((psnr, ssim, mse, bool(finite and kind.success(values, threshold_db)), finite))
        own.append({name: v for name, v in values.items() if name not in _FIELDS and v is not None})
    return quality, own


def _check_names(metrics: Mapping[str, Metric]) -> None:
    taken = {f.name for kind in (ImageScore, Score) for f in fields(kind)} | {"batch"}
    for name in metrics:
        if name in taken or not name.isidentifier():
            raise ParameterError(f"an extra metric cannot be called '{name}'; choose another plain name")


def _check_alike(scores: Sequence[Score]) -> None:
    if not scores:
        raise ParameterError("there are no scores to summarize; run at least one attack")
    groups: dict[str, set[Any]] = {
        "threshold": {s.threshold_db for s in scores},
        "presence of reconstructions": {s.matched is None for s in scores},
        "presence of labels": {s.label_accuracy is None for s in scores},
        "extra metrics": {tuple(sorted(s.metrics.items())) for s in scores},
        "what they are of": {s.noun for s in scores},
    }
    for what, kinds in groups.items():
        if len(kinds) > 1:
            raise ParameterError(f"scores that differ in {what} cannot be summarized together; summarize each kind")


def _places(
    n: int, runs: Sequence[Hashable] | None, batches: Sequence[Hashable] | None
) -> tuple[list[Hashable], list[Hashable]]:
    """Run and batch of each score."""
    for what, given in (("runs", runs), ("batches", batches)):
        if given is not None and len(given) != n:
            raise ParameterError(f"{len(given)} {what} given for {n} scores; give one each")
    run_of: list[Hashable] = list(runs) if runs is not None else [0] * n
    if batches is not None:
        return run_of, list(batches)
    return run_of, [run_of[:k].count(run) for k, run in enumerate(run_of)]


def _labels(claimed: np.ndarray | None, y: np.ndarray, matched: np.ndarray | None) -> list[tuple[Any, bool | None]]:
    if claimed is None:
        return [(None, None)] * len(y)
    if not np.issubdtype(y.dtype, np.integer):
        near = [None] * len(y) if matched is None else [claimed[m] if 0 <= m < len(claimed) else None for m in matched]
        return [(None if f is None else float(f), None) for f in near]
    if matched is None:
        right = match_labels(claimed, y)
        return [(int(label) if r else None, bool(r)) for label, r in zip(y, right, strict=True)]
    found = [int(claimed[m]) if 0 <= m < len(claimed) else None for m in matched]
    return [(f, f == int(label)) for f, label in zip(found, y, strict=True)]


def _statistic(function: Callable[[np.ndarray], float], values: np.ndarray) -> float | None:
    return float(function(values)) if values.size else None
