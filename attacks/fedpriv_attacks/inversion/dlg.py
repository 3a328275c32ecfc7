"""DLG: deep leakage from gradients."""

from __future__ import annotations

from typing import ClassVar

from fedpriv_attacks.inversion.inversion import Count, Inversion, OptimizerPart
from fedpriv_attacks.parts.coordinates import Coordinates
from fedpriv_attacks.parts.embedding import Embedding
from fedpriv_attacks.parts.optimizers.lbfgs import LBFGS


class DLG(Inversion):
    """Dummy examples and dummy labels, matched to the update by L-BFGS.

    Zhu, Liu, Han 2019, "Deep Leakage from Gradients", NeurIPS, arXiv 1906.08935. Minimizes the squared error
    between the simulated and the observed update over the examples and a softmax of label logits, jointly, from
    several random starts; the start with the lowest objective is kept. The objective is the paper's. Two defaults
    differ from it and are parameters: the dummy starts near grey instead of at unit normal noise, and L-BFGS works
    on scaled cosine-transform coefficients instead of pixels; `dlg(initializer=normal(mean=0,spread=1),
    coordinates=pixels)` is the paper's choice. `labels=known` holds the labels fixed, if the adversary knows them.

    A start ends at the noise floor of the update's precision, where no step lowers the objective in that precision, or
    once the objective falls by less than 5% in 200 evaluations. On the paper's LeNet float32 gives out at an objective
    of about 1e-8 with the paper's initialization, and of 1e-12 with Keras's.

    On text the variables are points of the model's embedding (coordinates `embedding`), which start at normal noise of
    the table's own spread, as Deng et al. 2021 (arXiv 2103.06819) carry the attack over. What is found is the token
    nearest to each point.

    Needs a model that is twice differentiable with useful second derivatives: sigmoid or tanh, not ReLU.
    Reconstructions are clipped to [0, 1] at the end.
    """

    name: ClassVar[str] = "dlg"
    paper: ClassVar[str] = "Zhu, Liu, Han 2019, arXiv 1906.08935"
    on_tokens: ClassVar[Coordinates | None] = Embedding()

    optimizer: OptimizerPart = LBFGS(memory=100, max_evaluations=4000, stagnation_window=200, stagnation_decrease=0.05)
    restarts: Count = 8
