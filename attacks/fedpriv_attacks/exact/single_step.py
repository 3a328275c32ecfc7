"""Single step: refuses updates that are no plain gradient, for attacks that read a gradient's structure."""

from __future__ import annotations

from fedpriv.base.errors import CapabilityError
from fedpriv.threat.attack import Capability
from fedpriv.threat.view import View


def require_single_step(name: str, view: View) -> None:
    """Raises CapabilityError unless every client behind `view` made one local step.

    Other than the capability of that name it does not need the numbers of examples, where one step follows from the
    procedure alone.

    Args:
      name: the attack's.
      view: whose update it would read.
    """
    if Capability.SINGLE_STEP in view.capabilities:
        return
    p = view.procedure
    unknown = view.num_examples is None
    if p is not None and unknown and (p.max_local_steps == 1 or (p.local_epochs == 1 and p.batch_size is None)):
        return
    steps = "" if p is None or unknown else f" ({max(p.local_steps(n) for n in view.num_examples or ())} local steps)"
    raise CapabilityError(
        f"attack '{name}' needs {Capability.SINGLE_STEP.value}, which this view{steps} does not give: "
        f"{view.describe()} Use an attack that replays local training, such as 'dlg'"
    )
