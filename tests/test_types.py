"""The page of types costs nothing at run time, and pydantic takes what it names."""

import subprocess
import sys
import typing

import numpy as np
import pydantic

from fedpriv.base import types


def test_it_imports_neither_numpy_nor_tensorflow():
    code = "import sys, fedpriv.base.types; assert not {'numpy', 'tensorflow'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_name_can_be_evaluated_and_validated():
    for name in types.__all__:
        hint = getattr(types, name)
        fields = typing.cast(typing.Any, {"value": (hint, ...)})
        model = pydantic.create_model(name, **fields)
        value = {"Shape": (2, 3), "Config": {"name": "dlg"}, "Row": {"round": 0}}.get(name, np.zeros(2))
        assert model(value=value).value is value or name in ("Shape", "Config", "Row")
