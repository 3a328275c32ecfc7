"""Rows: which tokens an update's embedding table shows.

A token's row of the table has a gradient only where the token occurs, so the rows that moved are the tokens of the
batch (Melis, Song, De Cristofaro, Shmatikov 2019, "Exploiting Unintended Feature Leakage in Collaborative Learning",
arXiv 1805.04049).
"""

from __future__ import annotations

import numpy as np

from fedpriv.models.model import Model
from fedpriv.threat.view import View


def row_sizes(view: View) -> np.ndarray | None:
    """Euclidean norm of each token's row of the update, `[vocabulary]` float64; None without an embedding."""
    embedding = view.model.embedding
    if embedding is None or view.observed is None:
        return None
    spec = view.model.spec
    update = np.asarray(view.observed, np.float64)[spec.slice_of(spec.names[embedding.table])]
    return np.linalg.norm(update.reshape(spec.shapes[embedding.table]), axis=1)


def sparsified(view: View) -> bool:
    """Whether a known defense leaves coordinates out, so that a row that did not arrive may be of a token too."""
    return view.visible is not None or any(p.sparsifies for defense in view.defenses for p in defense.parts())


def moved_tokens(view: View) -> np.ndarray | None:
    """Tokens whose row moved, `[m]`; None where that says nothing: the table is tied or frozen, all rows moved, or
    rows may be left out."""
    sizes = row_sizes(view)
    if sizes is None or view.model.embedding.tied or sparsified(view):  # type: ignore[union-attr]
        return None
    found = np.flatnonzero(sizes > 0)
    return found if 0 < len(found) < len(sizes) else None


#: What a place's row may be off by, relative to its length, and a token's least share of it.
_OFF, _SHARE = 1e-3, 1e-2


def tokens_by_place(view: View, tokens: np.ndarray) -> list[np.ndarray | None]:
    """For each place the tokens there, where learned positions tell; None where they do not.

    What enters a first layer is the sum of a token's vector and its place's, so both rows get the same gradient. A
    place's row is therefore the sum of the rows of the tokens there, if none of these occurs elsewhere as well. That
    sum is looked for by non-negative least squares, and told where it leaves nothing over.

    Args:
      view: whose update is read; its table must not be tied.
      tokens: `[m]`, those whose rows moved, fewer than the width.
    """
    from scipy.optimize import nnls

    model: Model = view.model
    (length,) = model.input_shape
    nothing: list[np.ndarray | None] = [None] * length
    embedding = model.embedding
    if embedding is None or embedding.tied or embedding.positions is None or view.observed is None:
        return nothing
    spec = model.spec
    update = np.asarray(view.observed, np.float64)
    rows, places = (
        update[spec.slice_of(spec.names[i])].reshape(spec.shapes[i]) for i in (embedding.table, embedding.positions)
    )
    rows = rows[tokens]
    if not len(tokens) or len(tokens) >= rows.shape[1] or not np.all(np.any(rows, axis=1)):
        return nothing
    scale = float(np.linalg.norm(rows, axis=1).mean())
    found = nothing
    for place, row in enumerate(places[:length]):
        size = float(np.linalg.norm(row))
        if not size:
            continue
        shares, off = nnls(rows.T / scale, row / scale)
        if off < _OFF * size / scale:
            found[place] = tokens[shares > _SHARE]
    return found
