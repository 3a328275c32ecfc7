"""Codec: a defense at the encode station, which turns real vectors into what a protocol can sum, and sums back."""

from __future__ import annotations

from fedpriv.base.types import Scalar, Seed, Tensor
from fedpriv.defense.context import Context
from fedpriv.defense.domain import Domain, Real
from fedpriv.defense.passed import Passed
from fedpriv.defense.plan import Plan
from fedpriv.defense.stations import Defense


class Codec(Defense):
    """A defense that encodes each client's contribution as ring elements, and decodes their sum; pure TensorFlow.

    A contribution has n = d + 1 + t elements: d values (the update times the client's weight), that weight in
    [0, 1], and t tallies (small values in [-1, 1] that are summed with it), where d is `plan.spec.size`.
    """

    def encode(self, contribution: Tensor, context: Context) -> Passed:
        """The encode station: `quantize`, with what people want to know of it."""
        encoded, fits = self.quantize(contribution, context.plan, context.seed)
        return Passed(encoded, log=self.diagnose(contribution, encoded, context.plan), ok=fits)

    def decoded(self, given: Domain, plan: Plan) -> Domain:
        """Encoding may lengthen a contribution by `l2_error`."""
        if not isinstance(given, Real) or given.l2 is None:
            return given
        return Real(given.l2 + self.l2_error(plan))

    def quantize(self, contribution: Tensor, plan: Plan, seed: Seed) -> tuple[Tensor, Scalar]:
        """A contribution, float `[n]`, to ring elements.

        Args:
          contribution: of one client.
          plan: the federation's facts.
          seed: int64 `[2]`, for a codec that rounds at random.

        Returns:
          (elements, int64 `[n]`: the bit patterns of uint64; whether all of it fits, scalar bool). Where something
          does not fit, the engine names the client and stops with OverflowDetected.
        """
        raise NotImplementedError

    def decode(self, total: Tensor, count: Scalar, plan: Plan) -> Tensor:
        """The ring sum of `count` clients' contributions, int64 `[n]`, to float64 `[n]`."""
        raise NotImplementedError

    def l2_error(self, plan: Plan) -> float:
        """Largest L2 distance between a client's d values and what their encoding holds of them, in update units.

        Encoding may lengthen a clipped update by this much; the ledger adds it to the sensitivity.
        """
        return 0.0

    def diagnose(self, contribution: Tensor, encoded: Tensor, plan: Plan) -> dict[str, Scalar | float]:
        """What people want to know of one client's encoding, as scalars by name; a log, which feeds no state."""
        return {}
