"""LAMP: gradients for tokens, moves and a language model for their order."""

from __future__ import annotations

from typing import ClassVar

from fedpriv_attacks.inversion.inversion import (
    CoordinatesPart,
    InitializerPart,
    Inversion,
    LabelsPart,
    MovesPart,
    ObjectivePart,
    OptimizerPart,
    PriorParts,
)
from fedpriv_attacks.labels.auto import Auto
from fedpriv_attacks.parts.embedding import Embedding
from fedpriv_attacks.parts.initializers import Points
from fedpriv_attacks.parts.moves import Reorder
from fedpriv_attacks.parts.objectives import Cosine
from fedpriv_attacks.parts.optimizers.first_order import Adam
from fedpriv_attacks.parts.priors import EmbeddingLength


class LAMP(Inversion):
    """Cosine of the gradients, tensor by tensor, with a language model that decides among orders of the tokens.

    Balunovic, Dimitrov, Jovanovic, Vechev 2022, "LAMP: Extracting Text from Gradients with Language Model Priors",
    NeurIPS, arXiv 2202.08827. `lamp(objective=squared_and_absolute)` is the paper's other variant. Of several sequences
    it takes the lengths to be known (`sequence_lengths`), and without that, all to be as long as the longest.

    Differs from the paper: the language model is counted in the adversary's auxiliary text and not GPT-2, is left out
    where there is none, and weighs against the objective's logarithm; 100 starts and orders of them are tried, not
    500; tensors that rounding alone moved do not count; and the nearest token is that of the first attention's inputs
    (`coordinates=embedding(distance=cosine)` is the paper's). On the small untrained models of this package it is not
    ahead of `tag`.
    """

    name: ClassVar[str] = "lamp"
    paper: ClassVar[str] = "Balunovic, Dimitrov, Jovanovic, Vechev 2022, arXiv 2202.08827"

    objective: ObjectivePart = Cosine(per_layer=True, least=1e-6)
    priors: PriorParts = (EmbeddingLength(weight=0.1),)
    initializer: InitializerPart = Points(draws=100, permutations=100)
    coordinates: CoordinatesPart = Embedding()
    labels: LabelsPart = Auto()
    optimizer: OptimizerPart = Adam(steps=2000, learning_rate=0.1, decay="exponential")
    moves: MovesPart = Reorder()
