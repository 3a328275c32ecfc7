"""Robbing the Fed: a module that sorts examples into bins by a measurement, and what it shows of them."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedpriv.base.errors import CapabilityError, ParameterError
from fedpriv.defense.codec import Codec
from fedpriv.models.model import Model
from fedpriv.procedure.procedure import Procedure
from fedpriv.threat.acts import Act, Occasion
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.knowledge import Knowledge
from fedpriv.threat.view import View
from fedpriv_attacks.exact.dense_input import DenseNames, declared_noise, find_dense_input
from fedpriv_attacks.inversion.matching import checked_update
from fedpriv_attacks.labels.last_layer import check_linear
from fedpriv_attacks.malicious.imprint import (
    CUMULATIVE,
    SPARSE,
    Ladder,
    Measured,
    Quantiles,
    cap,
    in_front,
    ladder,
    local_passes,
    module_of,
    probes,
    sensitive,
    single_step,
    slopes,
    with_module,
    witnesses,
)

#: Ids of clients, or numbers of rounds.
Numbers = tuple[Annotated[int, Field(ge=0)], ...] | None

_PAPER = "Fowl, Geiping, Czaja, Goldblum, Goldstein 2022, arXiv 2110.13057"
#: How far a step moves an example's measurement, in bins, where bins need not stay: so far that what they hold is no
#: small part of the update, which rounding and quantizing leave.
_FAR = 1e6
#: The same where several steps follow each other.
_NEAR = 0.5
#: Standard error of rounding a weight, in units of its precision.
_ROUNDED = 0.25
#: Standard errors within which checks agree, in the mean of several.
_AGREE = 3.0
#: How far a pair's weights may be from those of one example, relative to them.
_WEIGHED = 2e-3
#: Root mean square difference below which two readings are one example.
_ALIKE = 0.01
#: By how much checks may be off in any case, relative to 1 plus themselves.
_EXACT = 1e-4


class ModuleAct(Act):
    """Base of acts that put a module of bins before the model."""

    changes: ClassVar[Literal["broadcast", "model", "procedure"]] = "model"

    bins: Annotated[int, Field(ge=2)] = 512
    measurement: Measured = "mean"
    quantiles: Quantiles = "held"
    mean: Annotated[float, Field(allow_inf_nan=False)] | None = None
    spread: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    sparse: bool = False
    skip: bool = True
    checks: Annotated[int, Field(ge=0, le=64)] = 8
    change: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    drift: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    rounds: Numbers = None
    seed: Annotated[int, Field(ge=0)] = 0

    def carried(self, weights: np.ndarray, before: Model, after: Model) -> np.ndarray:
        """Trained weights, with the module's in front."""
        return with_module(weights, before, after)

    def ladder(self, occasion: Occasion, inputs: int) -> Ladder:
        """The measurement and its thresholds, for examples of `inputs` values."""
        return ladder(
            f"act '{self.name}'",
            occasion,
            inputs,
            self.bins,
            self.measurement,
            self.quantiles,
            self.mean,
            self.spread,
            self.seed,
        )

    def planted(self, weights: np.ndarray, occasion: Occasion, scale: float = 1.0) -> list[np.ndarray]:
        """The model's tensors with the module's dense layers planted, those that see an example as if they saw `scale`
        times the example; rows of the first kernel beyond the example's values are 0.

        Raises:
          ParameterError: the occasion names no model, or one without this module, or nothing says where the
            measurement lies.
        """
        model = occasion.model
        found = None if model is None else module_of(model)
        if model is None or found is None:
            raise ParameterError(
                f"act '{self.name}': the occasion names no model that it has changed; give Occasion(..., model=act."
                "model(model)), or use the act 'imprint' for a model that begins with a dense ReLU layer"
            )
        first, spec = found[1], model.spec
        parts = [np.array(w) for w in spec.unflatten_numpy(np.asarray(weights, spec.dtype))]
        own = _module(self, model, spec.flatten_numpy(parts).tobytes(), occasion.procedure, occasion.knowledge, scale)
        for i, tensor in enumerate(own):
            parts[first + i][:] = 0
            parts[first + i][: len(tensor)] = tensor
        return parts


@functools.lru_cache(maxsize=2)
def _module(
    act: ModuleAct,
    model: Model,
    weights: bytes,
    procedure: Procedure | None,
    knowledge: frozenset[Knowledge],
    scale: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The planted module's kernel `[inputs, bins]`, bias, second kernel and second bias; the same for all clients."""
    occasion = Occasion(0, 0, model.spec, model, procedure, (), knowledge)
    parts = [np.array(w) for w in model.spec.unflatten_numpy(np.frombuffer(weights, model.spec.dtype))]
    found = module_of(model)
    assert found is not None
    first = found[1]
    x, y = probes(occasion, model, act.seed)
    usual = scale * float(np.sqrt(np.mean(np.sum(np.square(x.reshape(len(x), -1), dtype=np.float64), 1))))
    for i in range(4):
        parts[first + i][:] = 0
    if not act.skip:
        parts[first + 3][:] = x.mean(0).reshape(-1)
    slope = slopes(model, parts, f"{found[0]}/back/bias", x, y)
    # Half of them give the direction, the others tell how much it matters.
    towards = sensitive(slope[::2], act.seed)
    felt = max(float(np.median(np.abs(slope[1::2] @ towards))), 1e-12)
    once = procedure is not None and single_step(procedure)
    drift = act.drift or (_FAR if once else _NEAR)
    kernel, bias, back, shift = planted_module(
        act.ladder(occasion, x[0].size), act, towards, felt, usual, local_passes(procedure), drift
    )
    return kernel / scale, bias, back, shift


class RobbingTheFedAct(ModuleAct):
    """Puts a module before the model that sorts examples into bins, and plants its weights in each round.

    Fowl, Geiping, Czaja, Goldblum, Goldstein 2022, "Robbing the Fed: Directly Obtaining Private Data in Federated
    Learning with Modified Models", ICLR, arXiv 2110.13057. The units of a dense ReLU layer all take the same
    measurement of the example, less thresholds at quantiles of its distribution. An example's gradient reaches the
    units whose threshold it exceeds, equally, since all of them lead to the rest of the model by the same weights. The
    difference of two neighbours' gradients holds the examples in the bin between, and of one alone it is the example.
    A second dense layer gives back the example's shape.

    With `sparse` each unit has two thresholds and is moved by the examples of one bin only, so that several local steps
    leave the other bins where they were: the paper's variant for FedAvg.

    What differs from the paper: the example itself is passed on beside the module (`skip`), so that the model behind it
    trains as before; and the first layer sees `checks` squares of fixed directions of the example besides, by which
    the attack certifies a reading: those of a mixture of examples are not the squares of the mixture.

    How it shows: the model has two dense layers more than agreed, of twice the example's size times the bins. All
    columns of the first kernel are multiples of each other (rank 1; an honest one has full rank), so are all rows of
    the second, and biases rise like a ladder. A client sees it by the kernel's rank, by cosines of 1 between columns,
    or by comparing the broadcast with the last one: the module's weights jump each round to where no update led. The
    update is many times as long as an honest one, and nearly all of it lies in the first kernel.

    Attributes:
      bins: k. Alone in its bin is one of B examples with probability (1 - 1/k)^(B-1).
      measurement: `mean` of the example's values (brightness), or a `random` direction.
      quantiles: of the measurement: of auxiliary data where the adversary holds some (`held`), else of a `normal`
        distribution; or of a `uniform` one.
      mean: of the measurement; None is that of auxiliary data, else 0.45 for an image's brightness, and that of
        independent values with mean 0 for features.
      spread: standard deviation of the measurement; None is that of auxiliary data, else 0.2 for an image's brightness,
        and that of independent values with variance 1 for features.
      sparse: two thresholds a unit.
      skip: whether the example is passed on beside the module.
      checks: how many squares certify a reading; 0 certifies none.
      change: how much the module changes the usual example's loss at most, to first order; None is 0.1 with `skip`,
        else 1.
      drift: how many bins a client's training moves the usual example's measurement; None is 0.5 for several local
        steps, so that bins stay where they are, and for one so many that rounding and quantizing leave them.
      clients: ids of those who are sent the planted weights; None is everybody. All have the module.
      rounds: rounds in which; None is every round.
      seed: of the directions; the same for all clients of a round, or their sum could not be read.
    """

    name: ClassVar[str] = "robbing_the_fed"
    paper: ClassVar[str] = _PAPER

    clients: Numbers = None

    def describe(self) -> str:
        """In words."""
        who = "every client" if self.clients is None else f"clients {list(self.clients)}"
        when = "" if self.rounds is None else f" in rounds {list(self.rounds)}"
        return (
            f"the model, which gets a module of {self.bins} bins in front, and the module's weights that it sends to "
            f"{who}{when} (units that sort examples by one measurement)"
        )

    def model(self, model: Model) -> Model:
        """`model` behind the module.

        Raises:
          ModelError: it takes tokens, or has such a module already.
        """
        return in_front(model, self.bins, self.checks, self.sparse, self.skip, f"{self}+{model.name}")

    def broadcast(self, weights: np.ndarray, occasion: Occasion) -> np.ndarray:
        """The weights `[d]` with the module's planted, for whom they are meant; errors as `planted`'s."""
        if self.clients is not None and occasion.client not in self.clients:
            return weights
        if self.rounds is not None and occasion.round not in self.rounds:
            return weights
        return occasion.spec.flatten_numpy(self.planted(weights, occasion))


def planted_module(
    rungs: Ladder,
    act: ModuleAct,
    towards: np.ndarray,
    felt: float,
    usual: float,
    passes: float,
    drift: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The module's kernel `[inputs, bins]`, bias, second kernel and second bias.

    Args:
      rungs: measurement and thresholds.
      act: bins and change.
      towards: `[inputs]` of length 1, along which all units change the example.
      felt: by how much the usual loss changes with a step of 1 there.
      usual: an example's length.
      passes: see `local_passes`.
      drift: how many bins it shall move.
    """
    k, low = act.bins, rungs.thresholds[:-1]
    moved = passes * (usual**2 + 1)  # a pre-activation, where the loss has a slope of 1 in it
    middle = 0.5 * (rungs.thresholds[k // 2 - 1] + rungs.thresholds[k // 2 + 1])
    change = act.change or (0.1 if act.skip else 1.0)
    if act.sparse:
        top = cap(k)
        scale = top / np.diff(rungs.thresholds)
        strength = min(drift * top / moved, change / (top * k)) / felt
        offset = strength * top * k / 2
    else:
        # The usual unit is above its threshold by a standard deviation, which the scale makes `gain`.
        # A second step must not grow on the first one's change of the second kernel.
        gain = float(np.sqrt(min(change * moved / (2.5 * drift), 0.1 / (k * passes))))
        scale = np.full(k, gain / rungs.spread)
        strength = change / (k * gain * felt)
        offset = strength * float(np.sum(scale * np.maximum(middle - low, 0)))
    kernel = rungs.direction[:, None] * scale
    back = np.tile(strength * towards, (k, 1))
    return kernel, -low * scale, back, -offset * towards


@dataclass(frozen=True, eq=False)
class Bins:
    """What an update says of each bin.

    Attributes:
      sums: `[bins, inputs + checks]`, examples (and their squares) times their weights.
      weights: `[bins]`, the sums of these weights.
      errors: `[bins]`, size of the error of an entry of `sums` or `weights`.
      filled: bool `[bins]`.
    """

    sums: np.ndarray
    weights: np.ndarray
    errors: np.ndarray
    filled: np.ndarray


def read_bins(
    kernel: np.ndarray,
    bias: np.ndarray,
    planted: np.ndarray,
    offset: np.ndarray,
    sparse: bool,
    epsilon: float,
    noise: float,
    most: int | None,
) -> Bins:
    """The bins of an update.

    Args:
      kernel, bias: updates `[rows, bins]` and `[bins]`.
      planted, offset: the weights that these moved, in the same shapes.
      sparse: whether each unit is a bin; else it holds all bins from its own on.
      epsilon: relative standard error of a weight.
      noise: standard deviation of an entry, declared by the clients' defenses.
      most: examples behind the update, or None.
    """
    sizes = np.sqrt(np.mean(np.square(kernel), 0)) + np.sqrt(np.mean(np.square(planted), 0))
    sizes += np.abs(bias) / np.sqrt(len(kernel)) + np.abs(offset) / np.sqrt(len(kernel))
    errors = np.hypot(epsilon * sizes, noise)
    if not sparse:
        beyond = np.append(errors[1:], 0.0)
        kernel = kernel - np.append(kernel[:, 1:], np.zeros((len(kernel), 1)), 1)
        bias = bias - np.append(bias[1:], 0.0)
        errors = np.hypot(errors, beyond)
    sums = kernel.T
    if most is not None and 2 * most <= len(bias):  # most bins are empty, and show what noise there is
        empty = np.sqrt(np.mean(np.square(sums), 1))
        errors = np.maximum(errors, float(np.median(empty)))
    length = np.sqrt(np.mean(np.square(sums), 1))
    return Bins(sums, bias, errors, (length > 3 * errors) | (np.abs(bias) > 6 * errors))


class ImprintAct(Act):
    """Sends weights that turn the model's own first dense ReLU layer into bins; the model stays as agreed.

    Fowl, Geiping, Czaja, Goldblum, Goldstein 2022, arXiv 2110.13057, for models that begin with two dense layers, such
    as '2nn'. Of u units, u // 2 bins are made: units go in pairs of one threshold, which lead to the next layer by two
    different rows, so that a bin is weighed twice. Of one example both weighings give the same ratio.

    How it shows: shapes are as agreed. The first kernel has rank 1 and its columns come in equal pairs, the second has
    rank 2, and biases rise like a ladder: the kernel's rank, or cosines between columns, tell a client that looks. The
    rest of the model sees the measurement alone, so that the loss of the broadcast is about that of guessing: a client
    that evaluates what it gets before it trains sees it at once in a model that was better in the round before.

    Attributes:
      measurement: `mean` of the example's values (brightness), or a `random` direction.
      quantiles: of the measurement: of auxiliary data where the adversary holds some (`held`), else of a `normal`
        distribution; or of a `uniform` one.
      mean: of the measurement; None is that of auxiliary data, else 0.45 for an image's brightness, and that of
        independent values with mean 0 for features.
      spread: standard deviation of the measurement; None is that of auxiliary data, else 0.2 for an image's brightness,
        and that of independent values with variance 1 for features.
      drift: how many bins a client's training moves the usual example's measurement; None is 0.5 for several local
        steps, so that bins stay where they are, and for one so many that rounding and quantizing leave them.
      clients: ids of those who are sent the planted weights; None is everybody.
      rounds: rounds in which; None is every round.
      seed: of the directions; the same for all clients of a round, or their sum could not be read.
    """

    name: ClassVar[str] = "imprint"
    paper: ClassVar[str] = _PAPER

    measurement: Measured = "mean"
    quantiles: Quantiles = "held"
    mean: Annotated[float, Field(allow_inf_nan=False)] | None = None
    spread: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    drift: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    clients: Numbers = None
    rounds: Numbers = None
    seed: Annotated[int, Field(ge=0)] = 0

    def describe(self) -> str:
        """In words."""
        who = "every client" if self.clients is None else f"clients {list(self.clients)}"
        when = "" if self.rounds is None else f" in rounds {list(self.rounds)}"
        return f"the weights it sends to {who}{when} (a first layer whose units sort examples by one measurement)"

    def broadcast(self, weights: np.ndarray, occasion: Occasion) -> np.ndarray:
        """The planted weights `[d]`, for whom they are meant.

        Raises:
          CapabilityError: the model does not begin with a dense ReLU layer with a bias and another dense layer.
          ParameterError: the occasion names no model, or nothing says where the measurement lies.
        """
        if self.clients is not None and occasion.client not in self.clients:
            return weights
        if self.rounds is not None and occasion.round not in self.rounds:
            return weights
        if occasion.model is None:
            raise ParameterError(f"act '{self.name}': the occasion names no model; give Occasion(..., model=model)")
        flat = np.ascontiguousarray(weights, occasion.spec.dtype).tobytes()
        return _planted_layer(self, occasion.model, flat, occasion.procedure, occasion.knowledge).copy()


@functools.lru_cache(maxsize=2)
def _planted_layer(
    act: ImprintAct, model: Model, weights: bytes, procedure: Procedure | None, knowledge: frozenset[Knowledge]
) -> np.ndarray:
    occasion, spec = Occasion(0, 0, model.spec, model, procedure, (), knowledge), model.spec
    names, following = layers_of(model, f"act '{act.name}'")
    parts = [np.array(w) for w in spec.unflatten_numpy(np.frombuffer(weights, spec.dtype))]
    first, bias = spec.names.index(names.kernel), spec.names.index(names.bias or "")
    inputs, units = spec.shapes[first]
    k = units // 2
    rungs = ladder(
        f"act '{act.name}'", occasion, inputs, k, act.measurement, act.quantiles, act.mean, act.spread, act.seed
    )
    x, _ = probes(occasion, model, act.seed)
    usual = float(np.mean(np.sum(np.square(x.reshape(len(x), -1), dtype=np.float64), 1)))
    once = procedure is not None and single_step(procedure)
    drift = act.drift or (_FAR if once else _NEAR)
    gain = float(np.sqrt(0.1 * local_passes(procedure) * (usual + 1) / (2.5 * drift)))
    low = np.repeat(rungs.thresholds[:-1], 2)
    parts[first][:], parts[bias][:] = 0, -gain  # an odd unit fires for nobody
    parts[first][:, : 2 * k] = rungs.direction[:, None] * gain / (rungs.spread * names.input_scale)
    parts[bias][: 2 * k] = -low * gain / rungs.spread
    rows = np.random.default_rng(act.seed).normal(size=(2, spec.shapes[following][1])) / (gain * k)
    parts[following][: 2 * k] = np.tile(rows, (k, 1))
    middle = float(np.sum(np.maximum(rungs.thresholds[k // 2] - rungs.thresholds[:-1], 0))) * gain / rungs.spread
    if spec.shapes[following + 1] == spec.shapes[following][1:]:
        parts[following + 1][:] = -middle * rows.sum(0)
    return spec.flatten_numpy(parts)


def layers_of(model: Model, who: str) -> tuple[DenseNames, int]:
    """The first dense ReLU layer of a model, and the index of the next dense kernel.

    Raises:
      CapabilityError: it does not begin with these.
    """
    names = find_dense_input(model)
    spec = model.spec
    if names.bias is None or not names.rectified:
        raise CapabilityError(
            f"{who} makes bins of a first dense layer's ReLU units by their biases, but '{names.kernel}' of model "
            f"'{model.name}' has no bias or no ReLU; use the act 'robbing_the_fed', which brings a layer of its own"
        )
    first = spec.names.index(names.kernel)
    units = spec.shapes[first][1]
    for i in range(first + 1, len(spec.shapes) - 1):
        if len(spec.shapes[i]) == 2 and spec.shapes[i][0] == units:
            return names, i
    raise CapabilityError(
        f"{who} needs a second dense layer after '{names.kernel}', which model '{model.name}' does not have; use the "
        "act 'robbing_the_fed'"
    )


def read_pairs(view: View) -> tuple[Bins, Bins] | None:
    """Both weighings of the bins that act `imprint` made of a model's first layer; None without an imprint."""
    model, spec = view.model, view.model.spec
    try:
        names, _ = layers_of(model, "attack 'robbing_the_fed'")
    except CapabilityError:
        return None
    first, bias = spec.names.index(names.kernel), spec.names.index(names.bias or "")
    update, weights = (
        [np.asarray(a, np.float64) for a in spec.unflatten_numpy(np.asarray(flat))]
        for flat in (view.observed, view.weights)
    )
    k = spec.shapes[first][1] // 2
    kernel, offset = weights[first][:, : 2 * k], weights[bias][: 2 * k]
    if k < 2 or not np.array_equal(offset[::2], offset[1::2]) or not one_measurement(kernel):
        return None
    n = None if view.num_examples is None else view.total_examples
    noise, rounding = noise_of(view), rounding_of(view)
    moved, shifted = update[first][:, : 2 * k] / names.input_scale, update[bias][: 2 * k]
    found = [
        read_bins(moved[:, i::2], shifted[i::2], kernel[:, i::2], offset[i::2], False, rounding, noise, n)
        for i in range(2)
    ]
    return found[0], found[1]


def certify_pairs(view: View, one: Bins, two: Bins, tolerance: float) -> tuple[Readings, str]:
    """Readings of bins that are weighed twice, and why none could be certified where that is so.

    A single example has the same ratio in both weighings, and its weights are those that the replayed client gives it
    with one of the labels. Without replay of one step nothing is certified: examples of one linear region of the
    network could be weighed alike.
    """
    there = (one.weights != 0) & (two.weights != 0)
    louder = np.where((np.abs(one.weights) >= np.abs(two.weights))[:, None], one.sums, two.sums)
    weight = np.where(np.abs(one.weights) >= np.abs(two.weights), one.weights, two.weights)
    x = louder / np.where(weight != 0, weight, 1.0)[:, None]
    size = np.sqrt(1 + np.mean(np.square(x), 1))
    errors = np.where(weight != 0, one.errors / np.maximum(np.abs(weight), 1e-300), 1e6) * size
    quiet = np.where(there, np.minimum(np.abs(one.weights), np.abs(two.weights)), 1e-300)
    doubt = np.maximum(one.errors, two.errors) / quiet * size
    apart = np.sqrt(np.mean(np.square(one.sums / _nonzero(one.weights) - two.sums / _nonzero(two.weights)), 1))
    filled = one.filled & two.filled & there
    clear = filled & (_AGREE * doubt <= tolerance)
    single = clear & (apart <= np.maximum(_AGREE * doubt, _EXACT))
    reason = ""
    needed = {Capability.SINGLE_STEP, Capability.NUM_EXAMPLES, Capability.SOFTMAX}
    if not needed <= view.capabilities or not view.client_rate or view.model.couples_examples:
        single[:] = False
        reason = "one local step at a known rate of a softmax classifier has to be replayed to certify a reading"
    elif view.model.num_classes < 3:
        single[:] = False
        reason = "with two classes all examples of a linear region are weighed alike, so nothing certifies a reading"
    elif single.any():
        which = np.flatnonzero(single)
        single[which] = _weighed_as_one(view, x[which], one.weights[which], two.weights[which], which)
    order = np.argsort(errors, kind="stable")
    certified = order[single[order]]
    rest = order[((one.filled | two.filled) & ~single)[order]]
    return Readings(x, errors, clear, certified, np.append(certified, rest)), reason


def _nonzero(weights: np.ndarray) -> np.ndarray:
    return np.where(weights != 0, weights, 1.0)[:, None]


def _weighed_as_one(view: View, x: np.ndarray, one: np.ndarray, two: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """Which examples `[m, inputs]` have the weights, in both weighings, of one example with some label; bool `[m]`."""
    model, classes = view.model, view.model.num_classes
    names, _ = layers_of(model, "")
    parts = model.spec.unflatten_numpy(np.asarray(view.weights, model.spec.dtype))
    many = np.repeat(x, classes, 0).reshape(-1, *model.input_shape)
    y = np.tile(np.arange(classes), len(x)).astype(model.task.target_dtype)
    slope = slopes(model, parts, names.bias or "", many, y).reshape(len(x), classes, -1)
    at = np.arange(len(x))
    # A bin's own pair is at the kink; the next lower one is surely on.
    lower = np.maximum(bins - 1, 0)
    expected = (
        -float(view.client_rate or 0)
        / view.total_examples
        * np.stack([slope[at, :, 2 * lower], slope[at, :, 2 * lower + 1]], -1)
    )
    seen = np.stack([one, two], -1)[:, None]
    off = np.linalg.norm(expected - seen, axis=-1) / np.linalg.norm(seen, axis=-1)
    return np.asarray(off.min(1) < _WEIGHED)


class RobbingTheFed(Attack):
    """Reads examples off the bins that acts `robbing_the_fed` or `imprint` planted.

    Fowl, Geiping, Czaja, Goldblum, Goldstein 2022, arXiv 2110.13057; see the acts for the weights, without which this
    attack is refused. Update, sum of clients' updates and batch are the same to it.

    With k bins of equal mass and n examples, one is alone in its bin with probability (1 - 1/k)^(n-1), which
    `extra["condition"]` says in advance. A bin's reading is certified as one example by the squares that the module
    sees beside it (see the act's `checks`): for two examples with weights w and 1 - w they are off by w (1 - w) times
    the square of their difference. What is not certified is claimed only if `claims` is `all`.

    Noise of about a bin's gradient leaves nothing certified. Behind optimizers that scale each weight the attack is
    refused. Several local steps move cumulative bins (see the act's `sparse`).
    """

    name: ClassVar[str] = "robbing_the_fed"
    paper: ClassVar[str] = _PAPER
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.REAL_UPDATE})

    claims: Literal["certified", "all"] = Field(
        default="certified", description="which readings are claimed: those certified to be one example, or all."
    )
    tolerance: Annotated[float, Field(gt=0, le=0.1)] = Field(
        default=0.01, description="by how much a certified reading's squares may be off, as far as errors explain it."
    )

    def attack(self, view: View, seed: int) -> Finding:
        """Reads the bins.

        Returns:
          A Finding with `x` `[n, *input_shape]` float32, not-a-number where nothing is claimed; as many rows as
          claims, if n is unknown. `extra` has `condition` (`bins`, `alone`: the share of examples expected alone),
          `filled` (bins that are not empty), `certified`, `mixed` (filled bins of several examples), `unclear` (filled
          ones whose errors are too large to tell), `expected_error` (by claim) and `reason` (why nothing is certified,
          else "").

        Raises:
          CapabilityError: the weights carry no imprint, the module did not move, or the client's optimizer scales every
            weight on its own.
          DivergenceError: the update is not finite.
        """
        began = time.perf_counter()
        check_linear(view.procedure)
        checked_update(view)
        found = module_of(view.model)
        if found is None or found[0] not in (CUMULATIVE, SPARSE):
            return self._of_planted_layer(view, began)
        prefix, first = found
        spec = view.model.spec
        update, weights = (
            [np.asarray(a, np.float64) for a in spec.unflatten_numpy(np.asarray(flat))]
            for flat in (view.observed, view.weights)
        )
        inputs = int(np.prod(view.model.input_shape))
        planted, offset = weights[first], weights[first + 1]
        if not one_measurement(planted[:inputs]):
            raise CapabilityError(
                f"attack '{self.name}' reads the bins of an imprint, but the weights of round {view.round} carry none: "
                "all clients behind the update must get it; plant it for everybody, in every round that is attacked"
            )
        if not np.any(update[first]):
            raise CapabilityError(
                f"the imprint '{spec.names[first]}' did not move in round {view.round}, so the update says nothing "
                "about examples; use an update from a client that trains it"
            )
        n = None if view.num_examples is None else view.total_examples
        bins = read_bins(
            update[first],
            update[first + 1],
            planted,
            offset,
            prefix == SPARSE,
            rounding_of(view),
            noise_of(view),
            n,
        )
        readings = certify(bins, inputs, self.tolerance)
        reason = "" if planted.shape[0] > inputs else "the module has no checks that could certify a reading"
        return self._finding(view, bins, readings, n, reason, began)

    def _of_planted_layer(self, view: View, began: float) -> Finding:
        """Of a model's own first layer, which act `imprint` planted."""
        pairs = read_pairs(view)
        if pairs is None:
            raise CapabilityError(
                f"attack '{self.name}' reads the bins of an imprint, but model '{view.model.name}' of round "
                f"{view.round} has none: let the adversary be server(acts=[robbing_the_fed]), or "
                "server(acts=[imprint]) where the model begins with a dense ReLU layer; all clients behind the update "
                "must get it"
            )
        n = None if view.num_examples is None else view.total_examples
        readings, reason = certify_pairs(view, *pairs, self.tolerance)
        return self._finding(view, pairs[0], readings, n, reason, began)

    def _finding(self, view: View, bins: Bins, readings: Readings, n: int | None, reason: str, began: float) -> Finding:
        rows = readings.certified if self.claims == "certified" else readings.order
        rows = rows[distinct(readings.x[rows])]
        x = np.full((len(rows) if n is None else n, *view.model.input_shape), np.nan, np.float32)
        chosen = rows[: len(x)]
        if len(chosen):
            claimed = readings.x[chosen].reshape(-1, *view.model.input_shape)
            x[: len(chosen)] = view.data_kind.settle(claimed)
        k, filled = len(bins.weights), int(np.sum(bins.filled))
        certified = len(distinct(readings.x[readings.certified]))
        unclear = int(np.sum(bins.filled & ~readings.clear))
        if not certified and not reason and not filled:
            reason = "no bin stands out of the noise"
        elif not certified and not reason:
            reason = (
                f"none of {filled} filled bins is certified: {unclear} are too noisy to tell, {filled - unclear} hold "
                "several examples"
            )
        elif certified:
            reason = ""
        return Finding(
            x=x,
            seconds=time.perf_counter() - began,
            measures={"certified": float(certified)},
            extra={
                "condition": {"bins": k, "alone": None if n is None else (1 - 1 / k) ** (n - 1)},
                "filled": filled,
                "certified": certified,
                "mixed": filled - len(readings.certified) - unclear,
                "unclear": unclear,
                "expected_error": [float(readings.errors[i]) for i in chosen],
                "reason": reason,
            },
        )


def rounding_of(view: View) -> float:
    """Relative standard error of a weight from rounding it after each local step; a guess where these are unknown."""
    steps = 16
    if view.procedure is not None and view.num_examples is not None:
        steps = max(view.procedure.local_steps(n) for n in view.num_examples)
    return float(_ROUNDED * np.finfo(view.model.spec.dtype).eps * np.sqrt(1 + steps))


def noise_of(view: View) -> float:
    """Standard deviation of an entry of what was observed, from declared noise of known defenses and from encoding."""
    links = [link for defense in view.defenses for link in defense.parts()]
    coded = [link.l2_error(view.plan) for link in links if isinstance(link, Codec)]
    step = sum(coded) / np.sqrt(view.update_size)  # at most, of one client
    return float(np.hypot(declared_noise(view), step / np.sqrt(3 * (view.clients or 1))))


def one_measurement(kernel: np.ndarray) -> bool:
    """Whether all columns `[inputs, bins]` are positive multiples of each other."""
    lengths = np.linalg.norm(kernel, axis=0)
    if not lengths.all():
        return False
    units = kernel / lengths
    return bool(np.max(np.abs(units - units[:, :1])) < 1e-5 * np.max(np.abs(units[:, 0])))


def distinct(x: np.ndarray) -> np.ndarray:
    """Numbers of the rows of `x` `[m, inputs]` that no earlier one is like: what moved to a next bin is read twice."""
    kept: list[int] = []
    for i, row in enumerate(x):
        if not kept or np.min(np.mean(np.square(x[kept] - row), 1)) > _ALIKE**2:
            kept.append(i)
    return np.array(kept, int)


@dataclass(frozen=True, eq=False)
class Readings:
    """What bins hold.

    Attributes:
      x: `[bins, inputs]`, each bin's weighted mean.
      errors: `[bins]`, standard error of one of its values.
      clear: bool `[bins]`, filled ones that can be told to hold one example or several.
      certified: numbers of bins that hold one example, the surest first.
      order: numbers of all filled bins, the certified ones first.
    """

    x: np.ndarray
    errors: np.ndarray
    clear: np.ndarray
    certified: np.ndarray
    order: np.ndarray


def certify(bins: Bins, inputs: int, tolerance: float, factor: float = 1.0) -> Readings:
    """Readings of bins, and which of them are single examples.

    Args:
      bins: as read.
      inputs: values of an example; what follows in `Bins.sums` are its checks.
      tolerance: see `RobbingTheFed`.
      factor: of the squares.
    """
    there = bins.weights != 0
    safe = np.where(there, bins.weights, 1.0)
    means = bins.sums / safe[:, None]
    x, squares = means[:, :inputs], means[:, inputs:]
    checks = squares.shape[1]
    unit = np.where(there, bins.errors / np.abs(safe), 1e6)
    errors = unit * np.sqrt(1 + np.mean(np.square(x), 1))
    if checks:
        seen = x @ witnesses(inputs, checks)
        off = np.sqrt(np.mean(np.square(squares - factor * np.square(seen)), 1))
        own, through = unit[:, None] * (1 + np.abs(squares)), 2 * factor * seen * errors[:, None]
        doubt = np.sqrt(np.mean(np.square(own) + np.square(through), 1))
        scale = 1 + np.mean(np.abs(squares), 1)
        clear = bins.filled & (_AGREE * doubt <= tolerance * scale)
        single = clear & (off <= np.maximum(_AGREE * doubt, _EXACT * scale))
    else:
        clear = single = np.zeros(len(x), bool)
    by_error = np.argsort(errors, kind="stable")
    certified = by_error[single[by_error]]
    return Readings(x, errors, clear, certified, np.append(certified, by_error[(bins.filled & ~single)[by_error]]))
