"""Rows: which tokens an update's embedding table shows.

A token's row of the table has a gradient only where the token occurs, so the rows that moved are the tokens of the
batch (Melis, Song, De Cristofaro, Shmatikov 2019, "Exploiting Unintended Feature Leakage in Collaborative Learning",
arXiv 1805.04049).
"""

from __future__ import annotations

import numpy as np

from fedpriv.threat.view import View


def row_sizes(view: View) -> np.ndarray | None:
    """Euclidean norm of each token's row of the update, `[vocabulary]` float64; None without an embedding."""
    embedding = view.model.embedding
    if embedding is None or view.observed is None:
        return None
    spec = view.model.spec
    update = np.asarray(view.observed, np.float64)[spec.slice_of(spec.names[embedding.table])]
    return np.linalg.norm(update.reshape(spec.shapes[embedding.table]), axis=1)


def moved_tokens(view: View) -> np.ndarray | None:
    """Tokens whose row moved, `[m]`; None where that says nothing: the table is tied or frozen, or all rows moved."""
    sizes = row_sizes(view)
    if sizes is None or view.model.embedding.tied:  # type: ignore[union-attr]
        return None
    found = np.flatnonzero(sizes > 0)
    return found if 0 < len(found) < len(sizes) else None
