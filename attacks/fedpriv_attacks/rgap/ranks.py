"""Rank analysis: says in advance whether a network's gradient determines its input, layer by layer.

Zhu, Blaschko 2021 (arXiv 2010.07733, section 3.4). Layer i's input has |x_i| unknowns. Its equations are those of its
weights, W x = z, and of its kernel's gradient, K x = dL/dW; together they have the rank of A_i = [W; K]. If that is
|x_i| in every layer, the recursion has one solution. Where it is not, what came before may still tie the unknowns: a
layer whose input has m free values can give the next input no more than m, however many values that has. The paper
calls the difference virtual constraints. The recursion cannot use them, but attacks on all equations at once can. So

    deficit_i = |x_i| - rank A_i,    index_i = deficit_i - virtual_i,

and a network is fully invertible by recursion if no deficit is positive, and by joint matching, to this count, if no
index is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedpriv.base.errors import ParameterError
from fedpriv.base.types import Row
from fedpriv.models.model import Model
from fedpriv_attacks.rgap.activations import forward, invert
from fedpriv_attacks.rgap.logits import softmax
from fedpriv_attacks.rgap.unrolled import Unrolled, unroll_model

#: Matrices with more rows and columns than this are first tried for regularity by Cholesky's factorization.
_LARGE = 300


@dataclass(frozen=True)
class LayerRank:
    """The equations of one layer in its input.

    Attributes:
      name: the layer's.
      unknowns: |x_i|.
      weight_equations: outputs whose value is known: all, or the active units of a ReLU; none for the last layer,
        whose logits the gradient tells only up to a constant.
      gradient_equations: entries of the kernel.
      rank: of all equations together.
      virtual: constraints that the layers before impose on the input, counted by their numbers of values.
    """

    name: str
    unknowns: int
    weight_equations: int
    gradient_equations: int
    rank: int
    virtual: int

    @property
    def deficit(self) -> int:
        """Unknowns that the layer's own equations leave open."""
        return self.unknowns - self.rank

    @property
    def index(self) -> int:
        """Unknowns left open when the layers before are counted too; at most 0 is good for the attacker."""
        return self.deficit - self.virtual


@dataclass(frozen=True)
class RankAnalysis:
    """One `LayerRank` a layer, from the first to the last."""

    layers: tuple[LayerRank, ...]

    @property
    def invertible(self) -> bool:
        """Whether the recursion has one solution in every layer."""
        return all(layer.deficit <= 0 for layer in self.layers)

    @property
    def index(self) -> int:
        """The largest index of a layer; at most 0 if matching all equations at once should have one solution."""
        return max(layer.index for layer in self.layers)

    def describe(self) -> str:
        """A table and a verdict."""
        head = f"{'layer':<12} {'unknowns':>9} {'weights':>9} {'gradients':>9} {'rank':>9} {'deficit':>9} {'index':>9}"
        rows = [
            f"{r.name:<12} {r.unknowns:>9} {r.weight_equations:>9} {r.gradient_equations:>9} {r.rank:>9} "
            f"{r.deficit:>9} {r.index:>9}"
            for r in self.layers
        ]
        short = ", ".join(f"{r.name} (by {r.deficit})" for r in self.layers if r.deficit > 0)
        verdict = (
            "fully invertible by recursion" if self.invertible else f"not invertible by recursion: short in {short}"
        )
        if not self.invertible and self.index <= 0:
            verdict += "; the layers before make up for it, so an attack on all equations at once may succeed"
        return "\n".join([head, *rows, verdict])

    def as_dict(self) -> Row:
        """For JSON."""
        names = ("name", "unknowns", "weight_equations", "gradient_equations", "rank", "virtual", "deficit", "index")
        rows = [{n: getattr(r, n) for n in names} for r in self.layers]
        return {"invertible": self.invertible, "index": self.index, "layers": rows}


def rank_analysis(
    model: Model, weights: np.ndarray | None = None, example: np.ndarray | None = None, seed: int = 0
) -> RankAnalysis:
    """Whether a network's gradient on one example determines the example; no update is needed.

    Ranks are those at one example, drawn at random unless given. They are the same for almost all examples if the
    activations are smooth; with ReLU they depend on which units are active.

    Args:
      model: a plain chain of layers, ending in a dense layer of logits.
      weights: flat weights `[d]`; None takes initial ones drawn by `seed`.
      example: `[*input_shape]` in [0, 1]; None draws one by `seed`.
      seed: of what is drawn.

    Raises:
      CapabilityError: the model is no plain chain, or pools by maximum.
      ParameterError: weights or example of another shape.
    """
    flat = model.initial_weights(seed) if weights is None else np.asarray(weights)
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=model.input_shape) if example is None else np.asarray(example, np.float64)
    if flat.shape != (model.spec.size,) or x.shape != model.input_shape:
        raise ParameterError(
            f"rank analysis of model '{model.name}' needs weights of shape ({model.spec.size},) and an example of "
            f"shape {model.input_shape}, not {flat.shape} and {x.shape}"
        )
    layers = unroll_model(model, flat)
    inputs = [x.reshape(-1)]
    for layer in layers:
        inputs.append(forward(layer.layer, layer.weight_matrix @ inputs[-1] + layer.offsets()))
    k = softmax(inputs[-1])
    k[rng.integers(len(k))] -= 1

    found = []
    for i in range(len(layers) - 1, -1, -1):
        layer = layers[i]
        last = i == len(layers) - 1
        slope = np.ones_like(k) if last else invert(layer.layer, inputs[i + 1], np.zeros(1)).slope
        k = k * slope
        known = np.zeros(len(slope), bool) if last else slope > 0
        rank = _system_rank(layer, k, known)
        gradients = 0 if layer.kernel is None else layer.kernel.size
        found.append(LayerRank(layer.layer.name, layer.unknowns, int(np.sum(known)), gradients, rank, 0))
        k = layer.weight_matrix.T @ k
    found.reverse()

    counted, free = [], layers[0].unknowns
    for row in found:
        virtual = row.unknowns - min(row.unknowns, free)
        counted.append(replace(row, virtual=virtual))
        free = min(row.unknowns, free, row.weight_equations)
    return RankAnalysis(tuple(counted))


def _system_rank(layer: Unrolled, k: np.ndarray, known: np.ndarray) -> int:
    """Rank of [W; K], with the rows of W that are known."""
    n, channels, positions = layer.unknowns, layer.channels, layer.positions[1]
    matrix = layer.weight_matrix[known]
    block = np.zeros((0, positions))
    if layer.kernel is not None and np.any(k):
        block = layer.gradient_block(k)
        # Rows beyond the block's own rank add nothing: an orthonormal basis of its row space is enough.
        _, sizes, basis = np.linalg.svd(block / np.abs(block).max(), full_matrices=False)
        block = basis[sizes > _tolerance(sizes, block.shape)]
    if len(block) == positions:
        return n  # the gradient alone determines every channel
    if not len(block):
        return _rank(matrix)
    if n > _LARGE:
        gram = (matrix.T @ matrix).toarray()
        same = np.einsum("pcqc->cpq", gram.reshape((positions, channels) * 2))
        same += float(np.max(np.diag(gram), initial=1e-300)) * (block.T @ block)
        if _surely_regular(gram):
            return n
    # What the gradient leaves open in each channel is the null space of its block; W's rank there is what W adds.
    null = np.linalg.svd(block, full_matrices=True)[2][len(block) :].T
    return channels * len(block) + _rank(matrix @ _channelwise(null, channels))


def _channelwise(null: np.ndarray, channels: int) -> np.ndarray:
    """Columns that are a column of `null` in one channel: `[positions * channels, channels * columns]`."""
    positions, columns = null.shape
    out = np.zeros((positions, channels, channels, columns))
    for c in range(channels):
        out[:, c, c] = null
    return out.reshape(positions * channels, channels * columns)


def _rank(matrix: Any) -> int:
    """Rank of a matrix, dense or sparse, by its singular values; for a large one of full rank, by a shorter proof."""
    from scipy import sparse

    if min(matrix.shape) == 0:
        return 0
    if min(matrix.shape) > _LARGE:
        wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        gram = wide @ wide.T
        if _surely_regular(gram.toarray() if sparse.issparse(gram) else np.asarray(gram)):
            return int(min(matrix.shape))
    dense = matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)
    sizes = np.linalg.svd(dense, compute_uv=False)
    return int(np.sum(sizes > _tolerance(sizes, dense.shape)))


def _surely_regular(gram: np.ndarray) -> bool:
    """Whether a symmetric, positive semi-definite matrix is far from singular; True needs no singular values."""
    from scipy import linalg

    scale = np.sqrt(np.diag(gram))
    if not np.all(scale > 0):
        return False
    gram = gram / scale / scale[:, None]
    size = float(np.max(np.abs(gram).sum(0)))
    factor, failed = linalg.lapack.dpotrf(gram.T, lower=1, overwrite_a=1)
    return not failed and bool(linalg.lapack.dpocon(factor, size, uplo="L")[0] > 1e-12)


def _tolerance(sizes: np.ndarray, shape: tuple[int, ...]) -> float:
    return float(np.max(sizes, initial=0.0)) * max(shape) * float(np.finfo(np.float64).eps)
