"""Extra: the libraries of encryption, imported at their first use, since not everybody installs them."""

from __future__ import annotations

import importlib
from typing import Any

from fedpriv.base.errors import FedprivError


def library(name: str, defense: str) -> Any:
    """The module of that name.

    Raises:
      FedprivError: it is not installed; says which extra brings it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise FedprivError(
            f"{defense} needs the package '{name}', which cannot be imported ({e}); install it with pip install "
            "'fedpriv[encryption]'"
        ) from e
