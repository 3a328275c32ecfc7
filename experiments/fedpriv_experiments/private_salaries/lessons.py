"""Lessons: what each party saw, why fewer learn nothing, what goes wrong, and what helps; as numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from fedpriv.account.accounting import noise_for
from fedpriv.base.seeds import Purpose, generator
from fedpriv.defense.parties import client
from fedpriv_experiments.private_salaries.group import Person
from fedpriv_experiments.private_salaries.sums import ADDITIVE, SHAMIR, Summed, codec_for, published_falsely, summed

#: Two salaries that could hardly differ more, and how often each is shared for a histogram.
LOW, HIGH, DRAWS = 1_000, 90_000, 20_000
#: Of a published sum, in a lie.
LIE = 10_000
#: Of the two runs together.
EPSILON, DELTA = 1.0, 1e-5
#: Salaries above are cut to it where noise is added, so that it hides them.
CLIP = 10_000


@dataclass(frozen=True)
class Seen:
    """The shares of a run of additive sharing.

    Attributes:
      shares: `[n, n]`, by sender and by holder; what one keeps of its own is on the diagonal.
      published: each holder's sum.
      modulus: of all these.
      run: the run.
    """

    shares: np.ndarray
    published: np.ndarray
    modulus: int
    run: Summed


def seen(people: Sequence[Person]) -> Seen:
    """A run in which every message is kept, and read afterwards."""
    run = summed(people, ADDITIVE)
    n, modulus = len(people), 1 << (codec_for(len(people)).bits or 0)
    shares = np.zeros((n, n), np.int64)
    for holder in range(n):
        for sender, share in run.session.shares(client(holder)).items():
            shares[sender, holder] = int(share[0])
    for i, person in enumerate(people):  # a share that is kept is on no channel; its holder knows it from the others
        shares[i, i] = (person.salary - int(shares[i].sum())) % modulus
    return Seen(shares, shares.sum(0) % modulus, modulus, run)


@dataclass(frozen=True)
class Explanation:
    """One salary that would explain what a coalition holds.

    Attributes:
      salary: guessed.
      missing: the share that the victim must then have kept.
      recombined: what this and the coalition's shares give together.
    """

    salary: int
    missing: int
    recombined: int


def explanations(found: Seen, victim: int, guesses: Sequence[int]) -> list[Explanation]:
    """For each guess the one share that fits: all but the victim cannot tell the guesses apart."""
    scheme, n = found.run.session.scheme, len(found.shares)
    others = {j: np.array([found.shares[victim, j], 0], np.uint64) for j in range(n) if j != victim}
    held, explained = sum(int(s[0]) for s in others.values()), []
    for guess in guesses:
        missing = (guess - held) % found.modulus
        whole, _ = scheme.combined(_as_shares({**others, victim: np.array([missing, 0], np.uint64)}), 1)
        explained.append(Explanation(guess, missing, int(whole[0])))
    return explained


def _as_shares(shares: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    return {i: s.astype(np.uint32) for i, s in shares.items()}


@dataclass(frozen=True)
class Histograms:
    """Shares of two salaries, many times.

    Attributes:
      low, high: one share of each run, as a fraction of the modulus.
      uniform: p-values of a chi-square test of each against a uniform distribution, in 50 bins.
      alike: p-value of a test of one against the other.
    """

    low: np.ndarray
    high: np.ndarray
    uniform: tuple[float, float]
    alike: float


def histograms(people: int, draws: int = DRAWS) -> Histograms:
    """The share that the first person sends the second, for a low and for a high salary."""
    bits = codec_for(people).bits or 0
    scheme = ADDITIVE.with_(bits=bits).scheme(range(people), draws, people)
    found = []
    for salary in (LOW, HIGH):
        message = scheme.split(np.full(draws, salary, np.uint64))[1]
        found.append(scheme.share(1, message).astype(np.float64) / (1 << bits))
    counts = [np.histogram(values, 50, (0, 1))[0] for values in found]
    p = tuple(float(stats.chisquare(c).pvalue) for c in counts)
    alike = float(stats.chi2_contingency(np.stack(counts))[1])
    return Histograms(found[0], found[1], (p[0], p[1]), alike)


@dataclass(frozen=True)
class Failure:
    """What becomes of one mishap under the two protocols.

    Attributes:
      what: happened.
      truth: the mean that ought to come out.
      additive, shamir: the runs.
    """

    what: str
    truth: float
    additive: Summed
    shamir: Summed


def failures(people: Sequence[Person]) -> list[Failure]:
    """One leaves, early or late; one lies about a sum; one lies about a salary."""
    last, n = len(people) - 1, len(people)
    everyone = sum(p.salary for p in people) / n
    without = sum(p.salary for p in people[:last]) / last
    name = people[last].name
    boasting = (*people[:last], Person(name, people[last].salary + LIE))
    mishaps = (
        (f"{name} leaves before sending anything", without, {"gone_before": last}),
        (f"{name} leaves after sending the shares", everyone, {"gone_after": last}),
        (f"{name} publishes a sum that is {LIE:,} too high", everyone, {"lie": published_falsely(last, LIE)}),
    )
    found = [
        Failure(what, truth, summed(people, ADDITIVE, **options), summed(people, SHAMIR, **options))  # type: ignore[arg-type]
        for what, truth, options in mishaps
    ]
    said = f"{name} shares a salary that is {LIE:,} too high"
    return [*found, Failure(said, everyone, summed(boasting, ADDITIVE), summed(boasting, SHAMIR))]


@dataclass(frozen=True)
class Difference:
    """Two runs, of a group and of the same group with some more.

    Attributes:
      before, after: the sums.
      newcomers: how many more.
      known: what the difference tells of them: the mean of their salaries.
    """

    before: float
    after: float
    newcomers: int

    @property
    def known(self) -> float:
        """What the difference tells."""
        return (self.after - self.before) / self.newcomers


def difference(people: Sequence[Person], more: Sequence[Person]) -> Difference:
    """Both sums, by additive sharing."""
    before, after = summed(people, ADDITIVE).total, summed([*people, *more], ADDITIVE).total
    assert before is not None
    assert after is not None  # nobody leaves here
    return Difference(before, after, len(more))


@dataclass(frozen=True)
class Noised:
    """What normal noise on each published sum does.

    Attributes:
      cut: the largest salary that counts; more is cut to it.
      deviation: of the noise.
      guesses: at the newcomer's salary, from the difference of two sums with noise, one a repetition.
      errors: standard deviation of the mean's error, by the size of the group.
    """

    cut: int
    deviation: float
    guesses: np.ndarray
    errors: dict[int, float]


def noised(newcomer: Person, seed: int, draws: int = DRAWS, people: Sequence[Person] = ()) -> Noised:
    """Noise for (EPSILON, DELTA)-differential privacy of both sums together, if a newcomer comes or not."""
    highest = max(p.salary for p in (newcomer, *people))
    cut = CLIP if highest <= CLIP else 10 ** math.ceil(math.log10(highest))
    deviation = cut * noise_for(EPSILON, rounds=2, delta=DELTA, rate=1.0)
    rng = generator(seed, Purpose.SERVER)  # shows what noise does; noise that protects comes from secret bits
    drawn = rng.normal(0.0, deviation, (2, draws))
    return Noised(
        cut,
        deviation,
        min(newcomer.salary, cut) + drawn[1] - drawn[0],
        {n: deviation / n for n in (5, 100, 10_000, 1_000_000)},
    )
