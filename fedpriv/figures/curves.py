"""Training curves: accuracy and loss over rounds, several arms in one figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fedpriv.base.errors import ParameterError
from fedpriv.figures.style import (
    NORMAL,
    QUIET,
    SMALL,
    WIDTH,
    add_axes,
    arm,
    label_ends,
    new_figure,
    styled,
    text_size,
    wrap,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Of rounds without a server.
_APART = "consensus_distance"
#: Of tasks whose loss is read as one; its panel takes the place of the test loss, on a logarithmic scale.
_PERPLEXITY = "test_perplexity"
_LEFT, _HEIGHT, _BETWEEN = 0.62, 1.95, 0.22


def training_curves(
    histories: Mapping[str, Any],
    *,
    loss: str = "test_loss",
    accuracy: str = "accuracy",
    target: float | None = None,
    log_rounds: bool = False,
    title: str = "",
    over: Literal["rounds", "megabytes"] = "rounds",
) -> Figure:
    """Accuracy above, loss below, over the number of rounds done; each arm named at the end of its line.

    Where all arms predict next tokens, the test loss is given as perplexity.
    Where peers without a server have models of their own, how far these lie apart comes below.

    Args:
      histories: by arm, a `History`, or a list of its records (objects or dicts with `round` from 0), or a list
        of several such runs (one a seed), drawn as their mean with a band from the lowest to the highest.
        Rounds without a value (not evaluated) are skipped; values that are not finite end the line with a cross.
      loss: the records' field in the lower panel, in nats: `test_loss`, or `loss` for the training loss.
      accuracy: the records' field in the upper panel, in [0, 1].
      target: an accuracy to mark, if any.
      log_rounds: whether the rounds' axis is logarithmic.
      title: printed above, if given.
      over: what is along the axis: rounds, or all that was sent until then, on a logarithmic scale.

    Raises:
      ParameterError: no arms, or an arm has neither accuracy nor loss.
    """
    if not histories:
        raise ParameterError("training curves need at least one history")
    arms = {name: _runs(history) for name, history in histories.items()}
    told = [_series(run, _PERPLEXITY, over)[0] for runs in arms.values() for run in runs]
    if loss == "test_loss" and all(len(x) for x in told):
        loss = _PERPLEXITY
    curves = {
        name: {key: [_series(run, key, over) for run in runs] for key in (accuracy, loss, _APART)}
        for name, runs in arms.items()
    }
    for name, keys in curves.items():
        if not any(len(x) for series in keys.values() for x, _ in series):
            raise ParameterError(f"history '{name}' has neither '{accuracy}' nor '{loss}' in any record")

    panels = [
        (key, words)
        for key, words in (
            (accuracy, "Test accuracy"),
            (loss, {"test_loss": "Test loss (nats)", _PERPLEXITY: "Test perplexity"}.get(loss, "Loss (nats)")),
            (_APART, "Consensus distance"),
        )
        if any(len(x) for keys in curves.values() for x, _ in keys[key])
    ]
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    with styled():
        figure = new_figure(WIDTH, 1)
        names = {name: wrap(name, 22) for name in curves}
        goal = "" if target is None else f"target {100 * target:.3g}%"
        right = max(text_size(figure, text, SMALL + 0.5)[0] for text in (*names.values(), goal)) + 0.32
        last = max(x[-1] for keys in curves.values() for series in keys.values() for x, _ in series if len(x))
        headline = text_size(figure, title, NORMAL + 1)[1] + 0.14 if title else 0.0
        height = 0.12 + headline + len(panels) * _HEIGHT + (len(panels) - 1) * _BETWEEN + 0.5
        figure.set_size_inches(WIDTH, height)
        if title:
            figure.text(0.12 / WIDTH, 1 - 0.1 / height, title, va="top", fontsize=NORMAL + 1, fontweight="bold")
        shared = None
        for p, (key, words) in enumerate(panels):
            top = 0.12 + headline + p * (_HEIGHT + _BETWEEN)
            axes = add_axes(figure, _LEFT, top, WIDTH - _LEFT - right, _HEIGHT, sharex=shared)
            shared = shared or axes
            axes.set_ylabel(words)
            ends = []
            for i, name in enumerate(curves):
                end = _draw(axes, curves[name][key], i)
                if end is not None:
                    ends.append((names[name], end, arm(i).color))
            if key == accuracy and target is not None:
                axes.axhline(target, color=QUIET, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
                ends.append(
                    (f"target {target:.0%}" if target * 100 % 1 == 0 else f"target {target:.1%}", target, QUIET)
                )
            if key == _PERPLEXITY:
                axes.set_yscale("log")
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.yaxis.set_major_formatter("{x:g}")
                axes.yaxis.set_minor_locator(NullLocator())
            if log_rounds or over == "megabytes":
                axes.set_xscale("log")
            else:
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
                axes.xaxis.set_major_formatter("{x:g}")
            axes.set_xlim(right=last)
            if p + 1 < len(panels):
                axes.tick_params(labelbottom=False)
            else:
                rounds = "Communication rounds" + (" (log scale)" if log_rounds else "")
                axes.set_xlabel(rounds if over == "rounds" else "MB sent by all, each message once (log scale)")
            label_ends(axes, ends)
    return figure


def _runs(history: Any) -> list[list[Any]]:
    records = getattr(history, "records", history)
    records = list(records)
    if not records or isinstance(records[0], Mapping) or hasattr(records[0], "round"):
        return [records]
    return [list(getattr(run, "records", run)) for run in records]


def _series(run: list[Any], key: str, over: str) -> tuple[np.ndarray, np.ndarray]:
    """Rounds done (from 1), or MB sent, and values where there is one."""
    points, sent = [], 0.0
    for record in run:
        fields = record if isinstance(record, Mapping) else vars(record)
        sent += (fields.get("bytes_up", 0) + fields.get("bytes_down", 0)) / 1e6
        value = fields.get(key, (fields.get("metrics") or {}).get(key))
        if value is not None:
            points.append((fields["round"] + 1 if over == "rounds" else sent, float(value)))
    array = np.array(points, np.float64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _draw(axes: Any, series: list[tuple[np.ndarray, np.ndarray]], index: int) -> float | None:
    """Draws one arm; returns the height its line ends at."""
    look = arm(index)
    series = [(x, y) for x, y in series if len(x)]
    if not series:
        return None
    # Seeds may have stopped at different rounds: means are over those that reached a round.
    rounds = np.unique(np.concatenate([x for x, _ in series]))
    table = np.full((len(series), len(rounds)), np.nan)
    for row, (x, y) in zip(table, series, strict=True):
        row[np.searchsorted(rounds, x)] = y
    table[~np.isfinite(table)] = np.nan
    some = np.isfinite(table).any(axis=0)
    if not some.any():
        return None
    rounds_drawn, table = rounds[some], table[:, some]
    mean = np.nanmean(table, axis=0)
    axes.plot(
        rounds_drawn,
        mean,
        color=look.color,
        linestyle=look.dashes,
        marker=look.marker if len(mean) <= 12 else None,
        linewidth=1.8 if len(mean) <= 100 else 1.2,
        zorder=3,
    )
    if len(series) > 1:
        low, high = np.nanmin(table, axis=0), np.nanmax(table, axis=0)
        axes.fill_between(rounds_drawn, low, high, color=look.color, alpha=0.18, linewidth=0)
    diverged = any(not np.isfinite(y).all() for _, y in series)
    if diverged:
        axes.plot(rounds_drawn[-1], mean[-1], marker="x", markersize=8, markeredgewidth=2, color=look.color, zorder=4)
    return float(mean[-1])
