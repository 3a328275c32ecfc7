"""`fedpriv check-claim`: what somebody else's stated configuration really gives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fedpriv.base.errors import ExperimentError, did_you_mean
from fedpriv.cli import options


def check_claim(
    file: Annotated[Path | None, typer.Argument(help="A YAML file of the same fields; options go before it.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="That is stated.")] = None,
    delta: Annotated[float | None, typer.Option(help="That is stated.")] = None,
    clip: Annotated[float | None, typer.Option(help="Norm that each contribution is clipped to; none without.")] = None,
    clip_norm: Annotated[str | None, typer.Option(help="Which norm: l2, l1 or linf.")] = None,
    per: Annotated[str | None, typer.Option(help="Whose contribution the clip bounds: client or example.")] = None,
    unit: Annotated[str | None, typer.Option(help="Whom the claim is stated for: client or example.")] = None,
    noise: Annotated[str | None, typer.Option(help="gaussian or laplace.")] = None,
    stddev: Annotated[
        float | None,
        typer.Option(help="Noise's standard deviation on each coordinate, where it is added; the textbook's without."),
    ] = None,
    added_to: Annotated[
        str | None, typer.Option(help="What noise is added to: the sum or mean at the server, or each update.")
    ] = None,
    sensitivity: Annotated[float | None, typer.Option(help="That the noise was computed for, if it is told.")] = None,
    formula_epsilon: Annotated[
        float | None, typer.Option(help="That the textbook's noise was computed for; the stated one without.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds, or steps, in which noise is added.")] = None,
    sampling: Annotated[str | None, typer.Option(help="poisson, fixed or full.")] = None,
    rate: Annotated[
        float | None, typer.Option(help="With which each takes part in a round; or give --cohort and --population.")
    ] = None,
    cohort: Annotated[int | None, typer.Option(help="(Expected) contributions a round.")] = None,
    population: Annotated[int | None, typer.Option(help="Contributors in all.")] = None,
    against: Annotated[str | None, typer.Option(help="released models only, or the server too.")] = None,
    relation: Annotated[
        str | None, typer.Option(help="That the claim is stated for; the one that is best for it without.")
    ] = None,
    drawn_by: Annotated[
        str | None,
        typer.Option(help="Who draws contributions: the server, or the client its own batches, unseen by the server."),
    ] = None,
    local_steps: Annotated[
        int | None, typer.Option(help="A client's steps in each round, with noise and a batch each; one without.")
    ] = None,
    dimension: Annotated[int | None, typer.Option(help="d, for Laplace noise and for clips of other norms.")] = None,
    examples: Annotated[int | None, typer.Option(help="Of one client, where the clip is per example.")] = None,
    json_lines: options.Json = False,
) -> None:
    """Check a privacy claim: what epsilon a stated configuration really gives, why, and what noise would earn it."""
    given = {n: v for n, v in locals().items() if n not in ("file", "json_lines") and v is not None}
    from fedpriv.account.stated import Stated, check_stated, make_stated
    from fedpriv.base.atomic import to_json

    facts: dict[str, Any] = {}
    if file is not None:
        from fedpriv.experiment.document import read

        document = read(file)
        for name in document.content:
            if name not in Stated.model_fields:
                place = document.place((name,))
                raise ExperimentError(f"{place}: there is no '{name}'.{did_you_mean(name, Stated.model_fields)}")
        facts = document.content
    verdict = check_stated(make_stated(**{**facts, **given}))
    typer.echo(to_json(verdict.row()) if json_lines else verdict.describe())
