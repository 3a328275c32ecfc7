"""Report: an experiment's tables, figures and page, made anew from its cells."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedpriv.base.types import Row
from fedpriv.experiment import conclusion
from fedpriv.experiment.arm import MEANT, Arm, CellResult, arms, attacked_arms, by_goal, words
from fedpriv.experiment.compare import compare_arms, with_holm
from fedpriv.experiment.drawings import Drawn, drawings
from fedpriv.experiment.drawings.drawn import part_stem
from fedpriv.experiment.experiment import Experiment
from fedpriv.experiment.grid import matches
from fedpriv.experiment.store import Store
from fedpriv.experiment.table import gather, write_tables
from fedpriv.metrics.cells import by_column
from fedpriv.metrics.disclosed import RULE
from fedpriv.report.manifest import write_manifest
from fedpriv.report.page import Figure, Report, Section, Table
from fedpriv.threat.goal import interval_name

#: The values of an axis are compared with its first one in at most so many rows.
PAIRS = 200

#: What an arm's row has of its control.
CONTROL = ("control", "beyond_control", "beyond_control_interval")
#: Sentences on attacked examples in a report.
SHOWN = 4
#: Pixels an inch of a report's PNG figures: half as many again as the page shows; the PDF beside it is for print.
DPI = 150
#: What a figure is kept as, beside each other.
DRAWN = (".png", ".pdf", ".json")


def write_report(
    experiment: Experiment, store: Store, command: Sequence[str], results: Sequence[CellResult] | None = None
) -> Path:
    """Writes tables, figures, `report.html`, `provenance.json` and, last, `manifest.json`; returns the page's path.

    `results` are those of `gather`, if they were read already.
    """
    from fedpriv.base.atomic import write_csv, write_json
    from fedpriv.base.provenance import provenance
    from fedpriv.figures.save import save

    results = gather(experiment, store) if results is None else results
    made = arms(results)
    rows = write_tables(results, made, store)
    seeds = sorted({c.seed for c in experiment.cells})
    origin = provenance(list(command), experiment.source, seeds[0])
    origin["seed"] = seeds[0] if len(seeds) == 1 else ", ".join(map(str, seeds))
    write_json(store.folder / "provenance.json", origin)
    title = experiment.contents.title or experiment.name.replace("_", " ").capitalize()
    sections = [_conclusion(experiment, made)]
    figures = []
    drawable, skipped = _chosen(experiment, drawings(experiment, made))
    for old in (store.folder / "figures").glob("*"):  # of a grid that has changed since
        if old.stem not in {d.stem for d in drawable} and old.is_file() and old.suffix in DRAWN:
            old.unlink()
    for drawn in drawable:
        about = {"title": drawn.heading, "caption": drawn.caption, **origin}
        image, *_ = save(drawn.draw(), store.folder / "figures" / drawn.stem, about, DPI)
        picture = Figure(image, drawn.alt, drawn.caption, beside=f"figures/{drawn.stem}.png")
        figures.append(Section(drawn.heading, figures=[picture]))
    differences = _differences(made)
    if differences:
        write_csv(store.folder / "differences.csv", differences)
    sections += [_threat(experiment, results), *figures, _tables(made, rows, differences)]
    published = _published(experiment, made)
    if published is not None:
        sections.insert(1, published)
    refusals = _refusals(made)
    if refusals is not None:
        sections.append(refusals)
    failures = _failures(results)
    if failures is not None:
        sections.append(failures)
    if skipped:
        said = f"Not drawn, since the experiment's draw does not name them: {skipped}."
        sections.append(Section("Figures left out", [said]))
    sections += [_limits(experiment, made, rows), _settings(experiment)]
    waiting = sum(r.error == "not run yet" for r in results)
    failed = sum(bool(r.error) for r in results) - waiting
    notice = ""
    if waiting or failed:
        notice = f"Of {len(results)} cells, {waiting} have not run yet and {failed} failed; what is there is shown."
    page = Report(title, sections, _lead(experiment), origin, notice).write(store.folder / "report.html")
    write_manifest(store.folder, [origin], [version for result in results for version in result.code])
    return page


def _lead(experiment: Experiment) -> list[str]:
    return [experiment.contents.question.strip()] if experiment.contents.question.strip() else []


def _conclusion(experiment: Experiment, made: Sequence[Arm]) -> Section:
    said = conclusion.sentences(experiment, made) or ["There is nothing to conclude from yet."]
    return Section("Conclusion", [*said, *(f"Warning: {w}" for w in conclusion.warnings(made))])


def _threat(experiment: Experiment, results: Sequence[CellResult]) -> Section:
    threats = dict.fromkeys(r.facts["threat"] for r in results if "threat" in r.facts)
    axes = [
        {"axis": a.name, "field": a.written, "values": "; ".join(str(o.label) for o in a.options)}
        for a in experiment.axes
    ]
    seeds = sorted({c.seed for c in experiment.cells})
    paragraphs = [
        *threats,
        *_attacked(results),
        f"{len(experiment.cells)} cells: {len(experiment.cells) // len(seeds)} settings with {len(seeds)} "
        f"{'seed' if len(seeds) == 1 else 'seeds'} ({', '.join(map(str, seeds))}).",
    ]
    tables = [Table(axes, caption="The grid")] if axes else []
    return Section("Threat and grid", paragraphs, tables=tables)


def _attacked(results: Sequence[CellResult]) -> list[str]:
    """Which examples were attacked, a sentence a draw; of many draws the first few."""
    draws = list(dict.fromkeys(r.facts["attacked"] for r in results if "attacked" in r.facts))
    more = [f"{len(draws) - SHOWN} more draws are like these."] if len(draws) > SHOWN + 1 else []
    return draws[:SHOWN] + more if more else draws


def _settings(experiment: Experiment) -> Section:
    tables = [Table(_shared(experiment), caption="What all cells share")]
    return Section("Settings", tables=tables, files=[("the experiment file", "experiment.yaml")])


def _shared(experiment: Experiment) -> list[Row]:
    """Fields that are the same in all cells, and not merely their defaults of no matter."""
    flat = [_flat(c.setting.model_dump(mode="json")) for c in experiment.cells]
    attacked = any(c.setting.attack for c in experiment.cells)
    trained = any(c.setting.training.rounds for c in experiment.cells)
    rows = []
    for key, value in flat[0].items():
        if any(f.get(key) != value for f in flat) or value is None or value == []:
            continue
        if not {"training": trained, "exposure": attacked, "control": attacked}.get(key.partition(".")[0], True):
            continue
        if any(part in key for part in ("beta_", "schedule", "momentum", "epsilon", "worker", "data_dir")):
            continue
        shown = Path(value).name if key == "data" and Path(value).is_absolute() else str(value)
        rows.append({"field": key, "value": shown})
    return rows


def _flat(value: Any, prefix: str = "") -> Row:
    if isinstance(value, Mapping):
        return {k: v for name, inner in value.items() for k, v in _flat(inner, f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): value}


def _tables(
    made: Sequence[Arm], rows: Sequence[Mapping[str, Any]], differences: Sequence[Mapping[str, Any]]
) -> Section:
    note = (
        "Intervals are 95%: of rates Wilson's, widened where images share a batch or a seed (those of one batch only "
        "count as independent); of means by bootstrap "
        "over batches and seeds. Epsilon is that of the whole training; – is no guarantee."
    )
    goals = {a.goal.name: a.goal for a in made if a.goal is not None}
    note = " ".join([note, *dict.fromkeys(goal.table_note for goal in goals.values() if goal.table_note)])
    if any(a.refused for a in made):
        note += " Inapplicable counts views that an attack does not apply to; no other number counts them."
    hidden = ("evaluations_median", *MEANT, *CONTROL)  # the latter have tables of their own
    keys = [k for k in dict.fromkeys(k for r in rows for k in r) if k not in hidden]
    if any("alarmed" in row for row in rows):
        note += (
            " Alarmed is the share of clients that a check of what they were sent alarmed, or that refused; of several "
            "checks it is the one that most heard."
        )
    formats = {
        "alarmed": ".0%",
        "p_value": ".2g",
        "p_holm": ".2g",
        "bytes_up": ",.0f",
        "seconds_median": ".2f",
        "rounds_done": ".0f",
    }
    columns = {c.name: c for goal in goals.values() for c in goal.columns()}
    names = {name: c.title for name, c in columns.items()}
    ours = {interval_name(name): c.format for name, c in columns.items()} | {n: c.format for n, c in columns.items()}
    tables = [Table(rows, keys, "All settings", names=names, formats=ours | formats, note=note)]
    files = [
        ("every row, CSV", "table.csv"),
        ("this table, CSV", "arms.csv"),
    ]
    if differences:
        how = (
            "Second minus first on the same images and seeds; p by flipping the signs of whole trials; p holm is "
            "adjusted for the number of tests of a quantity (Holm, 1979)."
        )
        shown = list(differences)[:PAIRS]
        tables.append(
            Table(shown, caption="Paired differences from the first value of each axis", formats=formats, note=how)
        )
        files.append(("paired differences, CSV", "differences.csv"))
    more = [table for table in (_controls(made), _by_column(made), _meant(made)) if table is not None]
    return Section("Results", tables=[tables[0], *more, *tables[1:]], files=files)


def _controls(made: Sequence[Arm]) -> Table | None:
    """What updates gave away, beyond what the same attack makes of noise."""
    rows: list[Row] = []
    for arm in attacked_arms(made):
        found = arm.disclosed
        if found is None:
            continue
        row: Row = {**arm.labels, "quantity": found.column.title}
        if found.pair is not None:
            low, high = found.interval or (None, None)
            row |= {"from the update": found.printed(found.pair.second)}
            row |= {"from noise": found.printed(found.pair.first)}
            row |= {"given away": found.printed(found.gain)}
            if low is not None and high is not None:
                row["95% interval"] = f"{found.printed(low)} to {found.printed(high)}"
            row |= {"pairs": found.pair.pairs, "evaluations on noise": found.evaluations}
            row["seconds on noise"] = found.seconds
        row["reading"] = found.reading()
        if found.missing:
            row["without control"] = f"{found.missing.total()} of {found.trials}: {found.reasons()}"
        rows.append(row)
    if not rows:
        return None
    formats = {"evaluations on noise": ",.0f", "seconds on noise": ".1f", "pairs": ".0f"}
    keys = list(dict.fromkeys(k for row in rows for k in row))
    note = f"{RULE} The attack's own evaluations and seconds do not count those on noise."
    return Table(rows, keys, "What the update gave away", formats=formats, note=note)


def _by_column(made: Sequence[Arm]) -> Table | None:
    """Where examples are rows of a table: the share of each column's cells that are right."""
    rows: list[Row] = []
    for arm in attacked_arms(made):
        cells = arm.cells()
        rows += [{**arm.labels, **row} for row in by_column(*cells)] if cells[0] else []
    if not rows:
        return None
    keys = [k for k in dict.fromkeys(k for row in rows for k in row) if k not in ("surest", "surest_right")]
    note = "A cell is right if it holds the category, or a number within 0.319 standard deviations."
    if "uncertainty" in keys:
        note += (
            " Uncertainty is how little the attack's own starts agree, from 0 to 1: of a category the entropy, of a "
            "number the standard deviation. Surest accuracy is that of the quarter of a column's cells that are least "
            "uncertain."
        )
    percent = dict.fromkeys(("accuracy", "accuracy_interval", "surest_accuracy"), ".0%")
    return Table(rows, keys, "Accuracy by column", formats=percent | {"uncertainty": ".2f"}, note=note)


def _meant(made: Sequence[Arm]) -> Table | None:
    """What each arm's epsilons are of: one row an adversary."""
    rows: list[Row] = []
    for arm in made:
        row = arm.row()
        for against, whom in (("server", "the server"), ("released", "whoever sees released models")):
            if row.get(f"epsilon_{against}") is None or f"unit_{against}" not in row:
                continue
            rows.append(
                {
                    **arm.labels,
                    "against": whom,
                    "epsilon": row[f"epsilon_{against}"],
                    "delta": arm.results[0].cell.setting.stated_delta,
                    "unit": row[f"unit_{against}"],
                    "neighbours": row[f"relation_{against}"],
                    "noise multiplier": row.get("noise_multiplier"),
                }
            )
    if not rows:
        return None
    note = (
        "Epsilons are alike only for one unit, one relation and one adversary: a unit replaced is one removed and one "
        "added, and an example is less than a client. A noise multiplier is the noise's standard deviation over the "
        "clip, on the sum or the message that a defense adds it to; a budget may have set it."
    )
    return Table(rows, caption="What each epsilon means", formats={"delta": "g"}, note=note)


def _published(experiment: Experiment, made: Sequence[Arm]) -> Section | None:
    """Numbers of the literature beside the best arm's that they are for."""
    rows = []
    for number in experiment.contents.published:
        fitting = [a for a in made if a.results and matches(a.labels, number.where)]
        measured = [(a.row().get(number.fact), a) for a in fitting]
        known = [(value, arm) for value, arm in measured if value is not None]
        best = min if number.fact == "rounds_to_target" or _is_lower_better(fitting, number.fact) else max
        value, arm = best(known, key=lambda pair: pair[0]) if known else (None, None)
        at = words(arm, arm.labels.keys() - number.where.keys()) if arm else []
        rows.append(
            {
                **{axis: ", ".join(map(str, labels)) for axis, labels in number.where.items()},
                "quantity": number.fact.replace("_", " "),
                "published": number.value,
                "here": value,
                "interval": arm.row().get(interval_name(number.fact)) if arm else None,
                "ratio": value / number.value if value is not None and number.value else None,
                "at": ", ".join(at) or None,
                "source": number.source,
            }
        )
    if not rows:
        return None
    note = "Here is the best of the arms that a number is for; ratio is here over published."
    return Section("Beside what was published", tables=[Table(rows, caption="Published and measured", note=note)])


def _is_lower_better(arms: Sequence[Arm], fact: str) -> bool:
    columns = [c for a in arms if a.goal is not None for c in a.goal.columns() if c.name == fact]
    return any(c.better == "lower" for c in columns)


def _differences(made: Sequence[Arm]) -> list[Row]:
    """Each arm against the one that has an axis's first value and agrees in all others."""
    of = {tuple(a.labels.values()): a for a in made if a.results}
    rows: list[Row] = []
    axes = list(made[0].labels) if made else []
    for i, axis in enumerate(axes):
        first = made[0].labels[axis]
        for place, arm in of.items():
            base = of.get((*place[:i], first, *place[i + 1 :]))
            if base is None or base is arm:
                continue
            others = {n: v for n, v in arm.labels.items() if n != axis}
            rows += [
                p.row(axis=axis, compared=f"{arm.labels[axis]} with {first}", **others) for p in compare_arms(base, arm)
            ]
    return with_holm(rows)


def _refusals(made: Sequence[Arm]) -> Section | None:
    """Where an attack does not apply, and why: neither a failure nor a zero."""
    rows = []
    for arm in made:
        views = sum(len(r.views) for r in arm.results)
        reasons = Counter(v.inapplicable for v in arm.refused)
        rows += [{**arm.labels, "views": f"{n} of {views}", "reason": why} for why, n in reasons.items()]
    if not rows:
        return None
    said = "What an adversary holds here is not what these attacks work on. Nothing follows about other attacks."
    return Section("Where an attack does not apply", [said], tables=[Table(rows, caption="Not applicable")])


def _failures(results: Sequence[CellResult]) -> Section | None:
    rows = [
        {**r.cell.labels, "seed": r.cell.seed, "error": r.error}
        for r in results
        if r.error and r.error != "not run yet"
    ]
    if not rows:
        return None
    said = "These cells failed; `fedpriv run ... --retry-failed` tries them again."
    return Section("Failed cells", [said], tables=[Table(rows, caption="Failures")])


def _limits(experiment: Experiment, made: Sequence[Arm], rows: Sequence[Mapping[str, Any]]) -> Section:
    seeds = len({c.seed for c in experiment.cells})
    said, attacked = [], attacked_arms(made)
    for arms_of_goal in by_goal(attacked) if attacked else ():
        goal = arms_of_goal[0].goal
        assert goal is not None
        first = goal.columns()[0]
        counts = [a.row()[first.name] for a in arms_of_goal]
        few, many = min(counts), max(counts)
        number = f"{few}" if few == many else f"{few} to {many}"
        what = first.label.lower()
        said.append(f"Each setting was tried on {number} {what} over {seeds} {'seed' if seeds == 1 else 'seeds'}.")
    said += _notes(made)
    if seeds == 1:
        said.append("With one seed, how results vary with initial weights, cohorts and noise is not measured.")
    if any(c.setting.data == "fashion_small" for c in experiment.cells):
        said.append("The images are Fashion-MNIST's, small and grey; other data may leak more or less.")
    if any(r.get("epsilon_server") is None and r.get("epsilon_released") is None for r in rows):
        said.append(
            "Where no epsilon stands, no defense makes a formal claim that holds and bounds a useful number, and "
            "nothing is guaranteed."
        )
    if any(r.get("epsilon_server") is not None or r.get("epsilon_released") is not None for r in rows):
        said.append(
            "The seeds stand in this report, so whoever reads it can draw these runs' noise and cohorts again: the "
            "epsilons are what such runs would guarantee with a seed from the operating system, not what these do."
        )
    seen = [r for arm in made for r in arm.results if r.facts.get("held_out") is False]
    if any(r.cell.setting.training.rounds and not r.cell.setting.exposure.fresh for r in seen):
        said.append("The attacked images are the training set's, so the attacked models may have been trained on them.")
    said += experiment.contents.limits
    if attacked:
        said += ["How the conclusion was drawn:", *conclusion.rules(attacked)]
    return Section("Limitations", said)


def _chosen(experiment: Experiment, drawable: list[Drawn]) -> tuple[list[Drawn], str]:
    """The figures to draw, and the names of the others; an only part of a figure is also called its first one."""
    wanted = set(experiment.contents.draw)
    kept = [d for d in drawable if {d.stem, part_stem(d.stem, 1, 2)} & wanted] if wanted else drawable
    return kept, ", ".join(d.stem for d in drawable if d not in kept)


def _notes(made: Sequence[Arm]) -> list[str]:
    """What is to be known of the data, the models and the defenses."""
    found: dict[str, None] = {}
    for arm in made:
        for result in arm.results:
            for note in result.facts.get("data_notes") or ():
                found[f"Data '{result.cell.setting.data}': {note}."] = None
            for note in result.facts.get("model_notes") or ():
                found[f"Model '{result.cell.setting.model}': {note}."] = None
            if simulated := result.facts.get("simulated"):
                found[f"Epsilon is a larger federation's: {simulated}."] = None
            for note in result.facts.get("defense_notes") or ():
                found[f"{note[:1].upper()}{note[1:]}."] = None
    return list(found)


def command_line() -> list[str]:
    """The command that is running, as a user writes it."""
    return ["uv", "run", "fedpriv", *sys.argv[1:]]
