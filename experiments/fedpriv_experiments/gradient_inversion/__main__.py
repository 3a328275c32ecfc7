"""`python -m fedpriv_experiments.gradient_inversion TABLE...`: runs tables and writes rows, figures and a README."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def main(
    tables: Annotated[list[str] | None, typer.Argument(help="Tables to run; all if none is named.")] = None,
    colour: Annotated[
        str, typer.Option(help="Colour images, 32 x 32: a dataset's name, or a path such as an .npz with x and y.")
    ] = "cifar100",
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results/gradient_inversion"),
    quick: Annotated[bool, typer.Option("--quick", help="A first look: few images, few evaluations.")] = False,
) -> None:
    """Runs tables; an arm whose file is in the folder is not run again."""
    from fedpriv.base.errors import FedprivError, UnknownNameError, did_you_mean
    from fedpriv_experiments.gradient_inversion.arm import run
    from fedpriv_experiments.gradient_inversion.page import write_page
    from fedpriv_experiments.gradient_inversion.tables import TABLES

    try:
        for name in tables or TABLES:
            if name not in TABLES:
                raise UnknownNameError(f"no table is named '{name}'.{did_you_mean(name, TABLES)}")
        for name in tables or TABLES:
            typer.echo(f"== {TABLES[name].title}")
            arms = TABLES[name].made(colour, quick)
            outcomes = [run(arm, out, typer.echo) for arm in arms]
            write_page(
                name,
                TABLES[name],
                outcomes,
                out,
                ["python", "-m", "fedpriv_experiments.gradient_inversion", *sys.argv[1:]],
            )
    except FedprivError as e:
        typer.echo(f"Error: {e}", err=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    from fedpriv_experiments import script

    script.run(main)
