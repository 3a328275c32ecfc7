"""Stated: a procedure from what a user writes of it, `epochs=3, batch_size=32, client.learning_rate=0.01`."""

from __future__ import annotations

import math
from typing import Any

from fedpriv.base.errors import ParameterError, did_you_mean
from fedpriv.base.registry import parse_call
from fedpriv.procedure.procedure import Optimizer, Procedure, make_procedure

#: Other frameworks' words.
_ALSO = {
    "epochs": "local_epochs",
    "lr": "client.learning_rate",
    "learning_rate": "client.learning_rate",
    "momentum": "client.momentum",
    "weight_decay": "client.weight_decay",
    "optimizer": "client.kind",
    "steps": "max_local_steps",
    "mu": "proximal",
}
#: What PyTorch's optimizers take where nothing else is said; Keras's Adam has an epsilon of 1e-7.
_DEFAULTS = {"adam": {"beta_2": 0.999, "epsilon": 1e-8}, "adagrad": {"epsilon": 1e-10}}
_OWN = ("local_epochs", "batch_size", "max_local_steps", "batch_selection", "proximal")
_KNOWN = [*_OWN, *(f"client.{name}" for name in Optimizer.model_fields if name != "schedule")]


def stated_procedure(text: str, num_examples: tuple[int, ...] | None = None) -> Procedure:
    """The local procedure that `text` states.

    Args:
      text: `key=value` with commas between: `epochs`, `batch_size` (without one, or `none`, all examples are one
        batch), `client.learning_rate`, `client.momentum` (then SGD has it), `client.weight_decay`, `client.kind`
        (of `adam` and `adagrad` what is not said is as in PyTorch: beta_2 0.999 and epsilon 1e-8, epsilon 1e-10),
        `proximal`, `steps` (instead of epochs), `batch_selection`; `lr`, `momentum`, `weight_decay` and `optimizer` are
        short.
      num_examples: of each client, which `steps` take to tell the epochs.

    Raises:
      ParameterError: an unknown key, one that is given twice, an impossible value, or no learning rate.
    """
    fields, client = dict[str, Any](), dict[str, Any]()
    for key, value in parse_call(f"procedure({text})", "option")[1].items():
        name = _ALSO.get(key, key)
        if name not in _KNOWN:
            raise ParameterError(f"procedure: '{key}' is unknown.{did_you_mean(key, [*_KNOWN, *_ALSO])}")
        place, own = (client, name.removeprefix("client.")) if name.startswith("client.") else (fields, name)
        if own in place:
            raise ParameterError(f"procedure: '{key}' gives {name} a second time; give it once")
        if "=" in value:
            raise ParameterError(
                f"procedure: '{key}={value}' holds a second '='; write commas between: epochs=3, lr=0.01"
            )
        place[own] = None if value.lower() in ("none", "full") else value
    if client.get("learning_rate") is None:
        raise ParameterError(
            "procedure: the client's learning rate is missing; write client.learning_rate=0.01, or whatever it was"
        )
    if "momentum" in client and float(_number(client["momentum"])) == 0:
        del client["momentum"]
    if "momentum" in client:
        client.setdefault("kind", "momentum")
    for name, usual in _DEFAULTS.get(client.get("kind") or "", {}).items():
        client.setdefault(name, usual)
    fields.setdefault("batch_size", None)
    if "max_local_steps" in fields:
        if "local_epochs" in fields:
            raise ParameterError(
                f"procedure: epochs={fields['local_epochs']} and steps={fields['max_local_steps']} both say how long "
                "the client trained; give one of them"
            )
        if num_examples is None:
            raise ParameterError("procedure: steps without epochs need the number of examples; give it, or epochs")
        size, steps = fields["batch_size"], _number(fields["max_local_steps"])
        if steps < 1:
            raise ParameterError(f"procedure: steps={fields['max_local_steps']}: give at least 1")
        each = [math.ceil(n / (_number(size) if size else n)) for n in num_examples]
        fields["local_epochs"] = max(1, math.ceil(steps / min(each)))
    return make_procedure(**fields, client=client)


def _number(value: Any) -> float:
    try:
        found = float(value)
    except ValueError:
        raise ParameterError(f"procedure: '{value}' is no number") from None
    if not found >= 0:
        raise ParameterError(f"procedure: '{value}' is no number from 0 on")
    return found


def check_room(procedure: Procedure, num_examples: tuple[int, ...]) -> None:
    """Raises ParameterError where the stated steps do not reach all of a client's examples."""
    for n in num_examples:
        size, steps = procedure.batch_size or n, procedure.local_steps(n)
        if steps * size < n and not procedure.drawn:
            raise ParameterError(
                f"{n} examples do not fit into {steps} local steps of batch_size={size}, which reach {steps * size} of "
                f"them; state {steps * size} examples, or the steps that were made"
            )
