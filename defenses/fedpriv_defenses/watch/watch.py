"""Watch: a client's checks on what it was sent, and what it does when one of them alarms."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from fedpriv.base.lazy import tf
from fedpriv.base.types import Examples, Flat, Labels, Nested, Scalar
from fedpriv.defense.domain import Domain
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Context, Defense, Plan


class Watch(Defense):
    """Base of a client's checks: measures what it was sent before it trains, and alarms beyond a threshold.

    An alarm is logged, and a warning of the round. With `answer="withhold"` the client also sends an update of zeros:
    it stays in the sum, so that secure sums go on as they are and the mean shrinks by its share. The server sees that
    this update is zero where it sees it alone.

    Formal guarantee: none. Log: each measure's mean over the cohort, and `alarm`, the share of clients that alarmed.
    """

    #: What is measured.
    measures: ClassVar[tuple[str, ...]] = ()
    replayable: ClassVar[bool] = False
    alarms: ClassVar[bool] = True

    answer: Literal["warn", "withhold"] = Field(
        default="warn", description="what a client does when it alarms: `warn` only, or `withhold` its update."
    )

    @abstractmethod
    def measured(self, x: Examples, y: Labels, context: Context) -> tuple[dict[str, Scalar], dict[str, Scalar], Nested]:
        """(measures by name, whether each alarms, what the client remembers next) from what it holds and was sent."""

    def remembered(self, plan: Plan) -> Nested:
        """What a client that never took part remembers: a tuple of arrays."""
        return ()

    def initial_client_state(self, plan: Plan) -> Nested:
        """No alarm, and nothing remembered."""
        return (np.zeros([], np.bool_), *self.remembered(plan))

    def maps(self, given: Domain, plan: Plan) -> Domain:
        """Sending zeros lengthens nothing."""
        return given

    def data(self, x: Examples, y: Labels, context: Context) -> Passed:
        """Examples pass unchanged; the weights that came are measured."""
        values, alarms, memory = self.measured(x, y, context)
        alarm = tf.reduce_any(tf.stack(list(alarms.values())))
        dtype = context.plan.spec.dtype
        log = {name: tf.cast(value, dtype) for name, value in values.items()}
        log |= {f"alarm_{name}": tf.cast(value, dtype) for name, value in alarms.items()}
        return Passed((x, y), log={**log, "alarm": tf.cast(alarm, dtype)}, state=(alarm, *memory))

    def update(self, update: Flat, context: Context) -> Flat:
        """`[d]` to `[d]`: zeros from a client that alarmed and withholds."""
        if self.answer == "warn":
            return update
        return tf.where(context.own[0], tf.zeros_like(update), update)

    def warn(self, log: Mapping[str, float]) -> str:
        """Which checks alarmed, at how many of the clients."""
        if not log.get("alarm", 0.0) > 0:
            return ""
        which = [n for n in self.measures if log.get(f"alarm_{n}", 0.0) > 0]
        done = "sent updates of zeros" if self.answer == "withhold" else "trained all the same (answer='warn')"
        return (
            f"{100 * log['alarm']:.0f}% of the clients suspect the weights they were sent, by {', '.join(which)}; "
            f"they {done}"
        )
