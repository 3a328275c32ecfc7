"""`fedpriv salaries`: the mean of private salaries, and a page that shows how it came about."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fedpriv_experiments.private_salaries.page import Lessons


def salaries(
    out: Annotated[Path, typer.Option(help="Folder for the page, the figures and the numbers.")] = Path(
        "results/private_salaries"
    ),
    people: Annotated[
        str, typer.Option(help="Names and salaries, such as Ada=2900,Bruno=4150,...; five to twelve; empty for ours.")
    ] = "",
    newcomer: Annotated[str, typer.Option(help="Who joins for a second run, such as Farid=6100.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the noise and of the model; shares have none.")] = 0,
) -> None:
    """Compute the mean of private salaries by secret sharing, and show what each party saw and what goes wrong."""
    from fedpriv.base.atomic import check_folder, write_json
    from fedpriv.base.provenance import provenance
    from fedpriv.figures.save import save
    from fedpriv.report.manifest import write_manifest
    from fedpriv_experiments.private_salaries.figures import newcomer_figure, shares_figure
    from fedpriv_experiments.private_salaries.page import report

    check_folder(out)
    found = learned(people, newcomer, seed)
    run = found.seen.run
    typer.echo("Shares, each row cut by one person, each column seen by one:")
    for person, row in zip(found.people, found.seen.shares, strict=True):
        typer.echo(f"  {person.name:12}" + "".join(f"{int(share):>12,}" for share in row))
    typer.echo(f"  {'published':12}" + "".join(f"{int(total):>12,}" for total in found.seen.published))
    typer.echo(f"Sum {run.total:,.0f}, mean {run.mean:,.2f} of {run.count}")
    for failure in found.failures:
        typer.echo(f"{failure.what}: the right mean is {failure.truth:,.2f}")
        for name, one in (("additive", failure.additive), ("Shamir's", failure.shamir)):
            typer.echo(f"  {name:9}{one.reason or f'{one.mean:,.2f}'}")
    told = found.differences[0].known
    typer.echo(f"Two runs, with {found.newcomer.name} and without: the difference is {told:,.0f}")
    for c in found.carried:
        allowed = f"off by {c.error:.1e}, where rounding allows {c.bound:.1e}"
        typer.echo(f"A model's update by {c.protocol} sharing: {allowed}")
    command = ["uv", "run", "fedpriv", "salaries", *sys.argv[2 if sys.argv[1:2] == ["salaries"] else 1 :]]
    origin = provenance(command, {"people": len(found.people)}, seed)
    for name, figure, caption in (
        ("shares", shares_figure(found.histograms), "Shares of a low and of a high salary."),
        ("newcomer", newcomer_figure(found.noised, found.newcomer.salary), "What two runs tell of a newcomer."),
    ):
        save(figure, out / "figures" / name, {"title": name, "caption": caption, **origin})
    write_json(out / "salaries.json", {**numbers(found), "provenance": origin})
    report(found, origin).write(out / "salaries.html")
    write_manifest(out)
    typer.echo(f"Wrote {out / 'salaries.html'}")


def learned(people: str = "", newcomer: str = "", seed: int = 0) -> Lessons:
    """All that the page shows.

    Raises:
      ParameterError: people as nobody can be.
    """
    from fedpriv.base.errors import ParameterError
    from fedpriv_experiments.private_salaries import group, lessons, update
    from fedpriv_experiments.private_salaries.page import Lessons

    members = group.read(people) if people else group.PEOPLE
    new = group.person(newcomer) if newcomer else group.NEWCOMER
    if new.name in [p.name for p in members]:
        raise ParameterError(f"'{new.name}' is in the group already; write another newcomer")
    seen = lessons.seen(members)
    guesses = sorted({0, 1000, members[-1].salary, 20_000, group.LIMIT})
    crowd = [new, *(group.Person(f"{p.name}'s friend", p.salary) for p in members[1:])]
    one = lessons.difference(members, [new])
    return Lessons(
        people=members,
        newcomer=new,
        seen=seen,
        explanations=lessons.explanations(seen, len(members) - 1, guesses),
        histograms=lessons.histograms(len(members)),
        failures=lessons.failures(members),
        differences=[one, lessons.difference(members, crowd)],
        noised=lessons.noised(new, seed, people=members),
        carried=update.carried(seed),
    )


def numbers(found: Lessons) -> dict[str, object]:
    """What the page says, for programs."""
    run = found.seen.run
    return {
        "people": {p.name: p.salary for p in found.people},
        "modulus": found.seen.modulus,
        "shares": found.seen.shares.tolist(),
        "published": found.seen.published.tolist(),
        "sum": run.total,
        "mean": run.mean,
        "explanations": [vars(e) for e in found.explanations],
        "p_values": {"uniform": found.histograms.uniform, "alike": found.histograms.alike},
        "failures": [
            {"what": f.what, "truth": f.truth}
            | {
                name: {"mean": one.mean, "count": one.count, "reason": one.reason}
                for name, one in (("additive", f.additive), ("shamir", f.shamir))
            }
            for f in found.failures
        ],
        "differences": [{**vars(d), "known": d.known} for d in found.differences],
        "noise": {"deviation": found.noised.deviation, "spread": float(found.noised.guesses.std())},
        "update": [vars(c) for c in found.carried],
    }
