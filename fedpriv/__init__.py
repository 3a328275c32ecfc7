"""fedpriv: privacy attacks and defenses in federated learning, on TensorFlow.

What a study needs lies here, and is imported at its first use:

    from fedpriv import Federation, Procedure, Tap, load, load_model, make_attack, make_partition, run_trial

Importing fedpriv imports nothing else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedpriv.account.budget import Budget
    from fedpriv.account.ledger import Ledger
    from fedpriv.base.errors import FedprivError
    from fedpriv.data.arrays import from_arrays
    from fedpriv.data.dataset import Dataset
    from fedpriv.data.loading import load
    from fedpriv.data.partition import Partition
    from fedpriv.data.partitioners import make_partition
    from fedpriv.defense.stations import Defense
    from fedpriv.federation.federation import Federation
    from fedpriv.metrics.score import score, summarize
    from fedpriv.models.keras_model import from_keras
    from fedpriv.models.loading import load as load_model
    from fedpriv.models.model import Model
    from fedpriv.procedure.procedure import Procedure, Sampling, make_procedure
    from fedpriv.rounds.exposure import Exposure
    from fedpriv.rounds.trial import run_trial
    from fedpriv.threat.adversary import Adversary
    from fedpriv.threat.attack import Attack, Capability, Finding
    from fedpriv.threat.tap import Tap
    from fedpriv.threat.view import View

__version__ = "0.1.0"

#: Where each name is found: a module, or `module:name` where it is called otherwise there. None is also the name of a
#: subpackage: importing that would put the package in the name's place.
_DOOR = {
    "Adversary": "fedpriv.threat.adversary",
    "Attack": "fedpriv.threat.attack",
    "Budget": "fedpriv.account.budget",
    "Capability": "fedpriv.threat.attack",
    "Dataset": "fedpriv.data.dataset",
    "Defense": "fedpriv.defense.stations",
    "Exposure": "fedpriv.rounds.exposure",
    "Federation": "fedpriv.federation.federation",
    "FedprivError": "fedpriv.base.errors",
    "Finding": "fedpriv.threat.attack",
    "Ledger": "fedpriv.account.ledger",
    "Model": "fedpriv.models.model",
    "Partition": "fedpriv.data.partition",
    "Procedure": "fedpriv.procedure.procedure",
    "Sampling": "fedpriv.procedure.procedure",
    "Tap": "fedpriv.threat.tap",
    "View": "fedpriv.threat.view",
    "from_arrays": "fedpriv.data.arrays",
    "from_keras": "fedpriv.models.keras_model",
    "load": "fedpriv.data.loading",
    "load_model": "fedpriv.models.loading:load",
    "make_partition": "fedpriv.data.partitioners",
    "make_procedure": "fedpriv.procedure.procedure",
    "run_trial": "fedpriv.rounds.trial",
    "score": "fedpriv.metrics.score",
    "summarize": "fedpriv.metrics.score",
}


def make_attack(text: str, /, **parameters: Any) -> Attack:
    """An attack from `name`, `name(key=value,...)` as on a command line, `package.module:Name` or a YAML file.

    Raises:
      FedprivError: no such attack, parameter or value; names the nearest.
    """
    from fedpriv.base import registry

    return registry.attacks.create(text, **parameters)


def make_defense(text: str, /, **parameters: Any) -> Defense:
    """A defense, written as an attack is for `make_attack`.

    Raises:
      FedprivError: no such defense, parameter or value; names the nearest.
    """
    from fedpriv.base import registry

    return registry.defenses.create(text, **parameters)


__all__ = [
    "Adversary",
    "Attack",
    "Budget",
    "Capability",
    "Dataset",
    "Defense",
    "Exposure",
    "Federation",
    "FedprivError",
    "Finding",
    "Ledger",
    "Model",
    "Partition",
    "Procedure",
    "Sampling",
    "Tap",
    "View",
    "__version__",
    "from_arrays",
    "from_keras",
    "load",
    "load_model",
    "make_attack",
    "make_defense",
    "make_partition",
    "make_procedure",
    "run_trial",
    "score",
    "summarize",
]


def __getattr__(name: str) -> Any:
    if name not in _DOOR:
        raise AttributeError(f"module 'fedpriv' has no attribute '{name}'")
    module, _, own = _DOOR[name].partition(":")
    value = getattr(importlib.import_module(module), own or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_DOOR})
