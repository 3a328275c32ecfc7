"""`fedpriv`: commands, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from fedpriv import __version__
from fedpriv.base import registry
from fedpriv.base.errors import FedprivError, printable
from fedpriv.base.lazy import set_verbose
from fedpriv.cli.account import budget, epsilon
from fedpriv.cli.attack import attack
from fedpriv.cli.check_claim import check_claim
from fedpriv.cli.experiment import compare, report, run, schema
from fedpriv.cli.listing import list_names, show
from fedpriv.cli.reference import reference
from fedpriv.cli.train import train
from fedpriv.cli.worker import worker

app = typer.Typer(
    name="fedpriv",
    help="Privacy attacks and defenses in federated learning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedpriv {__version__}")
        raise typer.Exit


@app.callback()
def common(
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show TensorFlow's and TFF's own log.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Privacy attacks and defenses in federated learning."""
    set_verbose(verbose)


app.command()(train)
app.command()(attack)
app.command()(budget)
app.command()(epsilon)
app.command("check-claim")(check_claim)
app.command("list")(list_names)
app.command()(show)
app.command()(reference)
app.command()(worker)
app.command()(run)
app.command()(report)
app.command()(compare)
app.command()(schema)


def _add_registered_commands() -> None:
    """Commands that live outside the core (such as the demo) come in by entry point."""
    present = {c.name for c in app.registered_commands}
    for name in registry.commands.names():
        if name in present:
            continue
        try:
            app.command(name)(registry.commands.load(name))
        except FedprivError as e:  # one broken package must not take the other commands away
            typer.echo(f"fedpriv: {e}", err=True)


def _refuse(said: str) -> NoReturn:
    typer.echo(f"fedpriv: {printable(said)}", err=True)
    sys.exit(2)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits: 0, 2 for a user's mistake, 130 for Ctrl-C."""
    _add_registered_commands()
    try:
        status = app(args=arguments, prog_name="fedpriv", standalone_mode=False)
    except FedprivError as e:
        _refuse(str(e))
    except (typer.Abort, KeyboardInterrupt):
        typer.echo("fedpriv: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as e:
        if e.filename is None:
            raise
        _refuse(f"'{os.fsdecode(e.filename)}' cannot be used: {e.strerror}; give another path")
    except Exception as e:
        if hasattr(e, "show") and hasattr(e, "exit_code"):  # click's own usage errors
            e.show()
            sys.exit(e.exit_code)
        raise
    sys.exit(status if isinstance(status, int) else 0)
