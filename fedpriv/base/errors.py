"""The errors a user can cause. Each names the thing, its value and the way out.

All derive from `FedprivError`, which the command line prints as one message (exit code 2) without a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def one_line(error: BaseException) -> str:
    """The first line of what an error says, for another error's message; "" where it says nothing."""
    return (str(error).strip().splitlines() or [""])[0]


def reason(error: BaseException) -> str:
    """What an error says, in one short line without odd characters; its type where it says nothing."""
    told = printable(one_line(error))
    return (told if len(told) <= 200 else f"{told[:200]}...") or type(error).__name__


def printable(text: str) -> str:
    """`text` for a message: with line ends and other characters that cannot be printed written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def together(problems: Sequence[str]) -> str:
    """Several problems as one message."""
    return "; ".join([*(p.removesuffix(".") for p in problems[:-1]), *problems[-1:]])


def shown(value: object) -> str:
    """A value as Python writes it, shortened where it would hide the message that it stands in."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:80]}... ({len(text)} characters)"


class FedprivError(Exception):
    """A mistake in what was asked for, or a limit that was met; the message says what to do."""


class UnknownNameError(FedprivError, KeyError):
    """A name that nothing is registered under."""

    def __str__(self) -> str:  # KeyError would show the message's repr
        return printable(str(self.args[0])) if self.args else ""


class ParameterError(FedprivError, ValueError):
    """A parameter with an impossible value."""


class DataError(FedprivError, ValueError):
    """Data that is missing, truncated, malformed or out of range; names the file."""

    def __str__(self) -> str:  # the name of a file or a column may hold anything, a line end too
        return printable(super().__str__())


class ModelError(FedprivError, ValueError):
    """A model fedpriv cannot train or replay."""


class StackError(FedprivError, ValueError):
    """Defenses that cannot work in the order, or with the procedure, they were given."""


class ContextError(FedprivError, AttributeError):
    """A station asked for something that does not exist where it acts."""


class CapabilityError(FedprivError):
    """An attack needs something its adversary does not have."""


class SharedGraphError(FedprivError, AttributeError):
    """A part of an attack reads something of one view where it shapes a graph that serves many."""


class DivergenceError(FedprivError, ArithmeticError):
    """A client's update or the global model is no longer finite; names the round and the client."""


class AbortError(FedprivError, RuntimeError):
    """A round that its protocol could not finish, where the run is to stop then; names round, phase and reason."""


class OverflowDetected(FedprivError, ArithmeticError):
    """A value does not fit the fixed-point range of a secure sum."""


class ProtocolError(FedprivError, RuntimeError):
    """A secure-aggregation protocol could not finish (too few survivors, a share missing)."""


class MessageError(ProtocolError):
    """A message of a protocol that is not what it should be (changed, lost, malformed); it ends the round."""


class CheckpointError(FedprivError, RuntimeError):
    """A checkpoint that is damaged or belongs to another federation."""


class EngineError(FedprivError, RuntimeError):
    """An engine or one of its workers does not run."""


class ExperimentError(FedprivError, ValueError):
    """An experiment file, a results folder or a cell that cannot be used; names the file and the line."""


class CheckError(FedprivError, AssertionError):
    """A plug-in that does not do what its kind promises; names each promise that it breaks."""


class LedgerError(FedprivError, ValueError):
    """A privacy guarantee that cannot be justified, so no number is given."""


class BudgetError(LedgerError):
    """A privacy budget that is spent already, or that no noise or no round fits into."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like `name`, whatever the case of letters; None if none is."""
    folded = {n.casefold(): n for n in known}
    near = difflib.get_close_matches(str(name).casefold(), folded, n=1, cutoff=0.5)
    return folded[near[0]] if near else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence ending for an unknown `name`: the nearest known one, and the list."""
    names = sorted({printable(str(n)) for n in known})
    near = nearest(name, names)
    hint = f" Did you mean '{near}'?" if near is not None else ""
    return f"{hint} Known: {', '.join(names) if names else 'none'}."
