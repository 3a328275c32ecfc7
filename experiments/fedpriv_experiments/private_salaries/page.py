"""Page: the lessons as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedpriv.defense.parties import SERVER, client
from fedpriv.report.page import Figure, Report, Section, Table, show
from fedpriv_experiments.private_salaries.figures import newcomer_figure, shares_figure
from fedpriv_experiments.private_salaries.group import LIMIT, Person
from fedpriv_experiments.private_salaries.lessons import (
    DELTA,
    DRAWS,
    EPSILON,
    HIGH,
    LOW,
    Difference,
    Explanation,
    Failure,
    Histograms,
    Noised,
    Seen,
)
from fedpriv_experiments.private_salaries.sums import THRESHOLD, Summed
from fedpriv_experiments.private_salaries.update import Carried


@dataclass(frozen=True)
class Lessons:
    """Everything that the page shows; see `lessons`.

    Attributes:
      people, newcomer: who takes part.
      seen, explanations, histograms, failures, noised, carried: as in `lessons` and `update`.
      differences: two runs, with one more and with all the group's number more.
    """

    people: tuple[Person, ...]
    newcomer: Person
    seen: Seen
    explanations: list[Explanation]
    histograms: Histograms
    failures: list[Failure]
    differences: list[Difference]
    noised: Noised
    carried: list[Carried]


def report(found: Lessons, provenance: Mapping[str, Any]) -> Report:
    """The page."""
    people = found.people
    run, n = found.seen.run, len(people)
    return Report(
        title="The mean of private salaries",
        lead=[
            f"{n} people want to know the mean of their salaries. Nobody wants to tell their own. They need no trusted "
            "person. They need a protocol.",
            f"The mean came out: {show(run.mean, ',.2f')}. Each salary stayed hidden among {n}. This page shows every "
            "number that was sent, why it tells so little, and what can still go wrong.",
        ],
        sections=[
            _protocol(found),
            _nothing(found),
            _sum_itself(found),
            _wrong(found),
            _two_runs(found),
            _update(found),
        ],
        provenance=provenance,
    )


def _names(people: Sequence[Person]) -> str:
    names = [p.name for p in people]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _protocol(found: Lessons) -> Section:
    people, seen, run = found.people, found.seen, found.seen.run
    rows = []
    for i, person in enumerate(people):
        row: dict[str, Any] = {"from": person.name}
        row |= {f"to_{j}": int(seen.shares[i, j]) for j in range(len(people))}
        rows.append(row | {"salary": person.salary})
    totals: dict[str, Any] = {"from": "sum, published"}
    totals |= {f"to_{j}": int(seen.published[j]) for j in range(len(people))}
    rows.append(totals | {"salary": None if run.total is None else int(run.total)})
    heads = {f"to_{j}": f"to {p.name}" for j, p in enumerate(people)} | {"from": "cut by", "salary": "row together"}
    first, board = people[0], run.session.wire.received(SERVER)
    wire = run.session.wire
    each = [
        {
            "party": "the board" if party == SERVER else people[party.index].name,
            "shares": sum(d.phase == "share" for d in wire.received(party)),
            "lists": sum(d.phase == "publish" and SERVER not in (d.sender, party) for d in wire.received(party)),
            "sums": sum(party == SERVER for _ in wire.received(party)),
            "result": party != SERVER,
            "bytes": sum(d.size for d in wire.received(party)),
        }
        for party in (*(client(i) for i in range(len(people))), SERVER)
    ]
    return Section(
        "The protocol, and every number in it",
        paragraphs=[
            f"All arithmetic is modulo {seen.modulus:,}. That is 2 to the power of {seen.modulus.bit_length() - 1}: "
            "numbers wrap around like hours on a clock. A number takes "
            f"{(seen.modulus.bit_length() - 1) // 8} bytes, the fewest in which the sum of {len(people)} salaries up "
            f"to {LIMIT:,} cannot wrap.",
            "Step 1. Each person cuts the salary into shares, one for each person. All shares but one are random. The "
            "last one is what is missing, so that all together add up to the salary.",
            "Step 2. Each person sends every other person one share, on a private channel, and keeps one. In the first "
            f"table, the row of {first.name} is what {first.name} cut. The numbers from the upper left to the lower "
            "right were kept and never sent.",
            f"Step 3. Each person adds up the shares in hand. In the table that is a column: what {first.name} saw are "
            f"the numbers in the column of {first.name}, one from each person.",
            "Step 4. They check that all hold shares of the same people. Then each one publishes the sum of the "
            f"column, on a board. The board adds the {len(board)} sums. That is the sum of all salaries: "
            f"{show(run.total, ',.0f')}. The mean is {show(run.mean, ',.2f')}.",
        ],
        tables=[
            Table(
                rows,
                caption="Every share. A row is cut by one person; a column is seen by one person.",
                names=heads,
                formats=dict.fromkeys(heads, ",d"),
                note=f"Add the numbers of a row, divide by {seen.modulus:,}, and take the remainder: it is in the last "
                "column. Each share also carries a second number in the same way, the weight 1, so that the board "
                "learns how many took part.",
            ),
            Table(
                each,
                caption="What each party received",
                names={
                    "party": "who",
                    "lists": "lists of whose shares others have",
                    "sums": "published sums",
                    "result": "the result",
                },
                note="Counted by the wire that carried the messages.",
            ),
        ],
    )


def _nothing(found: Lessons) -> Section:
    people, seen = found.people, found.seen
    victim, others = people[-1], people[:-1]
    tests = found.histograms
    rows = [
        {"guess": e.salary, "missing": e.missing, "together": e.recombined, "fits": e.recombined == e.salary}
        for e in found.explanations
    ]
    return Section(
        "Why the shares tell nothing",
        paragraphs=[
            f"Let {_names(others)} put all shares of {victim.name} together. They hold {len(others)} of "
            f"{len(people)} numbers in the row of {victim.name}. One is missing: the one that {victim.name} kept.",
            f"Make any guess at the salary of {victim.name}. There is exactly one missing share that makes the guess "
            "right. The table has it for some guesses. All numbers from 0 to the modulus are equally likely for the "
            "missing share. So all guesses stay as likely as they were before. The shares exclude none of them.",
            "This is about the shares. What the published sum adds is the matter of the next section.",
            "Any other set of all but one share is the same: at least one random number is missing. "
            f"The figure shows it in another way. One salary of {LOW:,} and one of {HIGH:,} were shared {DRAWS:,} "
            "times each. The share that goes to the second person takes every value equally often, whatever the "
            f"salary is. A test for a difference between the two gives p = {tests.alike:.2f}; against 'equally often' "
            f"p = {tests.uniform[0]:.2f} and {tests.uniform[1]:.2f}. Small p (below 0.001) would be a reason to worry.",
            "The random numbers come from the operating system, not from a seed that somebody could know.",
        ],
        figures=[
            Figure(
                shares_figure(tests),
                alt="Two histograms that lie on each other and on a flat line: shares of a low and of a high salary.",
                caption=f"{DRAWS:,} shares each of a salary of {LOW:,} and of one of {HIGH:,}: the same flat picture.",
            )
        ],
        tables=[
            Table(
                rows,
                caption=f"What {victim.name} may earn, as far as the shares of the others tell",
                names={
                    "guess": f"guess at the salary of {victim.name}",
                    "missing": "missing share that explains it",
                    "together": "all shares together, modulo " + f"{seen.modulus:,}",
                    "fits": "fits",
                },
                formats={"guess": ",d", "missing": ",d", "together": ",d"},
                note=f"{victim.name} really earns {victim.salary:,}. Nothing in the table says so.",
            )
        ],
    )


def _sum_itself(found: Lessons) -> Section:
    people, run = found.people, found.seen.run
    rows = []
    for size in range(1, len(people)):
        inside = [client(i) for i in range(size)]
        last = run.session.seen_by(inside)[-1]
        value = int(last.value[0]) if last.value is not None else None
        rows.append(
            {
                "who": ", ".join(p.name for p in people[:size]),
                "others": ", ".join(people[c].name for c in last.clients),
                "sum": value,
            }
        )
    last_one = people[-1].name
    return Section(
        "What the answer itself tells",
        paragraphs=[
            "The protocol hides everything but the sum. It cannot hide what the sum tells. Whoever is in the group can "
            "take their own salary out of the sum. If some work together, they take out all of theirs.",
            f"So all but one together know the last one's salary. In the table, the last line is the salary of "
            f"{last_one}. This is no fault of the protocol: a trusted person who announces the mean gives away the "
            "same.",
        ],
        tables=[
            Table(
                rows,
                caption="What people who work together know, once the sum is published",
                names={"who": "who work together", "others": "know the sum of", "sum": "which is"},
                formats={"sum": ",d"},
                note="Computed by the protocol from the messages that these people received.",
            )
        ],
    )


def _outcome(run: Summed, people: Sequence[Person]) -> str:
    if run.mean is None:
        reason = run.reason
        for i, person in reversed(list(enumerate(people))):
            reason = reason.replace(
                f"client {i} of {len(people)} gone", f"{person.name}, one of {len(people)}, is gone"
            )
        return f"no result: {reason}"
    accused = ", ".join(people[p.index].name for p in run.session.accused)
    found = f"; the sum of {accused} was found false" if accused else ""
    return f"mean {show(run.mean, ',.2f')} of {run.count}{found}"


def _wrong(found: Lessons) -> Section:
    n = len(found.people)
    rows = [
        {
            "what": f.what,
            "truth": f.truth,
            "additive": _outcome(f.additive, found.people),
            "shamir": _outcome(f.shamir, found.people),
        }
        for f in found.failures
    ]
    return Section(
        "What goes wrong: one leaves, one lies",
        paragraphs=[
            "In the protocol above, all shares are needed. This is additive sharing. If one person leaves after the "
            "shares were sent, one column is missing. Then the sum cannot be known. The round ends with no result, "
            "and nothing is told.",
            f"Shamir's sharing is another way to cut. Any {THRESHOLD} of {n} columns are enough, and fewer tell "
            f"nothing. So people may leave. The price: any {THRESHOLD} people who work together can open every salary.",
            f"A lie in a published sum changes an additive result, and nobody can see it. With Shamir's sharing, {n} "
            f"sums must fit each other, and {THRESHOLD} would be enough. So one that does not fit is found and left "
            "out.",
            "A person who shares a false salary is not found by either. The mean is then the mean of what people said.",
        ],
        tables=[
            Table(
                rows,
                caption="One mishap a line: the mean that should come out, and what does",
                names={
                    "what": "what happens",
                    "truth": "right mean",
                    "additive": "additive sharing",
                    "shamir": f"Shamir's sharing, {THRESHOLD} of {n}",
                },
                formats={"truth": ",.2f"},
            )
        ],
    )


def _two_runs(found: Lessons) -> Section:
    one, many = found.differences
    new, noise = found.newcomer, found.noised
    rows = [
        {"newcomers": d.newcomers, "before": int(d.before), "after": int(d.after), "known": d.known}
        for d in found.differences
    ]
    errors = [{"people": n, "error": e, "share": e / noise.cut} for n, e in noise.errors.items()]
    return Section(
        "What goes wrong: two runs with one person more",
        paragraphs=[
            f"{new.name} joins, and the group runs the protocol again. Both sums are public. The second minus the "
            f"first is {show(one.known, ',.0f')}. That is the salary of {new.name}, exactly. Both runs were without "
            "any fault.",
            "What helps? First: change the group by many or not at all. The second line of the table has "
            f"{many.newcomers} newcomers. The difference then tells only their mean.",
            "Second: add noise to each sum. Differential privacy says how much. Here each salary is cut to at most "
            f"{noise.cut:,} (a round number that is agreed before anybody looks), and the noise has a standard "
            f"deviation of {show(noise.deviation, ',.0f')}: then both sums "
            f"together keep an epsilon of {EPSILON:g} (delta {DELTA:g}) about whether {new.name} is there. The figure "
            "shows what the difference of two noisy sums tells.",
            "Noise that hides one person in a group of five also hides the mean of five. It does not grow with the "
            "group. So in a large group the mean stays useful: see the last table.",
        ],
        figures=[
            Figure(
                newcomer_figure(noise, new.salary),
                alt="A wide bell of guesses, and one thin line at the true salary for sums without noise.",
                caption=f"{len(noise.guesses):,} pairs of noisy sums: what the difference says about {new.name}.",
            )
        ],
        tables=[
            Table(
                rows,
                caption="Two runs without noise",
                names={
                    "newcomers": "people more",
                    "before": "first sum",
                    "after": "second sum",
                    "known": "difference, for each newcomer",
                },
                formats={"before": ",d", "after": ",d", "known": ",.2f"},
            ),
            Table(
                errors,
                caption="The same noise on the sum of larger groups",
                names={"people": "people", "error": "typical error of the mean", "share": f"of {noise.cut:,}"},
                formats={"people": ",d", "error": ",.2f", "share": ".3%"},
            ),
        ],
    )


def _update(found: Lessons) -> Section:
    first = found.carried[0]
    rows = [
        {
            "protocol": c.protocol,
            "elements": c.elements,
            "bits": c.bits,
            "bytes_sent": c.bytes_sent,
            "error": c.error,
            "bound": c.bound,
            "moved": c.moved,
        }
        for c in found.carried
    ]
    return Section(
        "The same protocol carries a model's update",
        paragraphs=[
            "In federated learning the number is a vector. Each client trains the model on its own images, and has an "
            "update. The server needs the mean of the updates, weighted by how many images each client has.",
            f"Here five clients train a small model on images of clothes for one round. Each update has "
            f"{first.elements - 1} numbers; the client's weight is one more. They are clipped, rounded to multiples "
            "of a small step, and summed by the same code as the salaries. The mean differs from the plain mean only "
            "by the rounding.",
            "What the shares hide and what the sum tells is also the same: the server learns the mean of the five "
            "updates, and all but one client together learn the last one's.",
        ],
        tables=[
            Table(
                rows,
                caption="One round, without a protocol and with one: how far apart the means are",
                names={
                    "elements": "numbers",
                    "bits": "bits of each",
                    "bytes_sent": "bytes sent by all clients",
                    "error": "largest error",
                    "bound": "rounding allows",
                    "moved": "largest number in the mean",
                },
                formats={"error": ".1e", "bound": ".1e", "moved": ".1e"},
            )
        ],
    )
