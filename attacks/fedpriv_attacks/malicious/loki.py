"""LOKI: bins for each client of a secure sum, by convolutions that lead clients' examples to channels of their own."""

from __future__ import annotations

import time
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedpriv.base.errors import CapabilityError, ModelError, ParameterError
from fedpriv.base.lazy import tf
from fedpriv.base.types import Tensor, Tensors
from fedpriv.models.model import Model
from fedpriv.threat.acts import Occasion
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.view import View
from fedpriv_attacks.inversion.matching import checked_update
from fedpriv_attacks.labels.last_layer import check_linear
from fedpriv_attacks.malicious.imprint import SETS, SPARSE_SETS, behind, binned, module_of, witnesses
from fedpriv_attacks.malicious.robbing import (
    ModuleAct,
    certify,
    distinct,
    noise_of,
    one_measurement,
    read_bins,
    rounding_of,
)

_PAPER = "Zhao, Sharma, Elkordy, Ezzeldin, Avestimehr, Bagchi 2023, arXiv 2303.12233"


class LokiAct(ModuleAct):
    """Puts a convolution and a module of bins before the model, and sends each client kernels of its own.

    Zhao, Sharma, Elkordy, Ezzeldin, Avestimehr, Bagchi 2023, "LOKI: Large-scale Data Reconstruction Attack against
    Federated Learning through Model Manipulation", IEEE S&P 2024, arXiv 2303.12233. The convolution's channels are
    sets, one a client. A client's kernels are the identity in its own set and zero in the others, so that its examples
    reach the rows of the dense layer that belong to its set, and no other client's do. A secure sum adds the clients'
    updates up, and still has each client's rows apart: the sum of n clients is read like n updates.

    The dense layer's units are bins as in `robbing_the_fed`, with two thresholds each (`sparse`) so that they hold over
    several local steps. `scale` is the paper's convolutional scaling factor, which keeps the kernels where they are
    while clients train.

    What differs from the paper: biases are shared by all clients, so in their place each set has one channel that is
    constant for its own client alone, and 0 else (a bias of the convolution). It is averaged over the image, and its
    row of the dense kernel says how much a bin weighs. Squares certify readings (`checks`), see `robbing_the_fed`.

    How it shows: the model has a convolution and two dense layers more than agreed, and the first dense kernel has as
    many rows as an example has values, times the clients. All but one set of kernels that a client gets are zero and
    that one is the identity; the dense kernel has rank 1. Clients who compare what they were sent see that it differs:
    a commitment to one broadcast for all ends it, whatever the weights.

    Attributes:
      sets: how many clients have channels of their own; at least as many as take part in a round.
      scale: of the identity kernels.
      bins: of each client: one of B examples of a client is alone with probability (1 - 1/bins)^(B-1), however many
        clients there are.
      measurement: `mean` of the example's values (brightness), or a `random` direction.
      quantiles: of the measurement: of auxiliary data where the adversary holds some (`held`), else of a `normal`
        distribution; or of a `uniform` one.
      mean: of the measurement; None is that of auxiliary data, else 0.45 for an image's brightness, and that of
        independent values with mean 0 for features.
      spread: standard deviation of the measurement; None is that of auxiliary data, else 0.2 for an image's brightness,
        and that of independent values with variance 1 for features.
      sparse: two thresholds a unit, so that bins hold over local steps.
      skip: whether the example is passed on beside the module.
      checks: how many squares certify a reading; 0 certifies none.
      change: how much the module changes the usual example's loss at most, to first order; None is 0.1 with `skip`,
        else 1.
      drift: how many bins a client's training moves the usual example's measurement; None is 0.5 for several local
        steps, so that bins stay where they are, and for one so many that rounding and quantizing leave them.
      rounds: rounds in which; None is every round.
      seed: of the directions; the same for all clients of a round, or their sum could not be read.
    """

    name: ClassVar[str] = "loki"
    paper: ClassVar[str] = _PAPER

    bins: Annotated[int, Field(ge=2)] = 128
    sparse: bool = True
    sets: Annotated[int, Field(ge=1)] = 16
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3.0

    def describe(self) -> str:
        """In words."""
        when = "" if self.rounds is None else f" in rounds {list(self.rounds)}"
        return (
            f"the model, which gets a convolution and {self.bins} bins in front, and their weights that it "
            f"sends{when}: to each of up to {self.sets} clients kernels that lead its examples to rows of its own"
        )

    def model(self, model: Model) -> Model:
        """`model` behind the convolution and the module.

        Raises:
          ModelError: it takes no images, or has such a module already.
        """
        if len(model.input_shape) != 3:
            raise ModelError(
                f"act '{self.name}' leads images to channels, but model '{model.name}' takes examples of shape "
                f"{tuple(model.input_shape)}; use 'robbing_the_fed'"
            )
        height, width, channels = model.input_shape
        inputs, sets, many = height * width * channels, self.sets, self.checks
        rows, seen, sparse = inputs + 1 + many, witnesses(inputs, many), self.sparse
        filters = sets * (channels + 1)

        def module(weights: Tensors, flat: Tensor) -> Tensor:
            *dense, kernels, shift = weights
            x = tf.reshape(flat, [-1, height, width, channels])
            led = tf.nn.conv2d(x, kernels, 1, "SAME") + shift
            led = tf.reshape(led, [-1, height, width, sets, channels + 1])
            images = tf.reshape(tf.transpose(led[..., :-1], [0, 3, 1, 2, 4]), [-1, sets, inputs])
            there = tf.reduce_mean(led[..., -1], [1, 2])[..., None]
            given = [images, there]
            if many:
                given.append(tf.square(tf.linalg.matmul(images, tf.constant(seen, flat.dtype))))
            return binned(dense, tf.reshape(tf.concat(given, 2), [-1, sets * rows]), sparse)

        own = {
            "kernel": (sets * rows, self.bins),
            "bias": (self.bins,),
            "back/kernel": (self.bins, inputs),
            "back/bias": (inputs,),
            "conv/kernel": (3, 3, channels, filters),
            "conv/bias": (filters,),
        }
        return behind(model, f"{self}+{model.name}", SPARSE_SETS if sparse else SETS, own, module, self.skip)

    def broadcast(self, weights: np.ndarray, occasion: Occasion) -> np.ndarray:
        """The weights `[d]` that this client gets.

        Raises:
          ParameterError: more clients than sets, or as `planted` does.
        """
        if self.rounds is not None and occasion.round not in self.rounds:
            return weights
        if len(occasion.cohort) > self.sets:
            raise ParameterError(
                f"act '{self.name}' has sets={self.sets}, but {len(occasion.cohort)} clients take part in round "
                f"{occasion.round}; give loki(sets={len(occasion.cohort)})"
            )
        mine = occasion.cohort.index(occasion.client) if occasion.cohort else occasion.client % self.sets
        parts = self.planted(weights, occasion, self.scale)
        model = occasion.model
        assert model is not None
        found = module_of(model)
        assert found is not None
        first, channels = found[1], model.input_shape[-1]
        inputs = int(np.prod(model.input_shape))
        kernel, rows = parts[first], inputs + 1 + self.checks
        for s in range(1, self.sets):
            kernel[s * rows : s * rows + inputs] = kernel[:inputs]
        kernels, shift = parts[first + 4], parts[first + 5]
        kernels[:], shift[:] = 0, 0
        for c in range(channels):
            kernels[1, 1, c, mine * (channels + 1) + c] = self.scale
        shift[mine * (channels + 1) + channels] = self.scale
        return occasion.spec.flatten_numpy(parts)


class Loki(Attack):
    """Reads each client's examples off the rows that act `loki` planted for it, out of a secure sum as well.

    Zhao, Sharma, Elkordy, Ezzeldin, Avestimehr, Bagchi 2023, arXiv 2303.12233; see the act `loki`, without which this
    attack is refused. Every claim is attributed to the client whose rows it was read from, and certified as one example
    as in `robbing_the_fed`.

    Noise of about a bin's gradient leaves nothing certified, and neither does one broadcast for all clients, which
    brings their examples to the same rows, where bins are shared by all of them.
    """

    name: ClassVar[str] = "loki"
    paper: ClassVar[str] = _PAPER
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.REAL_UPDATE})

    claims: Literal["certified", "all"] = Field(
        default="certified", description="which readings are claimed: those certified to be one example, or all."
    )
    tolerance: Annotated[float, Field(gt=0, le=0.1)] = Field(
        default=0.01, description="by how much a certified reading's squares may be off, as far as errors explain it."
    )

    def attack(self, view: View, seed: int) -> Finding:
        """Reads the rows of each set.

        Returns:
          A Finding with `x` `[n, *input_shape]` float32, not-a-number where nothing is claimed (as many rows as claims,
          if n is unknown). `extra` has `client` (by claim: which of those who were sent weights that round, from 0, in
          the order they were sent them), `condition` (`bins`, and `alone`: the share of examples expected alone),
          `filled`, `certified`, `mixed`, `unclear`, `expected_error` and `reason` as in `robbing_the_fed`.

        Raises:
          CapabilityError: the adversary has not done act `loki`, the module did not move, or the client's optimizer
            scales every weight on its own.
          DivergenceError: the update is not finite.
        """
        began = time.perf_counter()
        check_linear(view.procedure)
        checked_update(view)
        model, spec = view.model, view.model.spec
        acts = [a for a in view.adversary.acts if isinstance(a, LokiAct)]
        found = module_of(model)
        if not acts or found is None or found[0] not in (SETS, SPARSE_SETS):
            raise CapabilityError(
                f"attack '{self.name}' reads what act 'loki' planted, but this adversary has not done it: let it be "
                "server(acts=[loki])"
            )
        act, first = acts[0], found[1]
        if act.rounds is not None and view.round not in act.rounds:
            raise CapabilityError(
                f"act '{act}' planted nothing in round {view.round}; attack rounds {list(act.rounds)}, or leave out "
                "rounds"
            )
        update = [np.asarray(a, np.float64) for a in spec.unflatten_numpy(np.asarray(view.observed))]
        inputs = int(np.prod(model.input_shape))
        rows, scale, k = inputs + 1 + act.checks, act.scale, act.bins
        moved = update[first].reshape(act.sets, rows, k)
        if not np.any(moved):
            raise CapabilityError(
                f"the module '{spec.names[first]}' did not move in round {view.round}, so the update says nothing "
                "about examples; use an update from a client that trains it"
            )
        planted = spec.unflatten_numpy(np.asarray(view.weights))[first][:rows]
        if not one_measurement(planted[:inputs]):  # clients got different weights, so the view has those before
            occasion = Occasion(view.round, 0, spec, model, view.procedure, (0,), view.adversary.knowledge)
            planted = spec.unflatten_numpy(act.broadcast(np.asarray(view.weights), occasion))[first][:rows]
        n = None if view.num_examples is None else view.total_examples
        each = None if view.num_examples is None else max(view.num_examples)
        x, errors, client = [], [], []
        filled = certified = mixed = unclear = 0
        for s in range(act.sets):
            # A row of the kernel takes the bias's place; the layer saw `scale` times the example, and `scale` there.
            part = moved[s]
            bins = read_bins(
                np.delete(part, inputs, 0),
                part[inputs],
                np.delete(planted, inputs, 0),
                planted[inputs],
                act.sparse,
                rounding_of(view),
                noise_of(view),
                each,
            )
            readings = certify(bins, inputs, self.tolerance, scale)
            chosen = readings.certified if self.claims == "certified" else readings.order
            chosen = chosen[distinct(readings.x[chosen])]
            x += [readings.x[i] for i in chosen]
            errors += [float(readings.errors[i]) for i in chosen]
            client += [s] * len(chosen)
            filled += int(np.sum(bins.filled))
            certified += len(distinct(readings.x[readings.certified]))
            mixed += int(np.sum(bins.filled & readings.clear)) - len(readings.certified)
            unclear += int(np.sum(bins.filled & ~readings.clear))
        order = np.argsort(errors, kind="stable")[:n]
        claimed = np.full((len(order) if n is None else n, *model.input_shape), np.nan, np.float32)
        if len(order):
            both = np.stack([x[i] for i in order]).reshape(-1, *model.input_shape)
            claimed[: len(order)] = view.data_kind.settle(both)
        reason = ""
        if not certified:
            reason = f"none of {filled} filled bins is certified: {unclear} are too noisy to tell"
        return Finding(
            x=claimed,
            seconds=time.perf_counter() - began,
            measures={"certified": float(certified)},
            extra={
                "condition": {"bins": k, "alone": None if each is None else (1 - 1 / k) ** (each - 1)},
                "client": [client[i] for i in order],
                "filled": filled,
                "certified": certified,
                "mixed": mixed,
                "unclear": unclear,
                "expected_error": [errors[i] for i in order],
                "reason": reason,
            },
        )
