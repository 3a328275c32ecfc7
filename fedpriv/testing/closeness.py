"""Closeness: how near a finding comes to the truth, and how near one comes who knows nothing of it.

Texts are measured by their tokens, in any order: their numbers are names, and a squared error of names says nothing.
All other kinds are measured in dB of the squared error, each value over its range.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from fedpriv.data.kind import Kind
from fedpriv.data.kinds.text_quality import held
from fedpriv.data.kinds.tokens import Tokens
from fedpriv.metrics.matching import UNMATCHED, label_accuracy, match
from fedpriv.threat.attack import Finding
from fedpriv.threat.truth import Truth

#: dB at which examples count as exact; keeps differences finite.
EXACT = 150.0


@dataclass(frozen=True)
class Closeness:
    """What a finding got right.

    Attributes:
      psnr: dB of the mean squared error over the batch, matched one-to-one; None without reconstructions, and of texts.
      labels: fraction of the labels found; None without labels, and where targets are sequences.
      tokens: of texts, the mean ROUGE-1 over the batch, matched one-to-one, in [0, 1]; None without reconstructions.
    """

    psnr: float | None
    labels: float | None
    tokens: float | None = None

    @property
    def examples(self) -> float | None:
        """How near the examples are, in their kind's measure; None without reconstructions."""
        return self.psnr if self.tokens is None else self.tokens


NOTHING = Closeness(0.0, 0.0)


@dataclass(frozen=True)
class Measure:
    """What examples of a kind are measured by.

    Attributes:
      gain: by how much a finding must be nearer than one that knows nothing, unless something else is asked for.
      blank: what it is compared with, in words.
      texts: whether it is ROUGE-1, in [0, 1], in place of dB.
    """

    gain: float
    blank: str
    texts: bool = False

    def written(self, value: float) -> str:
        """A value with its unit."""
        return f"{value:.0%} of the tokens" if self.texts else f"{value:.1f} dB"


def measure(kind: Kind) -> Measure:
    """That of a kind."""
    if isinstance(kind, Tokens):
        return Measure(0.25, "the most frequent token at every place", texts=True)
    return Measure(3.0, f"a blank {kind.noun}")


def closeness(finding: Finding, truth: Truth) -> Closeness:
    """How near `finding` is. What is missing or not finite has an error of 1, as in `fedpriv.metrics.score`."""
    psnr, tokens, labels, kind = None, None, None, truth.kind
    if finding.x is not None:
        found = kind.settle(np.asarray(finding.x, np.float64))[: len(truth.x)]
        which = match(found, truth.x, kind)
        if isinstance(kind, Tokens):
            scores = [0.0 if j == UNMATCHED else _rouge(x, found[j], kind) for j, x in zip(which, truth.x)]
            tokens = float(np.mean(scores))
        else:
            ours, theirs = (np.asarray(kind.to_unit(a), np.float64) for a in (truth.x, found))
            errors = [1.0 if j == UNMATCHED else float(np.mean((theirs[j] - x) ** 2)) for j, x in zip(which, ours)]
            psnr = _psnr(float(np.mean([e if math.isfinite(e) else 1.0 for e in errors])))
    if finding.y is not None and np.ndim(truth.y) == 1:
        labels = label_accuracy(finding.y[: len(truth.y)], truth.y)
    return Closeness(psnr, labels, tokens)


def blank(truth: Truth) -> float:
    """What who knows next to nothing gets, in the kind's measure.

    In dB that of the best examples of one single value, all that the mean brightness tells; of texts, that of the
    batch's most frequent token at every place.
    """
    kind = truth.kind
    if isinstance(kind, Tokens):
        ((token, _),) = Counter(t for x in truth.x for t in held(x, kind.padding)).most_common(1)
        return float(np.mean([_rouge(x, np.where(_there(x, kind), token, x), kind) for x in truth.x]))
    values = np.asarray(kind.to_unit(truth.x), np.float64)
    return _psnr(float(np.mean((values - np.mean(values)) ** 2)))


def _there(x: np.ndarray, kind: Tokens) -> np.ndarray:
    """Which places hold a token."""
    there: np.ndarray = np.ones(np.shape(x), bool) if kind.padding is None else np.asarray(x) != kind.padding
    return there


def _rouge(original: np.ndarray, found: np.ndarray, kind: Tokens) -> float:
    value = kind.score(original, found)["rouge_1"]
    assert value is not None
    return value


def _psnr(error: float) -> float:
    return min(EXACT, -10 * math.log10(max(error, 1e-300)))
