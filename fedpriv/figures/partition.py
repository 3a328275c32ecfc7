"""Partition figure: how many examples of each class every client holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedpriv.data.partition import Partition

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Ten colours told apart under the common colour-vision deficiencies (Paul Tol's "muted" scheme, 2021).
_COLOURS = (
    "#332288",
    "#ddcc77",
    "#117733",
    "#cc6677",
    "#88ccee",
    "#882255",
    "#44aa99",
    "#999933",
    "#bbbbbb",
    "#aa4499",
)
_SEPARATE_BARS = 40
_NUMBERED = 25


def class_counts(partition: Partition, labels: np.ndarray, num_classes: int | None = None) -> np.ndarray:
    """`[K, num_classes]` examples of each class at each client."""
    labels = np.asarray(labels)
    classes = int(labels.max()) + 1 if num_classes is None else num_classes
    return np.stack([np.bincount(labels[i], minlength=classes) for i in partition.indices])


def partition_figure(partition: Partition, labels: np.ndarray, class_names: Sequence[str] = ()) -> Figure:
    """A picture of a partition: one row a client, its length the number of examples, coloured by class.

    Up to ten classes are stacked bars, drawn one by one for few clients and as one silhouette for many. More classes
    are a heat map (one column a class), beside a bar for each client's size.

    Args:
      partition: who holds what.
      labels: `[n]` integers.
      class_names: one a class, or empty to number them.

    Returns:
      A figure that belongs to no window; save it with `figure.savefig(path)`.
    """
    from matplotlib.figure import Figure

    named = len(class_names) > int(np.max(labels))
    counts = class_counts(partition, labels, len(class_names) if named else None)
    names = list(class_names) if named else [f"class {c}" for c in range(counts.shape[1])]
    clients, classes = counts.shape
    figure = Figure(figsize=(8.4, float(np.clip(1.6 + 0.26 * clients, 3.2, 7.5))), layout="constrained", dpi=150)
    if classes <= len(_COLOURS):
        axes = figure.add_subplot()
        _stack(axes, counts, names)
        axes.legend(
            loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, title="Class", fontsize=9, alignment="left"
        )
        _rows(axes, clients)
    else:
        left, right = figure.subplots(1, 2, width_ratios=(4, 1), sharey=True)
        _heat(figure, left, counts, names)
        _rows(left, clients)
        right.barh(
            np.arange(clients), counts.sum(axis=1), height=1.0 if clients > _SEPARATE_BARS else 0.8, color="0.45"
        )
        right.set_xlabel("Examples")
        right.spines[["top", "right"]].set_visible(False)
        right.tick_params(labelleft=False)
    figure.suptitle(_title(partition, counts), fontsize=10)
    return figure


def _title(partition: Partition, counts: np.ndarray) -> str:
    sizes, present = counts.sum(axis=1), (counts > 0).sum(axis=1)

    def span(values: np.ndarray) -> str:
        low, middle, high = values.min(), np.median(values), values.max()
        return f"{low:,}" if low == high else f"{low:,} to {high:,} (median {middle:,.0f})"

    return f"{partition.name}\nexamples a client: {span(sizes)}; classes a client: {span(present)}"


def _stack(axes: Axes, counts: np.ndarray, names: list[str]) -> None:
    clients = len(counts)
    ends = np.cumsum(counts, axis=1)
    rows = np.arange(clients)
    for c, name in enumerate(names):
        start = ends[:, c] - counts[:, c]
        if clients <= _SEPARATE_BARS:
            axes.barh(
                rows, counts[:, c], left=start, height=0.82, color=_COLOURS[c], label=name, edgecolor="w", linewidth=0.4
            )
        else:
            edges = np.repeat(np.arange(clients + 1) - 0.5, 2)[1:-1]
            low, high = np.repeat(start, 2), np.repeat(ends[:, c], 2)
            axes.fill_betweenx(edges, low, high, color=_COLOURS[c], label=name, linewidth=0)
    axes.set_xlim(0, ends[:, -1].max() * 1.01)
    axes.set_xlabel("Examples")
    axes.spines[["top", "right"]].set_visible(False)


def _heat(figure: Figure, axes: Axes, counts: np.ndarray, names: list[str]) -> None:
    from matplotlib.colors import LogNorm

    shown = np.ma.masked_equal(counts, 0)
    scale = LogNorm(1, max(2, counts.max()))
    image = axes.imshow(shown, aspect="auto", cmap="viridis_r", interpolation="nearest", norm=scale)
    axes.set_facecolor("white")
    if counts.shape[1] <= _NUMBERED:
        axes.set_xticks(range(counts.shape[1]), names, rotation=90, fontsize=7)
    axes.set_xlabel("Class (white: none)")
    figure.colorbar(image, ax=axes, label="Examples", pad=0.01, fraction=0.05)


def _rows(axes: Axes, clients: int) -> None:
    axes.set_ylim(clients - 0.5, -0.5)
    axes.set_ylabel("Client")
    if clients <= _NUMBERED:
        axes.set_yticks(range(clients))
        axes.tick_params(axis="y", labelsize=8)
