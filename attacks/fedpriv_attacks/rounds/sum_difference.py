"""Sum difference: single clients' updates from secure sums of several rounds, by adding and subtracting these."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from fedpriv.base.errors import CapabilityError, DivergenceError
from fedpriv.procedure.participation import determined
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.dossier import Dossier
from fedpriv.threat.knowledge import Knowledge
from fedpriv.threat.view import View
from fedpriv_attacks.modern import AttackPart
from fedpriv_attacks.rounds.joined import attack_each, joined

#: Part of the squared distances between models that rounds are taken to differ by on their own, from rounding.
_RIDGE = 1e-9


@dataclass(frozen=True, eq=False)
class Isolated:
    """What some rounds tell of one client, or of a group whose members they do not tell apart.

    Attributes:
      view: as of the client alone, or of the group's sum, at the model of one of the rounds.
      members: who they are, as the adversary calls them.
      rounds: that enter, with their factors.
      amplification: Euclidean norm of the factors: what independent errors of the sums are multiplied by.
      drift: root of the summed squares, over clients, of how far their models are from the ones that would cancel
        exactly; in units of the distance that the model moved over all rounds. 0 is an exact result.
    """

    view: View
    members: tuple[str, ...]
    rounds: tuple[tuple[int, float], ...]
    amplification: float
    drift: float


class SumDifference(Attack):
    """Isolates clients in the sums of several rounds, and gives each update so found to another attack.

    Two secure sums of cohorts that differ in one client differ by that client's update, and by how much the others'
    updates have changed in between. In general, k rounds' sums are a linear system in the clients' updates, with the
    participation matrix of who was in which sum: So, Ali, Güler, Jiao, Avestimehr 2021, "Securing Secure Aggregation:
    Mitigating Multi-Round Privacy Leakage in Federated Learning", arXiv 2106.03328. A client whose unit vector lies in
    the matrix's row space (tested exactly) is isolated. Of the combinations that isolate it, the one is taken in which
    the others cancel best: their updates are taken to be smooth functions of the model, so rounds with models near each
    other are subtracted from each other, and where the model stood still it is the combination of least norm.

    What it assumes: every client's update depends on the model alone (one full-batch step, or the same local steps on
    the same examples), and changes little from round to round. It is exact where the model did not move; it fails where
    the rate is high, noise is added, or clients take part in batches only (`batch_partition`): then no single client is
    isolated, and groups of at least the batch's size are (`group`).

    Who is in a sum is known to the server and the aggregators, whom the clients send to. A client that is not isolated
    is not guessed: the finding has no example of it. `measures`: `isolated`, the share of the known clients whose
    updates (or groups) were found; `drift` and `amplification`, the medians over what was found (see `Isolated`).
    """

    name: ClassVar[str] = "sum_difference"
    paper: ClassVar[str] = "So et al. 2021, arXiv 2106.03328"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.REAL_UPDATE, Capability.NUM_EXAMPLES})
    least_rounds: ClassVar[int] = 2

    inner: AttackPart = Field(
        default="modern",  # type: ignore[assignment]
        description="the attack that is given each isolated update, such as `first_layer` or `dlg`.",
    )
    group: Annotated[int, Field(ge=1)] = Field(
        default=1,
        description="the largest group whose sum is attacked where its members cannot be told apart; 1 takes single "
        "clients alone.",
    )
    most: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="how many updates to attack, those with the least drift first; none takes all."
    )

    def requirements(self) -> frozenset[Capability]:
        """Its own; the inner attack is asked about what was isolated."""
        return self.needs

    def brings(self) -> tuple[Knowledge, ...]:
        """What the inner attack brings in."""
        return self.inner.brings()

    def attack_dossier(self, dossier: Dossier, seed: int) -> Finding:
        """Isolates what can be, and attacks it.

        Returns:
          A finding with the examples and labels of all that was isolated, one client after the other. `extra` has
          `isolated`, who it was, from which rounds and how exact, and `refused`, what the inner attack said of those
          that it did not apply to.

        Raises:
          CapabilityError: nobody knows who is in the sums, or how clients are weighed in them; or the inner attack
            applies to nothing that was isolated.
          DivergenceError: a sum is not finite.
        """
        began = time.perf_counter()
        known = len(dossier.participation()[1])
        isolated = isolate(dossier, self.group)
        isolated = sorted(isolated, key=lambda i: (len(i.members), i.drift, i.amplification))[: self.most]
        findings, refused = attack_each(self.inner, [i.view for i in isolated], seed, "'sum_difference' isolated")
        drifts, norms = [i.drift for i in isolated], [i.amplification for i in isolated]
        share = sum(len(i.members) for i in isolated) / max(known, 1)
        return joined(
            findings,
            dossier.pages[0].model.input_shape,
            time.perf_counter() - began,
            measures={
                "isolated": share,
                "drift": float(np.median(drifts)) if drifts else float("nan"),
                "amplification": float(np.median(norms)) if norms else float("nan"),
            },
            extra={"isolated": [_told(i) for i in isolated], "refused": refused},
        )


def _told(one: Isolated) -> dict[str, Any]:
    return {
        "members": list(one.members),
        "rounds": [list(pair) for pair in one.rounds],
        "amplification": one.amplification,
        "drift": one.drift,
    }


def isolate(dossier: Dossier, group: int = 1) -> list[Isolated]:
    """What the dossier's sums tell of single clients, or of groups of at most `group`.

    Raises:
      CapabilityError: the adversary does not know who is in the sums, or how clients are weighed in them.
      DivergenceError: a sum is not finite.
    """
    pages, members, matrix = dossier.participation()
    if not pages:
        raise CapabilityError(
            f"attack 'sum_difference' needs to know who is in which sum, which this does not tell: "
            f"{dossier.describe()} Let the adversary be a server whose clients connect under their names, or the "
            "aggregators"
        )
    weights = [_weights(page) for page in pages]
    for page in pages:
        if not np.isfinite(np.asarray(page.observed)).all():
            raise DivergenceError(f"what was observed in round {page.round} is not finite; lower the learning rate")
    sums = np.stack([np.asarray(p.observed, np.float64) * sum(w.values()) for p, w in zip(pages, weights, strict=True)])
    models = np.stack([np.asarray(page.weights, np.float64) for page in pages])
    centred = models - models.mean(0)
    products = centred @ centred.T
    spread = float(np.sqrt(np.trace(products) / len(pages)))
    found = []
    for columns in determined(matrix, group):
        who = tuple(members[c] for c in columns)
        best: tuple[float, np.ndarray, int] | None = None
        for place in np.flatnonzero(matrix[:, list(columns)].all(1)):
            # Inner products of the models' displacements from this round's.
            moved = products - products[place] - products[:, [place]] + products[place, place]
            factors, squares = _combination(matrix, columns, moved / (spread or 1.0) ** 2)
            if best is None or squares < best[0]:
                best = squares, factors, int(place)
        if best is None:  # a difference of rounds in which they never were together
            continue
        squares, factors, place = best
        found.append(
            Isolated(
                view=_alone(pages[place], who, weights[place], factors @ sums),
                members=who,
                rounds=tuple((p.round, float(a)) for p, a in zip(pages, factors, strict=True) if abs(a) > 1e-9),
                amplification=float(np.linalg.norm(factors)),
                drift=math.sqrt(max(squares, 0.0)) if spread else 0.0,
            )
        )
    return found


def _combination(matrix: np.ndarray, columns: tuple[int, ...], moved: np.ndarray) -> tuple[np.ndarray, float]:
    """Factors `[k]` of the rounds that leave these clients alone, and the squared drift that comes with them.

    To first order a client's update moves with the model, by a matrix of its own. What its appearances in a
    combination leave is that matrix times the sum of its models' displacements (`moved` `[k, k]` are their inner
    products) by the rounds' factors; the squares of these sums, over all clients, are made least among the factors
    that isolate.
    """
    k = len(matrix)
    cost = (matrix @ matrix.T) * moved
    target = np.zeros(matrix.shape[1])
    target[list(columns)] = 1.0
    # Equality constraints by the null space: the least-norm solution, and whatever changes nothing in it.
    particular = np.linalg.pinv(matrix.T.astype(np.float64)) @ target
    left, sizes, _ = np.linalg.svd(matrix.astype(np.float64), full_matrices=True)
    free = left[:, int(np.sum(sizes > 1e-9 * max(sizes[0], 1.0))) :]
    factors = particular
    if free.shape[1]:
        curved = cost + (_RIDGE * max(float(np.trace(cost)) / k, 0.0) or 1.0) * np.eye(k)
        step = np.linalg.solve(free.T @ curved @ free, free.T @ (curved @ particular))
        factors = particular - free @ step
    return factors, float(factors @ cost @ factors)


def _weights(page: View) -> dict[str, float]:
    """By member, its weight in the sum."""
    assert page.members is not None
    if page.plan.weighting == "uniform":
        return dict.fromkeys(page.members, 1.0)
    if page.num_examples is None:
        raise CapabilityError(
            "clients are weighed by how many examples they have, which this adversary does not know, so its sums "
            "cannot be subtracted; use one that knows 'num_examples'"
        )
    return {m: float(n) for m, n in zip(page.members, page.num_examples, strict=True)}


def _alone(page: View, who: tuple[str, ...], weights: dict[str, float], total: np.ndarray) -> View:
    """A page as if these clients alone had been behind it, of whom `total` `[d]` is the weighted sum."""
    assert page.members is not None
    places = [page.members.index(m) for m in who]
    counts = None if page.num_examples is None else tuple(page.num_examples[i] for i in places)
    labels = page.labels
    if labels is not None and page.num_examples is not None:
        starts = np.cumsum([0, *page.num_examples])
        labels = np.concatenate([labels[starts[i] : starts[i + 1]] for i in places])
    single = len(who) == 1
    return replace(
        page,
        kind="update" if single else "sum",
        observed=(total / sum(weights[m] for m in who)).astype(page.model.spec.dtype),
        clients=len(who),
        num_examples=counts,
        labels=labels,
        payloads=None,
        batch_statistics=None,
        pseudonym=who[0] if single else None,
        members=who,
    )
