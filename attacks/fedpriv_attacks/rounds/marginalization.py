"""Functional marginalization: a peer's local update from the models it sends, and what is known of how it began."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.errors import CapabilityError
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.dossier import Dossier
from fedpriv.threat.knowledge import Knowledge
from fedpriv.threat.view import View
from fedpriv_attacks.modern import AttackPart
from fedpriv_attacks.rounds.joined import attack_each, joined

#: How much of the weights may be missing where a beginning counts as known.
_WHOLE = 1e-6


@dataclass(frozen=True, eq=False)
class Recovered:
    """What a message tells of its sender's local update.

    Attributes:
      view: as of an update from a beginning that is known, or estimated.
      sender: as the adversary calls it.
      known: the share of the beginning, by mixing weights, that the adversary holds.
      whole: whether the message was the sender's model, not a compression of it; then all of the beginning determines
        the update.
    """

    view: View
    sender: str
    known: float
    whole: bool = True

    @property
    def determined(self) -> bool:
        """Whether the update is exact."""
        return self.whole and self.known > 1 - _WHOLE


class FunctionalMarginalization(Attack):
    """Finds where each neighbour began its local training, takes that off what it sent, and attacks the update.

    Pasquini, Raynal, Troncoso 2023, "On the (In)security of Peer-to-Peer Decentralized Machine Learning", IEEE S&P,
    arXiv 2205.08443. A peer begins a round with a weighted mean of the models of the round before. In the first round
    all begin with one known model. Later the adversary holds the mean where it was sent each of these models, or sent
    it
    itself: where it neighbours all that the victim neighbours. Then the update is exact, and gossip hides nothing that
    a server would not see. Where models are missing, the update is not determined; with `estimate` the mean of those
    that it holds stands in for each, which is near where the peers agree, and off by what they differ, times the
    missing weight.

    It fails where the adversary cannot know who exchanged with whom (GoSGD's random pairs) and where messages are late.
    Under masks it holds sums of models, and gives the inner attack the sum of the updates where all of them began
    alike: in the first round, and on a complete graph. `measures`: `determined`, the share of senders (or sums) whose
    update is exact (none that was sent compressed, as in CHOCO); `known`, the mean share of the beginnings that it
    holds.
    """

    name: ClassVar[str] = "functional_marginalization"
    paper: ClassVar[str] = "Pasquini, Raynal, Troncoso 2023, arXiv 2205.08443"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.NUM_EXAMPLES})

    inner: AttackPart = Field(
        default="modern",  # type: ignore[assignment]
        description="the attack that is given each update, such as `first_layer` or `dlg`.",
    )
    estimate: bool = Field(
        default=True, description="whether the mean of the models that it holds stands in for those that it does not."
    )
    most: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="how many senders to attack, those whose beginning is known best first; none takes all.",
    )

    def requirements(self) -> frozenset[Capability]:
        """Its own; the inner attack is asked about what was recovered."""
        return self.needs

    def brings(self) -> tuple[Knowledge, ...]:
        """What the inner attack brings in."""
        return self.inner.brings()

    def attack_dossier(self, dossier: Dossier, seed: int) -> Finding:
        """Recovers what can be, the best message of each sender, and attacks it.

        Returns:
          A finding with the examples and labels of all senders, one after the other. `extra` has `recovered`, who it
          was, in which round and how much of the beginning was known, and `refused`, what the inner attack said of
          those that it did not apply to.

        Raises:
          CapabilityError: no message's beginning is known, or the inner attack applies to none of the updates.
        """
        began = time.perf_counter()
        best: dict[str, Recovered] = {}  # by sender, or by who is in a sum
        for one in recover(dossier, self.estimate):
            if one.sender not in best or one.known > best[one.sender].known + _WHOLE:
                best[one.sender] = one
        chosen = sorted(best.values(), key=lambda one: -one.known)[: self.most]
        if not chosen:
            raise CapabilityError(
                f"attack '{self.name}' finds no update: {dossier.describe()} Where its neighbours began is not known "
                "(random pairs, late messages, masks, compressed differences, or models it was not sent); let it "
                "listen from the first round, be more peers, or set estimate=true"
            )
        findings, refused = attack_each(self.inner, [o.view for o in chosen], seed, f"'{self.name}' recovered")
        return joined(
            findings,
            dossier.pages[0].model.input_shape,
            time.perf_counter() - began,
            measures={
                "determined": float(np.mean([one.determined for one in chosen])),
                "known": float(np.mean([one.known for one in chosen])),
            },
            extra={
                "recovered": [
                    {"sender": o.sender, "round": o.view.round, "known": o.known, "exact": o.determined} for o in chosen
                ],
                "refused": refused,
            },
        )


def recover(dossier: Dossier, estimate: bool = True) -> list[Recovered]:
    """What each message tells of its sender's update, by round; none where nothing of its beginning is known.

    Args:
      dossier: a neighbour's, or the wire's.
      estimate: as the attack's.
    """
    held: dict[int, dict[str, np.ndarray]] = {}
    for page in dossier.pages:
        if page.letter is not None:
            models = held.setdefault(page.round, {})
            models |= {name: np.asarray(m, np.float64) for name, m in page.letter.own.items()}
            models[page.letter.sender] = np.asarray(page.letter.last, np.float64)
    found = []
    for page in dossier.pages:
        if page.kind == "sum" and page.members:  # under masks, of whoever began alike
            found.append(Recovered(page, ", ".join(page.members), 1.0))
        if page.letter is None or page.observed is None:
            continue
        if page.kind == "update":
            found.append(Recovered(page, page.letter.sender, 1.0, page.letter.whole))
        elif page.letter.origin is not None and (before := held.get(page.round - 1)):
            start, known = _start(page.letter.origin, before)
            if known > 1 - _WHOLE or (estimate and known > 0):
                found.append(Recovered(_from(page, start), page.letter.sender, known, page.letter.whole))
    return found


def _start(origin: Mapping[str, float], before: Mapping[str, np.ndarray]) -> tuple[np.ndarray, float]:
    """Where a peer began, float64 `[d]`, with the mean of known models for others; and the share that is known."""
    total = sum(origin.values())
    known = {name: weight for name, weight in origin.items() if name in before}
    share = sum(known.values()) / total
    start = sum((weight * before[name] for name, weight in known.items()), np.zeros_like(next(iter(before.values()))))
    if share <= 1 - _WHOLE:
        start = start + (total - sum(known.values())) * np.mean(list(before.values()), 0)
    return start, share


def _from(page: View, start: np.ndarray) -> View:
    """A page as if its sender had been sent `start` `[d]`."""
    dtype = page.model.spec.dtype
    assert page.observed is not None
    weights = start.astype(dtype)
    sent = np.asarray(page.weights, np.float64) + np.asarray(page.observed, np.float64)
    return replace(page, kind="update", weights=weights, observed=(sent - weights).astype(dtype))
