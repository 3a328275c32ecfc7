"""Replays: which known defenses an attack's own replay has run, measured while it runs.

`View.simulate` and `Static.simulate` note the defenses whose stand-ins they run; `Attack.run` gathers the notes into
`Finding.replayed`. A graph is traced once and run often, so who keeps one notes again what was noted at its tracing.
Notes belong to a thread: what an attack traces on threads of its own is noted only with `contextvars.copy_context`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

#: Before a defense's label, that its declared noise was reckoned with.
NOISE = "noise of "
#: Before a defense's label, that what its message leaves open was reckoned with.
CELLS = "cells of "
#: Before a model's name, that what it draws in training was reckoned with.
DRAWS = "draws of "

_NOTES: ContextVar[set[str] | None] = ContextVar("replayed defenses", default=None)


def note(labels: Iterable[str]) -> None:
    """Notes that these defenses were replayed, by their labels (`fedpriv.defense.stations.labels`)."""
    notes = _NOTES.get()
    if notes is not None:
        notes.update(labels)


@contextmanager
def measured() -> Iterator[set[str]]:
    """The set that notes go to inside; whoever measures outside gets them as well."""
    own: set[str] = set()
    token = _NOTES.set(own)
    try:
        yield own
    finally:
        _NOTES.reset(token)
        note(own)


@contextmanager
def unmeasured() -> Iterator[None]:
    """No notes are taken inside: for replays that judge a finding, and had no part in making it."""
    token = _NOTES.set(None)
    try:
        yield
    finally:
        _NOTES.reset(token)
