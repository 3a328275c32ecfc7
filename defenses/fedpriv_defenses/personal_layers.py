"""PersonalLayers: layers that each client trains for itself and never sends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.lazy import tf
from fedpriv.base.types import Flat, Nested
from fedpriv.defense.domain import Domain, Real
from fedpriv.defense.passed import Passed
from fedpriv.defense.stations import Context, Defense, Plan
from fedpriv.defense.walker import without
from fedpriv.models.spec import Spec
from fedpriv_defenses.freeze import places_of, tensors_of


class PersonalLayers(Defense):
    """Clients share only part of the layers: the others they train, keep, and never send.

    Arivazhagan, Aggarwal, Singh, Choudhary 2019, "Federated Learning with Personalization Layers" (FedPer), arXiv
    1912.00818: the layers next to the output are each client's own and pass from one of its rounds to its next, all
    others are averaged. In its first round a client begins from what the server sends of them too. There they are made
    for data that differ by client; as a defense they keep from the server what those layers' gradients give away, such
    as the labels in a classifier's bias, and from its second round on the weights that the others were trained behind.

    What is sent of the shared layers is exact. In a client's first round the server knows all weights, and an attack
    that knows which layers are missing matches the rest: it replays this defense (`dlg`), or leaves out what is zero
    (`objective=masked`, `consistent`). In later rounds a replay begins from the server's weights, which are not the
    client's, and is off by that. Labels must be optimized along, or found by what is sent.

    The server's model has those layers as they were at first. So test accuracy, which is the server's model's, says
    nothing of the clients'; their training loss does. What is kept lies in the checkpoint. Formal guarantee: none for
    what is shared. Of the personal layers nothing is sent, whatever defense stands after; noise that a server adds to
    the sum moves its own of them. Put it before what changes an update, which else changes what the client keeps.

    Bytes are those of the shared layers. Behind a secure sum, which encodes every coordinate, they are those of all,
    and a compressor's message stays as long as it is. Log: `moved`, the norm of what a client's own layers have changed
    by in a round.
    """

    name: ClassVar[str] = "personal_layers"
    paper: ClassVar[str] = "Arivazhagan et al. 2019, arXiv 1912.00818"
    adaptive_attack: ClassVar[str] = "dlg"

    layers: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="names of layers or of single tensors that stay with the client, such as `dense` or `dense/bias`; "
        "a name stands for all below it."
    )

    def personal(self, spec: Spec) -> list[str]:
        """The tensors that stay with the client.

        Raises:
          ParameterError: the model has none of such a name, or none is left to share.
        """
        return tensors_of(self.layers, spec, self.name, "leave one to share")

    def withheld(self, spec: Spec) -> np.ndarray:
        """The personal ones."""
        return places_of(self.personal(spec), spec)

    def check(self, plan: Plan) -> None:
        """Raises ParameterError for layers that the model does not have."""
        self.personal(plan.spec)

    def notes(self, plan: Plan) -> Sequence[str]:
        """What accuracy is of."""
        return [
            f"personal_layers keeps {', '.join(self.personal(plan.spec))} with each client; test accuracy is that of "
            "the server's model, whose own of these nobody trains"
        ]

    def initial_client_state(self, plan: Plan) -> Nested:
        """(The personal layers' weights `[p]`, whether there are any yet)."""
        return np.zeros(int(self.withheld(plan.spec).sum()), plan.spec.dtype), np.zeros([], np.bool_)

    def begins(self, weights: Flat, own: Nested, plan: Plan) -> Flat:
        """The server's weights, with the client's own in their places from its second round on."""
        kept, there = own
        where = np.flatnonzero(self.withheld(plan.spec))[:, None]
        return tf.where(there, tf.tensor_scatter_nd_update(weights, where, kept), weights)

    def keeps_noise(self) -> bool:
        """Where anything is sent."""
        return True

    def maps(self, given: Domain, plan: Plan) -> Domain:
        """Leaving coordinates out lengthens nothing."""
        return given if isinstance(given, Real) else Real()

    def update(self, update: Flat, context: Context) -> Passed:
        """`[d]` to `[d]`, zeros in the personal layers; the client keeps what these are now."""
        places = self.withheld(context.plan.spec)
        where = tf.constant(np.flatnonzero(places))
        moved = tf.gather(update, where)
        own = tf.gather(context.weights, where) + moved
        bits = 8 * int(update.dtype.size) * int((~places).sum())
        return Passed(without(update, places), log={"moved": tf.norm(moved)}, state=(own, tf.constant(True)), bits=bits)

    def cells(self, sent: Flat, spec: Spec, examples: int | None = None) -> tuple[Flat, Flat]:
        """Nothing is known of the personal layers; all else is as it was."""
        gone = tf.constant(self.withheld(spec))
        none = tf.fill(tf.shape(sent), tf.cast(np.inf, sent.dtype))
        return tf.where(gone, -none, sent), tf.where(gone, none, sent)
