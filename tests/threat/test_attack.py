"""What an attack's own run may raise becomes an answer where a user can do something about it."""

from typing import ClassVar

import pytest

from fedpriv.base.errors import CapabilityError
from fedpriv.threat.attack import Attack


class Differentiates(Attack):
    """Asks TensorFlow for a derivative that it does not have."""

    name: ClassVar[str] = "differentiates"

    missing: str = "LRNGrad"

    def attack(self, view, seed):
        raise LookupError(f"gradient registry has no entry for: {self.missing}" if self.missing else "something else")


def test_a_derivative_that_tensorflow_lacks_is_named(federate):
    from fedpriv.threat.adversary import Adversary
    from fedpriv.threat.tap import Tap

    view = federate().run(1, taps=[Tap(Adversary("server"))]).observations[0].view
    with pytest.raises(CapabilityError, match=r"differentiates model 'logistic.*' twice.*no gradient of LRNGrad"):
        Differentiates().run(view)
    with pytest.raises(LookupError, match="something else"):
        Differentiates(missing="").run(view)
