"""Holder: one of the parties that hold shares, add them up, and publish the sum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedpriv.base.errors import MessageError
from fedpriv.defense.parties import Party
from fedpriv.defense.ring import KEY_BYTES
from fedpriv.defense.wire import Payload
from fedpriv_defenses.secure_sum.scheme import Scheme


class Holder:
    """One of the parties that hold shares: adds up those it gets.

    Attributes:
      party: who it is.
      place: its number among the holders of the round.
      clients: whose shares it has.
    """

    def __init__(self, party: Party, place: int, scheme: Scheme) -> None:
        self.party, self.place, self.clients = party, place, set[int]()
        self._scheme = scheme
        self._total: np.ndarray | None = None

    @property
    def message_bytes(self) -> int:
        """Bytes of what each client sends it."""
        return KEY_BYTES if self.place < self._scheme.keyed else self._scheme.share_bytes

    def receive(self, client: int, message: Payload) -> None:
        """Takes one client's message: a key, or a vector.

        Raises:
          MessageError: a second message of that client, one of the wrong length, or no share.
        """
        if client in self.clients:
            raise MessageError(f"{self.party} got a second share of client {client}; each sends one")
        wanted = self.message_bytes
        if not isinstance(message, bytes) or len(message) != wanted:
            raise MessageError(
                f"{self.party} got {len(message)} bytes from client {client} instead of {wanted}; all clients must "
                "use the same model, bits and compression"
            )
        try:
            self._total = self._scheme.plus(self.place, self._total, message)
        except MessageError as e:
            raise MessageError(
                f"{self.party} got no share from client {client}: {e}; run the round again without that client"
            ) from e
        self.clients.add(client)

    def roll(self, cohort: Sequence[int]) -> bytes:
        """Whose shares it has, a bit for each client of the cohort."""
        return np.packbits(np.fromiter((c in self.clients for c in cohort), bool, len(cohort))).tobytes()

    def called(self, cohort: Sequence[int], other: Party, roll: Payload) -> None:
        """Compares another holder's roll with its own.

        Raises:
          MessageError: it is none, or differs.
        """
        own = self.roll(cohort)
        if not isinstance(roll, bytes) or len(roll) != len(own):
            raise MessageError(
                f"{self.party} got {len(roll)} bytes from {other} in place of a roll of {len(own)}; run the round "
                "again without it"
            )
        if roll == own:
            return
        bits = np.unpackbits(np.frombuffer(roll, np.uint8)).astype(bool)
        theirs = {c for c, has in zip(cohort, bits[: len(cohort)], strict=True) if has}
        lacking, missing = other, self.clients - theirs
        if not missing:
            lacking, missing = self.party, theirs - self.clients
        if not missing:
            raise MessageError(f"{self.party} got a roll from {other} that names strangers; run the round without it")
        more = f" (and of {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise MessageError(
            f"{lacking} has no share of client {min(missing)}{more}, others do, so the sum cannot be decoded; "
            "run the round again without that client"
        )

    def sum(self) -> bytes:
        """What it publishes: the sum of its shares."""
        return self._scheme.pack(self._total)
