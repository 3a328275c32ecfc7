"""Contents: what an experiment file may hold."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic
from pydantic import Field

from fedpriv.experiment.setting import Setting


class Published(pydantic.BaseModel):
    """A number that someone published, for the report to set beside the best that was measured here."""

    model_config = pydantic.ConfigDict(extra="forbid")

    where: dict[str, Any] = Field(
        default={},
        description=(
            "axes' labels it is for, as {axis: label or list of labels}; of the arms that have them the best one is "
            "compared."
        ),
    )
    fact: str = Field(
        description=(
            "`accuracy`, `rounds_to_target`, or a column of the goal that is asked, which knows which way is better."
        )
    )
    value: float = Field(description="the number, in the fact's unit: a share in [0, 1], rounds, dB.")
    source: Annotated[str, Field(min_length=1)] = Field(description="who, where, and in which table.")


class Contents(pydantic.BaseModel):
    """An experiment file."""

    model_config = pydantic.ConfigDict(extra="forbid", title="fedpriv experiment")

    name: str = Field(description="of the experiment and its folder: small letters, digits, _ . -")
    title: str = Field(default="", description="of the report.")
    question: str = Field(default="", description="what it is to answer, in a sentence or two.")
    extends: str | None = Field(default=None, description="another file this one is laid over.")
    define: dict[str, dict[str, Any]] = Field(
        default={}, description="shortcuts by kind (attack, defense, model, data), by name."
    )
    setting: Setting | dict[str, Any] = Field(default={}, description="what all cells share.")
    grid: dict[str, list[Any] | dict[str, Any]] = Field(
        default={},
        description=(
            "axes. A field's path with a list of values, or with a mapping of labels to values; or a name of your "
            "own with a mapping of labels to {path: value} overrides."
        ),
    )
    exclude: list[dict[str, Any]] = Field(
        default=[], description="combinations to leave out, as {axis: label or list of labels}."
    )
    seeds: Annotated[int, Field(ge=1)] | list[Annotated[int, Field(ge=0)]] = Field(
        default=[0], description="a list, or how many."
    )

    @pydantic.field_validator("seeds", mode="before")
    @classmethod
    def _some(cls, value: Any) -> Any:
        whole = isinstance(value, int) and not isinstance(value, bool)
        numbers = isinstance(value, list) and all(type(v) is int and 0 <= v < 2**63 for v in value)
        if not numbers and not (whole and value >= 1):
            raise ValueError("it is neither how many, from 1, nor a list of seeds from 0, such as [0, 1]")
        return value

    quick: dict[str, Any] = Field(default={}, description="what `--quick` lays over all this.")
    keep_images: Annotated[int, Field(ge=0)] = Field(default=8, description="reconstructions kept a cell, for figures.")
    draw: list[str] = Field(
        default=[], description="the figures to draw, by the names of their files; all that there are by default."
    )
    published: list[Published] = Field(
        default=[], description="numbers from the literature to set beside those measured here."
    )
    limits: list[str] = Field(default=[], description="sentences for the report's limitations.")
