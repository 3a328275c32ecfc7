"""Progress of a run: a bar on a terminal, a line a round elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from fedpriv.rounds.record import Record


class RoundProgress:
    """Shows round, loss, accuracy, epsilon and time left."""

    def __init__(self, rounds: int, quiet: bool = False, accountant: str = "rdp") -> None:
        self.rounds, self.quiet = rounds, quiet
        # A round's own number is rdp's, which costs nothing, whoever gives the last one.
        self.by = "" if accountant == "rdp" else " (by rdp)"
        self.accuracy: float | None = None
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> RoundProgress:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("round {task.completed}/{task.total}"), BarColumn(),
                       TextColumn("{task.description}"), TimeRemainingColumn())  # fmt: skip
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task("starting", total=self.rounds)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, record: Record) -> None:
        """Shows a finished round."""
        if record.accuracy is not None:
            self.accuracy = record.accuracy
        parts = ["nobody trained" if record.loss is None else f"loss {record.loss:.4f}"]
        if self.accuracy is not None:
            parts.append(f"accuracy {self.accuracy:.4f}")
        parts += [f"{k.removeprefix('test_')} {v:.4f}" for k, v in record.metrics.items() if k.startswith("test_")]
        if record.epsilon is not None:
            parts.append(f"epsilon {record.epsilon:.3g}{self.by}")
        if record.dropped:
            parts.append(f"dropped {len(record.dropped)}")
        if record.lost and not record.aborted:
            parts.append(f"lost {len(record.lost)} of {record.cohort}")
        for name, share in record.metrics.items():
            if name.endswith("/alarm") and share > 0:
                parts.append(f"{100 * share:.0f}% alarmed by {name.removesuffix('/alarm')}")
        if record.aborted:
            parts.append(f"aborted: {record.aborted}")
        text = "  ".join(parts)
        if self._bar is not None:
            self._bar.update(self._task, completed=record.round + 1, description=text)
        elif not self.quiet:
            typer.echo(f"round {record.round + 1}/{self.rounds}  {text}  {record.seconds:.2f} s")
