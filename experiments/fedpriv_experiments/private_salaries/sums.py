"""Sums: a group's salaries through a protocol, with its real sessions, messages and parties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from fedpriv_defenses.fixed_point import FixedPoint
from fedpriv_defenses.secure_sum.additive_sharing import AdditiveSharing
from fedpriv_defenses.secure_sum.shamir_sharing import ShamirSharing
from fedpriv_defenses.secure_sum.shared_sum import HoldersSession, SharedSum

from fedpriv.base.lazy import tf
from fedpriv.defense.attrition import PartiesAttrition
from fedpriv.defense.domain import Real
from fedpriv.defense.parties import SERVER, client
from fedpriv.defense.protocol import Aborted
from fedpriv.defense.stations import Plan
from fedpriv.defense.wire import Delivery, Interference
from fedpriv_experiments.private_salaries.group import LIMIT, Person

#: How many people's sums determine the mean with Shamir's sharing.
THRESHOLD = 3
#: Each person holds shares of everybody; whole vectors are sent, so that every share is there to be read.
ADDITIVE = AdditiveSharing(among="clients", bits=None, compressed=False)
SHAMIR = ShamirSharing(among="clients", bits=None, threshold=THRESHOLD, compressed=False)


def plan_for(people: int) -> Plan:
    """The facts of a run: one number a person, all of equal weight."""
    return Plan.everybody(people, 1)


def codec_for(people: int) -> FixedPoint:
    """Whole numbers up to LIMIT, in the fewest bytes that the sum fits."""
    open_ended = FixedPoint(bits=None, range=float(LIMIT), resolution=1.0)
    return open_ended.settled(Real(), plan_for(people), "private salaries")


@dataclass(frozen=True)
class Summed:
    """One run.

    Attributes:
      session: whose messages are all kept.
      total: the salaries' sum, or None where the round was aborted.
      count: people in it.
      reason: why it was aborted, or empty.
    """

    session: HoldersSession
    total: float | None
    count: int
    reason: str

    @property
    def mean(self) -> float | None:
        """Of the people in the sum."""
        return None if self.total is None else self.total / self.count


def summed(
    people: Sequence[Person],
    protocol: SharedSum,
    *,
    gone_before: int | None = None,
    gone_after: int | None = None,
    lie: Interference | None = None,
) -> Summed:
    """Runs the protocol.

    Args:
      people: the parties, numbered in order.
      protocol: with `bits=None`.
      gone_before: number of a person who leaves before sending anything.
      gone_after: number of one who leaves after sending shares, and publishes nothing.
      lie: what is sent in place of the truth.
    """
    codec, plan = codec_for(len(people)), plan_for(len(people))
    ring = codec.maps(Real(), plan)
    settled = protocol.settled(ring, plan, "private salaries")
    assert isinstance(settled, SharedSum)
    leaving, phase = (gone_before, "share") if gone_before is not None else (gone_after, "publish")
    attrition = None if leaving is None else PartiesAttrition(gone=(f"client {leaving}",), phase=phase)
    session = settled.open(
        plan, range(len(people)), round=0, seed=0, attrition=attrition, watched=None, interference=lie
    )
    assert isinstance(session, HoldersSession)
    for number in session.begin():
        session.submit(number, encoded(people[number].salary, codec, plan))
    outcome = session.finish()
    if isinstance(outcome, Aborted):
        return Summed(session, None, 0, outcome.reason)
    values = codec.decode(tf.constant(outcome.total.view(np.int64)), outcome.count, plan).numpy()
    return Summed(session, float(values[0]), outcome.count, "")


def encoded(salary: float, codec: FixedPoint, plan: Plan) -> np.ndarray:
    """A salary and the weight 1, as ring elements."""
    elements, fits = codec.quantize(tf.constant([salary, 1.0], tf.float64), plan, np.zeros(2, np.int64))
    assert fits  # a group is checked
    return elements.numpy().view(np.uint64)


def published_falsely(liar: int, off: int) -> Interference:
    """A person who publishes another sum of shares than the right one: its first number is off by `off`."""

    def lie(sent: Delivery) -> bytes:
        assert isinstance(sent.payload, bytes)
        if sent.phase != "publish" or sent.sender != client(liar) or sent.receiver != SERVER:
            return sent.payload
        width = len(sent.payload) // 2
        first = int.from_bytes(sent.payload[:width], "little")
        most = (1 << 31) - 1 if width == 4 else 1 << (8 * width)  # a field's elements, or a ring's
        return ((first + off) % most).to_bytes(width, "little") + sent.payload[width:]

    return Interference(by_sender=lie)
