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
      sent: the share of the update's coordinates that the messages let through; 1 where these were models.
    """

    view: View
    sender: str
    known: float
    sent: float = 1.0

    @property
    def determined(self) -> bool:
        """Whether all of the update is exact."""
        return self.exact == 1

    @property
    def exact(self) -> float:
        """The share of the update's coordinates that are exact."""
        return self.sent if self.known > 1 - _WHOLE else 0.0


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

    CHOCO's messages are compressed differences to public copies, which all neighbours hold. At a coordinate that a peer
    has just sent, its copy is its model; so where it sent a coordinate in two rounds, one after the other, and all
    copies that it averaged are held, this coordinate of its update is exact. The others are hidden from the inner
    attack, and the copy stands for the model where that is not known. In the first round the message is the compressed
    update, which a replay knows how to compress.

    It fails where the adversary cannot know who exchanged with whom (GoSGD's random pairs) and where messages are late.
    Under masks it holds sums of models, and gives the inner attack the sum of the updates where all of them began
    alike: in the first round, and on a complete graph. `measures`: `determined`, the share of senders (or sums) whose
    update is exact; `exact_coordinates`, the mean share of an update's coordinates that are; `known`, the mean share of
    the beginnings that it holds.
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
            if one.sender not in best or _rank(one) > _rank(best[one.sender]):
                best[one.sender] = one
        chosen = sorted(best.values(), key=lambda one: -one.known)[: self.most]
        if not chosen:
            raise CapabilityError(
                f"attack '{self.name}' finds no update: {dossier.describe()} Where its neighbours began is not known "
                "(random pairs, late messages, masks, or models it was not sent), or no coordinate was sent in two "
                "rounds, one after the other (compressed differences); let it listen from the first round, be more "
                "peers, or set estimate=true"
                + ("" if len(dossier.rounds) > 1 else "; these views are of one round: give all rounds' as a dossier")
            )
        findings, refused = attack_each(self.inner, [o.view for o in chosen], seed, f"'{self.name}' recovered")
        return joined(
            findings,
            dossier.pages[0].model.input_shape,
            time.perf_counter() - began,
            measures={
                "determined": float(np.mean([one.determined for one in chosen])),
                "exact_coordinates": float(np.mean([one.exact for one in chosen])),
                "known": float(np.mean([one.known for one in chosen])),
            },
            extra={
                "recovered": [
                    {
                        "sender": o.sender,
                        "round": o.view.round,
                        "known": o.known,
                        "exact": o.determined,
                        "exact_coordinates": o.exact,
                    }
                    for o in chosen
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
    sent: dict[tuple[int, str], np.ndarray] = {}
    for page in dossier.pages:
        if page.letter is not None:
            if page.letter.sent is not None:
                sent[page.round, page.letter.sender] = page.letter.sent
            models = held.setdefault(page.round, {})
            models |= {name: np.asarray(m, np.float64) for name, m in page.letter.own.items()}
            models[page.letter.sender] = np.asarray(page.letter.last, np.float64)
    found = []
    for page in dossier.pages:
        if page.kind == "sum" and page.members:  # under masks, of whoever began alike
            found.append(Recovered(page, ", ".join(page.members), 1.0))
        if page.letter is None or page.observed is None:
            continue
        sender, now = page.letter.sender, page.letter.sent
        if page.kind == "update":
            found.append(Recovered(page, sender, 1.0, 1.0 if now is None else float(now.mean())))
        elif page.letter.origin is not None and (before := held.get(page.round - 1)):
            start, known = _start(page.letter.origin, before)
            if known <= 1 - _WHOLE and (not estimate or known == 0):
                continue
            if now is None:
                found.append(Recovered(_from(page, start), sender, known))
            elif (twice := sent.get((page.round - 1, sender), np.False_) & now).any():
                view = _at(_from(page, start, page.letter.last), twice)
                found.append(Recovered(view, sender, known, float(twice.mean())))
    return found


def _rank(one: Recovered) -> tuple[float, float]:
    return round(one.known, 6), one.sent


def _start(origin: Mapping[str, float], before: Mapping[str, np.ndarray]) -> tuple[np.ndarray, float]:
    """Where a peer began, float64 `[d]`, with the mean of known models for others; and the share that is known."""
    total = sum(origin.values())
    known = {name: weight for name, weight in origin.items() if name in before}
    share = sum(known.values()) / total
    start = sum((weight * before[name] for name, weight in known.items()), np.zeros_like(next(iter(before.values()))))
    if share <= 1 - _WHOLE:
        start = start + (total - sum(known.values())) * np.mean(list(before.values()), 0)
    return start, share


def _from(page: View, start: np.ndarray, copy: np.ndarray | None = None) -> View:
    """A page as if its sender had been sent `start` `[d]`; `copy` is the sender's public one, where that was sent."""
    dtype = page.model.spec.dtype
    assert page.observed is not None
    weights = start.astype(dtype)
    if copy is None:
        copy = np.asarray(page.weights, np.float64) + np.asarray(page.observed, np.float64)
    return replace(page, kind="update", weights=weights, observed=(copy - weights).astype(dtype))


def _at(page: View, visible: np.ndarray) -> View:
    """A page's update at some coordinates, without the compression, the last of its defenses, which chose them."""
    assert page.observed is not None
    observed = np.where(visible, page.observed, page.observed.dtype.type(0))
    return replace(page, observed=observed, visible=visible, defenses=page.defenses[:-1], states=page.states[:-1])
