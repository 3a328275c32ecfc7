"""Dossier: all that one adversary holds: its views, by round and by whom they come from, as far as it can tell."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.threat.adversary import Adversary
from fedpriv.threat.view import View


@dataclass(frozen=True, eq=False)
class Dossier:
    """One adversary's views. Holds nothing of the truth (a test walks every reference).

    Two views have the same pseudonym only if their position can tell that they come from one client: a server whose
    clients connect under their names, an eavesdropper on connections that last. A sum has none, but `members` where
    the position sees who is in it. Views of one round are in an order that says nothing about who sent them.

    Attributes:
      pages: the views, by round.
    """

    pages: tuple[View, ...]

    def __post_init__(self) -> None:
        pages = tuple(sorted(self.pages, key=_order))
        object.__setattr__(self, "pages", pages)
        if not pages:
            raise ParameterError("a dossier needs a view; let the adversary listen in a round that is run")
        strangers = {v.adversary for v in pages} - {pages[0].adversary}
        if strangers:
            raise ParameterError(
                f"a dossier is one adversary's, but these views are those of '{pages[0].adversary}' and "
                f"'{min(map(str, strangers))}'; make one for each"
            )
        named = [(v.round, v.pseudonym) for v in pages if v.pseudonym is not None]
        twice = next((n for n in named if named.count(n) > 1), None)
        if twice is not None:
            raise ParameterError(f"two views of round {twice[0]} come from '{twice[1]}'; give each view once")

    @classmethod
    def of(cls, *views: View) -> Dossier:
        """Of these views."""
        return cls(views)

    @property
    def adversary(self) -> Adversary:
        """Whose it is."""
        return self.pages[0].adversary

    @property
    def rounds(self) -> tuple[int, ...]:
        """The rounds it has views of, ascending."""
        return tuple(sorted({v.round for v in self.pages}))

    @property
    def pseudonyms(self) -> tuple[str, ...]:
        """Those it knows, in the order of their first view."""
        return tuple(dict.fromkeys(v.pseudonym for v in self.pages if v.pseudonym is not None))

    def by(self, pseudonym: str) -> tuple[View, ...]:
        """All views of one pseudonym, by round.

        Raises:
          ParameterError: there is none.
        """
        found = tuple(v for v in self.pages if v.pseudonym == pseudonym)
        if not found:
            known = ", ".join(self.pseudonyms) or "none"
            raise ParameterError(f"nobody is called '{pseudonym}' here; known are: {known}")
        return found

    def at(self, round_number: int) -> tuple[View, ...]:
        """All views of one round; none if it did not listen then."""
        return tuple(v for v in self.pages if v.round == round_number)

    def only(self, who: str = "this") -> View:
        """The one page there is.

        Raises:
          CapabilityError: there are several; it says how to choose.
        """
        if len(self.pages) > 1:
            raise CapabilityError(
                f"{who} looks at one view, but there are {len(self.pages)}: {self.describe()} Give it one of "
                "dossier.pages, such as dossier.by(pseudonym)[0]"
            )
        return self.pages[0]

    def participation(self) -> tuple[tuple[View, ...], tuple[str, ...], np.ndarray]:
        """Who is behind which view, as far as it can tell.

        Returns:
          The views of real updates or sums whose members it knows, those members in the order of their names, and a
          matrix of zeros and ones, int `[views, members]`.
        """
        pages = tuple(v for v in self.pages if v.members is not None and v.observed is not None)
        members = sorted({m for v in pages for m in v.members or ()}, key=lambda name: (len(name), name))
        rows = [[int(m in (v.members or ())) for m in members] for v in pages]
        return pages, tuple(members), np.array(rows, np.int64).reshape(len(pages), len(members))

    def describe(self) -> str:
        """One sentence: whose, of what."""
        rounds = ", ".join(map(str, self.rounds))
        linked = sum(len(self.by(p)) > 1 for p in self.pseudonyms)
        return (
            f"what {self.adversary} holds: {len(self.pages)} view(s) of round(s) {rounds}, {linked} client(s) linked "
            "over several rounds."
        )


def dossiers(views: Iterable[View]) -> list[Dossier]:
    """One dossier for each adversary among `views`, in the order they first appear."""
    groups: dict[Adversary, list[View]] = {}
    for view in views:
        groups.setdefault(view.adversary, []).append(view)
    return [Dossier(tuple(pages)) for pages in groups.values()]


def _order(view: View) -> tuple[int, str]:
    seen = b"" if view.observed is None else view.observed.tobytes()
    return view.round, hashlib.sha256(seen).hexdigest()
