"""Labels of whole batches, read off the last layer's mean gradient: GradInversion, LLG and its variants, iLRG, bias.

All read an update of several local steps as one mean gradient; `InferredLabels.notes` says where that is done.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedpriv.base.errors import CapabilityError
from fedpriv.base.seeds import Purpose, generator
from fedpriv.threat.attack import Capability
from fedpriv.threat.knowledge import Knowledge
from fedpriv.threat.view import View
from fedpriv_attacks.labels.auxiliary import brought, chosen, needed
from fedpriv_attacks.labels.counts import greedy_counts, misfit, nearest_counts, regressed_counts, solve_counts
from fedpriv_attacks.labels.inference import InferredLabels, LabelInference, from_counts
from fedpriv_attacks.labels.last_layer import (
    LastLayer,
    check_linear,
    dense_parts,
    feature_sums,
    predict,
    read_last_layer,
)
from fedpriv_attacks.parts.component import HELD

Count = Annotated[int, Field(ge=1)]
COUNTABLE = frozenset({Capability.REAL_UPDATE, Capability.NUM_EXAMPLES, Capability.SOFTMAX})
REPLAYED = COUNTABLE | {Capability.PROCEDURE}


def require_parts(inference: LabelInference, view: View, kernel: bool, bias: bool) -> None:
    """Raises CapabilityError naming what the model's last layer lacks, and the inferences that do without."""
    has_kernel, has_bias = (part is not None for part in dense_parts(view.model))
    if (has_kernel or not kernel) and (has_bias or not bias):
        return
    lacks = [name for name, there, asked in (("kernel", has_kernel, kernel), ("bias", has_bias, bias))
             if asked and not there]  # fmt: skip
    instead = {
        (True, False): "use labels=llg_star, labels=llg or labels=gradinversion, which read the kernel alone",
        (False, True): "use labels=bias, which reads the bias alone",
    }.get((has_kernel, has_bias), "use labels=joint, which optimizes the labels")
    raise CapabilityError(
        f"label inference '{inference.kind}' reads the {' and '.join(lacks)} of a dense last layer, which model "
        f"'{view.model.name}' lacks; {instead}"
    )


def rounded(values: np.ndarray, n: int, source: str, notes: tuple[str, ...]) -> InferredLabels:
    """InferredLabels from unrounded counts `[num_classes]`."""
    counts = nearest_counts(values, n)
    margin = float(np.clip(1 - 2 * np.abs(values - counts).max(), 0.0, 1.0))
    return from_counts(counts, source, values, margin, notes)


def dummies(kind: str, n: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Neutral examples `[n, *shape]`, float32: `zeros`, `ones`, or `random`, uniform in [0, 1)."""
    if kind == "random":
        return generator(seed, Purpose.ATTACK).random((n, *shape), np.float32)
    return np.full((n, *shape), 0.0 if kind == "zeros" else 1.0, np.float32)


class ColumnMinimum(LabelInference):
    """The n classes whose column of the last kernel's gradient has the lowest entries (GradInversion).

    Yin et al. 2021, "See through Gradients: Image Batch Recovery via GradInversion", arXiv 2104.07586. Assumes that
    no label repeats, so it cannot serve more examples than classes; a repeated label makes it claim an absent one.
    Also assumes non-negative features, as after ReLU or sigmoid. Needs no scale, hence no procedure.
    """

    kind: ClassVar[str] = "gradinversion"
    paper: ClassVar[str] = "Yin et al. 2021, arXiv 2104.07586"
    needs: ClassVar[frozenset[Capability]] = COUNTABLE

    def infer(self, view: View, seed: int) -> InferredLabels:
        """n distinct labels.

        Raises:
          CapabilityError: more examples than classes, an adaptive client optimizer, or no dense kernel.
        """
        n, classes = view.total_examples, view.model.num_classes
        if n > classes:
            raise CapabilityError(
                f"label inference 'gradinversion' takes every label to be different, but there are {n} examples of "
                f"{classes} classes; use labels=ilrg or labels=llg, which count repeated labels"
            )
        require_parts(self, view, kernel=True, bias=False)
        check_linear(view.procedure)
        layer = read_last_layer(view, scaled=False)
        assert layer.kernel is not None
        evidence = -layer.kernel.min(0)
        order = np.argsort(-evidence, kind="stable")
        counts = np.zeros(classes, np.int64)
        counts[order[:n]] = 1
        margin = None
        if n < classes and (span := float(np.ptp(evidence))) > 0:
            margin = float(evidence[order[n - 1]] - evidence[order[n]]) / span
        return from_counts(counts, "gradinversion, kernel", evidence, margin, ("takes every label to be different",))


class LLG(LabelInference):
    """Label leakage from gradients: negative columns first, then the lowest after subtracting a mean impact.

    Wainakh et al. 2022, "User-Level Label Leakage from Gradients in Federated Learning", arXiv 2105.09369. With g_c the
    last kernel's gradient summed over its features, one example's impact on its class is estimated from the update
    alone as m = (1 + 1/C)/n times the sum of the negative g_c. Assumes non-negative features. Needs no scale, hence
    no procedure, and reads FedAvg updates as it reads gradients.
    """

    kind: ClassVar[str] = "llg"
    paper: ClassVar[str] = "Wainakh et al. 2022, arXiv 2105.09369"
    needs: ClassVar[frozenset[Capability]] = COUNTABLE

    def infer(self, view: View, seed: int) -> InferredLabels:
        """n labels, repeated ones included.

        Raises:
          CapabilityError: an adaptive client optimizer, no dense kernel, or no negative column.
        """
        require_parts(self, view, kernel=True, bias=False)
        check_linear(view.procedure)
        sums = kernel_sums(read_last_layer(view, scaled=False))
        n, classes = view.total_examples, len(sums)
        impact = float(np.minimum(sums, 0).sum()) * (1 + 1 / classes) / n
        return from_counts(greedy_counts(sums, impact, 0.0, n), "llg, kernel", -sums)


class LLGStar(LabelInference):
    """LLG with impact and offsets simulated on dummy inputs (LLG*).

    Wainakh et al. 2022, arXiv 2105.09369. Dummies of every label are put through the broadcast model: the impact m is
    the mean gradient of their own column, times (1 + 1/C)/n, the offset s_c what examples of other labels add to
    column c. The paper draws new dummies for every label; since a dummy's features and predictions do not depend on
    the label it is given, one set serves them all here, and the means are taken in closed form.
    """

    kind: ClassVar[str] = "llg_star"
    paper: ClassVar[str] = "Wainakh et al. 2022, arXiv 2105.09369"
    needs: ClassVar[frozenset[Capability]] = REPLAYED

    inputs: Literal["random", "zeros", "ones"] = Field(
        default="random",
        description="dummy images: `random` (uniform pixels), `zeros` or `ones`.",
    )
    examples: Count = Field(default=100, description="how many dummies.")

    def infer(self, view: View, seed: int) -> InferredLabels:
        """n labels, repeated ones included.

        Raises:
          CapabilityError: no known scale, no dense kernel, or features whose sums are not positive.
        """
        require_parts(self, view, kernel=True, bias=False)
        layer, n, classes = read_last_layer(view), view.total_examples, view.model.num_classes
        x = dummies(self.inputs, self.examples if self.inputs == "random" else 1, view.model.input_shape, seed)
        sums, predictions = feature_sums(view, x), predict(view, layer, x)
        impact = float(np.mean(sums[:, None] * (predictions - 1))) * (1 + 1 / classes) / n
        offsets = np.mean(sums[:, None] * predictions, 0)
        observed = kernel_sums(layer)
        counts = greedy_counts(observed, impact, offsets, n)
        return from_counts(counts, f"llg_star, kernel, {self.inputs}", offsets - observed, None, layer.notes)


class LLGPlus(LabelInference):
    """LLG with impact and offsets measured on auxiliary data (LLG+).

    Wainakh et al. 2022, arXiv 2105.09369. As `llg_star`, but on public examples of each class with their labels.
    """

    kind: ClassVar[str] = "llg_plus"
    paper: ClassVar[str] = "Wainakh et al. 2022, arXiv 2105.09369"
    needs: ClassVar[frozenset[Capability]] = REPLAYED

    auxiliary: str = Field(
        default=HELD,
        description="`held` for the data that the adversary knows; a dataset's name or path brings it in, its training "
        "set.",
    )
    per_class: Count = Field(default=50, description="examples of each class taken.")

    def requirements(self) -> frozenset[Capability]:
        """Auxiliary data, if they are to be the adversary's."""
        return self.needs | needed(self.auxiliary)

    def brings(self) -> tuple[Knowledge, ...]:
        """The auxiliary data, unless they are the adversary's."""
        return brought(self.auxiliary)

    def infer(self, view: View, seed: int) -> InferredLabels:
        """n labels, repeated ones included.

        Raises:
          CapabilityError: no known scale, no dense kernel, or features whose sums are not positive.
          ParameterError: auxiliary data that do not fit the model.
        """
        require_parts(self, view, kernel=True, bias=False)
        layer, n, classes = read_last_layer(view), view.total_examples, view.model.num_classes
        source = chosen(self.auxiliary, view)
        x, y = source.load(view.model, self.per_class)
        sums, predictions = feature_sums(view, x), predict(view, layer, x)
        present = np.unique(y)
        added = np.stack([np.mean((sums[:, None] * predictions)[y == c], 0) for c in present])  # by class, to column
        own = [added[i, c] - sums[y == c].mean() for i, c in enumerate(present)]
        impact = float(np.mean(own)) * (1 + 1 / classes) / n
        others = np.array([[float(c != j) for c in present] for j in range(classes)])
        offsets = np.array([(others[j] @ added[:, j]) / max(others[j].sum(), 1.0) for j in range(classes)])
        observed = kernel_sums(layer)
        counts = greedy_counts(observed, impact, offsets, n)
        return from_counts(counts, f"llg_plus, kernel, {source.data}", offsets - observed, None, layer.notes)


class ILRG(LabelInference):
    """Instance-wise label restoration: class-wise features, their predictions, then linear equations for the counts.

    Ma et al. 2023, "Instance-wise Batch Label Restoration via Gradients in Federated Learning", ICLR (OpenReview
    FIrQfNSOoTr). A class's features are taken as its column of the last kernel's gradient over its entry of the bias's
    gradient; the model's prediction at them as that class's mean prediction; `solve_counts` then gives the counts.

    The quotient blows up for classes whose bias gradient is near zero, which is where the batch has as many examples
    as the model expects; the paper's method misses those. Here the quotient is drawn to the mean features of all
    classes with a negative bias gradient, the more the smaller the denominator (ridge regression of the column on
    the bias entry); `ridge=0` is the paper's. For updates of several steps, predictions are averaged over last layers
    on the way from the broadcast to the client's.
    """

    kind: ClassVar[str] = "ilrg"
    paper: ClassVar[str] = "Ma et al. 2023, ICLR, OpenReview FIrQfNSOoTr"
    needs: ClassVar[frozenset[Capability]] = REPLAYED

    ridge: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=1.0,
        description="weight of the mean features, relative to the bias gradient's root mean square.",
    )

    def infer(self, view: View, seed: int) -> InferredLabels:
        """n labels, repeated ones included.

        Raises:
          CapabilityError: no known scale, or no dense kernel and bias.
        """
        require_parts(self, view, kernel=True, bias=True)
        layer, n = read_last_layer(view), view.total_examples
        return rounded(self.counts(layer, n), n, "ilrg, kernel and bias", layer.notes)

    def counts(self, layer: LastLayer, n: int) -> np.ndarray:
        """Unrounded counts `[num_classes]`.

        Raises:
          CapabilityError: the bias did not move.
        """
        assert layer.bias is not None
        return solve_counts(layer.bias, layer.predictions(self.features(layer)), n)

    def misfit(self, layer: LastLayer, n: int) -> float:
        """How far the unrounded counts are from whole ones, relative to chance; see `label_counts.misfit`."""
        values = self.counts(layer, n)
        return misfit(values, nearest_counts(values, n))

    def spread(self, layer: LastLayer) -> float:
        """How much predictions differ among classes: their mean total variation distance from the average, [0, 1]."""
        p = layer.predictions(self.features(layer))
        return float(np.abs(p - p.mean(0)).sum(1).mean() / 2)

    def features(self, layer: LastLayer) -> np.ndarray:
        """Each class's features `[num_classes, f]`."""
        assert layer.kernel is not None
        assert layer.bias is not None
        mean, bias = mean_features(layer), layer.bias
        ridge = self.ridge**2 * np.mean(bias**2)
        # With ridge 0 an entry of exactly zero has no quotient; 1e-64 of the mean square makes it the mean.
        weight = ridge + 1e-64 * np.mean(bias**2)
        return ((bias * layer.kernel + weight * mean[:, None]) / (bias**2 + weight)).T


class Bias(LabelInference):
    """Counts from the last bias alone, whose gradient is the mean prediction minus the label frequencies.

    The counts are n times (mean prediction - bias gradient), rounded to the nearest whole numbers with sum n. The
    batch's mean prediction is not in the update and has to come from somewhere; an error of e in it is n e examples.
    """

    kind: ClassVar[str] = "bias"
    needs: ClassVar[frozenset[Capability]] = REPLAYED

    inputs: Literal["random", "zeros", "ones", "calibrated"] = Field(
        default="random",
        description="where the mean prediction comes from: `random` (uniform pixels), `zeros` or `ones` are put "
        "through the broadcast model, which serves models that have not learned yet; `calibrated` takes "
        "1/C for each class, which is what a trained model predicts on average if classes are equally "
        "frequent.",
    )
    examples: Count = Field(default=100, description="how many random inputs.")
    auxiliary: str | None = Field(
        default=None,
        description="`held` for the data that the adversary knows, or a dataset's name or path. Given any, `inputs` is "
        "not used: the labels are regressed on the gradient over its examples (`label_counts.regressed_counts`).",
    )
    per_class: Count = Field(default=100, description="auxiliary examples of each class taken.")

    def requirements(self) -> frozenset[Capability]:
        """Auxiliary data, if they are to be the adversary's."""
        return self.needs | needed(self.auxiliary)

    def brings(self) -> tuple[Knowledge, ...]:
        """The auxiliary data, unless they are the adversary's."""
        return brought(self.auxiliary)

    def infer(self, view: View, seed: int) -> InferredLabels:
        """n labels, repeated ones included.

        Raises:
          CapabilityError: no known scale, or no bias in a dense last layer.
          ParameterError: auxiliary data that do not fit the model.
        """
        require_parts(self, view, kernel=False, bias=True)
        layer, n, classes = read_last_layer(view), view.total_examples, view.model.num_classes
        assert layer.bias is not None
        if self.auxiliary is not None:
            source = chosen(self.auxiliary, view)
            x, y = source.load(view.model, self.per_class)
            values = regressed_counts(layer.bias, predict(view, layer, x), y, n)
            return rounded(values, n, f"bias, {source.data}", layer.notes)
        if self.inputs == "calibrated":
            mean = np.full(classes, 1 / classes)
        else:
            many = self.examples if self.inputs == "random" else 1
            mean = predict(view, layer, dummies(self.inputs, many, view.model.input_shape, seed)).mean(0)
        return rounded(n * (mean - layer.bias), n, f"bias, {self.inputs}", layer.notes)


def kernel_sums(layer: LastLayer) -> np.ndarray:
    """The last kernel's gradient summed over its features, `[num_classes]`."""
    assert layer.kernel is not None
    return layer.kernel.sum(0)


def mean_features(layer: LastLayer) -> np.ndarray:
    """`[f]`: the features of the classes with a negative bias gradient, weighted by it.

    Raises:
      CapabilityError: the bias did not move.
    """
    assert layer.kernel is not None
    assert layer.bias is not None
    negative = layer.bias < 0
    if not negative.any():
        raise CapabilityError(
            "the last layer's bias did not move in this update, so features cannot be told from it; use labels=llg or "
            "labels=gradinversion, which read the kernel alone"
        )
    return layer.kernel[:, negative].sum(1) / layer.bias[negative].sum()
