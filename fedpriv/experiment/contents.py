"""Contents: what an experiment file may hold."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic
from pydantic import Field

from fedpriv.experiment.setting import Setting


class Published(pydantic.BaseModel):
    """A number that someone published, for the report to set beside the best that was measured here.

    Attributes:
      where: axes' labels it is for, as {axis: label or list of labels}; of the arms that have them the best one is
        compared.
      fact: `accuracy`, `rounds_to_target`, or a column of the goal that is asked, which knows which way is better.
      value: the number, in the fact's unit: a share in [0, 1], rounds, dB.
      source: who, where, and in which table.
    """

    model_config = pydantic.ConfigDict(extra="forbid")

    where: dict[str, Any] = {}
    fact: str
    value: float
    source: Annotated[str, Field(min_length=1)]


class Contents(pydantic.BaseModel):
    """An experiment file.

    Attributes:
      name: of the experiment and its folder: small letters, digits, _ . -
      title: of the report.
      question: what it is to answer, in a sentence or two.
      extends: another file this one is laid over.
      define: shortcuts by kind (attack, defense, model, data), by name.
      setting: what all cells share.
      grid: axes. A field's path with a list of values, or with a mapping of labels to values; or a name of your own
        with a mapping of labels to {path: value} overrides.
      exclude: combinations to leave out, as {axis: label or list of labels}.
      seeds: a list, or how many.
      quick: what `--quick` lays over all this.
      keep_images: reconstructions kept a cell, for figures.
      published: numbers from the literature to set beside those measured here.
      limits: sentences for the report's limitations.
    """

    model_config = pydantic.ConfigDict(extra="forbid", title="fedpriv experiment")

    name: str
    title: str = ""
    question: str = ""
    extends: str | None = None
    define: dict[str, dict[str, Any]] = {}
    setting: Setting | dict[str, Any] = {}
    grid: dict[str, list[Any] | dict[str, Any]] = {}
    exclude: list[dict[str, Any]] = []
    seeds: Annotated[int, Field(ge=1)] | list[Annotated[int, Field(ge=0)]] = [0]
    quick: dict[str, Any] = {}
    keep_images: Annotated[int, Field(ge=0)] = 8
    published: list[Published] = []
    limits: list[str] = []
