"""Line: the stations of a round with the defenses on them, checked as a whole before anything runs.

Making one checks it, and what was checked is what runs: engines, `View.simulate` and TFF's aggregation walk it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fedpriv.base.errors import StackError
from fedpriv.base.lazy import dp_accounting
from fedpriv.defense.aggregator import Aggregator
from fedpriv.defense.claim import Claim
from fedpriv.defense.combiner import Combiner
from fedpriv.defense.domain import Domain, Real
from fedpriv.defense.noise import given_multiplier, leaves_noise_open
from fedpriv.defense.plan import Plan
from fedpriv.defense.protocol import Protocol
from fedpriv.defense.stations import Defense, Station
from fedpriv.defense.walker import Walker

_ON_THE_WAY = (Station.UPDATE, Station.ENCODE, Station.MESSAGE)


class Line(Walker):
    """Defenses in the order a client applies them; the server's stations run in reverse.

    Attributes:
      defenses: as they were given; `links` are their parts, each settled at its place.
      protocol: the one at the message station, or None.
      aggregator: the one that takes the place of the weighted mean, or None.
      combiner: the rule on the clients' own updates in the place of their weighted mean, or None.
      given: what each link is given on the way from update to message, and `made` what it makes of it; None where it
        acts at none of these stations.
      contribution: what one client's decoded contribution to the sum is.
      fixed_denominator: the public constant the sum must be divided by (the expected cohort size) where noise is added
        to it; None where the sum of the clients' weights is right.

    Raises:
      StackError: names the defenses with their positions, and an order or setting that works.
      ParameterError: a defense's parameter that does not fit this federation.
    """

    def __init__(self, defenses: Sequence[Defense], plan: Plan) -> None:
        self.defenses = tuple(defenses)
        for i, defense in enumerate(self.defenses):
            if not isinstance(defense, Defense):
                raise StackError(
                    f"item {i + 1} of the stack is a {type(defense).__name__}, not a Defense; build it with "
                    "registry.defenses.create(...) or derive it from fedpriv.defense.stations.Defense"
                )
            if leaves_noise_open(defense):
                given_multiplier(defense)  # says what to give
        super().__init__(self.defenses, plan)
        self._places = [i for i, d in enumerate(self.defenses) for _ in d.parts()]
        senders = [i for i, d in enumerate(self.links) if isinstance(d, Protocol | Aggregator | Combiner)]
        combining = [i for i in senders if isinstance(self.links[i], Combiner)]
        hiding = [i for i in senders if isinstance(self.links[i], Protocol)]
        if combining and hiding:
            raise StackError(
                f"{self._named(combining[0])} combines each client's own update, but {self._named(hiding[0])} hides "
                "all but their sum; robust rules and secure sums exclude each other, so keep one of them"
            )
        if len(senders) > 1:
            raise StackError(
                f"{' and '.join(map(self._named, senders))} each replace the client's message; keep one of them"
            )
        self._sender = senders[0] if senders else None
        self.combiner = next((d for d in self.links if isinstance(d, Combiner)), None)
        self._noising = [i for i in self.at(Station.AGGREGATE) if self._noises(i)]
        self._check_pairs()
        self.given: list[Domain | None] = [None] * len(self.links)
        self.made: list[Domain | None] = [None] * len(self.links)
        self._check_tallies()
        self._follow_domains()
        self.protocol = next((d for d in self.links if isinstance(d, Protocol)), None)
        self.aggregator = next((d for d in self.links if isinstance(d, Aggregator)), None)
        self._check_aggregator()
        self._check_combiner()
        self._check_gradients()
        for place, defense in enumerate(self.defenses):
            own = [link for i, link in enumerate(self.links) if self._places[i] == place]
            if not any(part is defense for part in defense.parts()):
                defense.check_fitted(own, plan)
            for link in own:
                link.check(plan)
        self._check_withheld()
        self.contribution = self._contribution()
        self._check_bounds()
        self._check_simulation()
        self.fixed_denominator = plan.expected_cohort if self._noising else None

    def _check_pairs(self) -> None:
        """What excludes each other, wherever it stands."""
        packing = [i for i, link in enumerate(self.links) if link.compresses]
        if len(packing) > 1:
            raise StackError(
                f"{' and '.join(map(self._named, packing))} each compress an update into a message of its own, but one "
                "message is compressed once; keep one of them"
            )
        mixing = [i for i, link in enumerate(self.links) if link.mixture() is not None]
        if len(mixing) > 1:
            raise StackError(
                f"{' and '.join(map(self._named, mixing))} each mix the examples of a batch; keep one of them, with "
                "more images a mixture where you want them mixed more"
            )
        for i, link in enumerate(self.links):
            again = [j for j in range(i) if link.only_once and type(self.links[j]) is type(link)]
            if again:
                raise StackError(
                    f"{self._named(again[0])} and {self._named(i)} are the same defense, which a line may have once; "
                    "keep one of them, with the parameters that you want"
                )
        if self._noising and self.combiner is not None:
            assert self._sender is not None
            noisy, rule = self._named(self._noising[0]), self._named(self._sender)
            raise StackError(
                f"{noisy} adds noise to the sum of the updates, but {rule} takes the place of that sum, and bounds "
                "nothing that this noise could cover, whatever is clipped before; leave the rule out, or take "
                "local_dp(clip=...,noise_multiplier=...) before it, whose noise is the clients' own"
            )

    def _check_withheld(self) -> None:
        """Something must be sent, and what clients keep must be what they trained."""
        acting = self.at(Station.UPDATE)
        for i in (i for i in acting if type(self.links[i]).begins is not Defense.begins):
            for j in (j for j in acting if j < i):
                noise = self.links[j].noise(self.plan)
                if self.links[j].compresses or (noise is not None and noise.where == "update"):
                    raise StackError(
                        f"{self._named(i)} has clients keep part of what they trained, but {self._named(j)} changes it "
                        f"first; put {_name(self.links[i])} before it"
                    )
        keeping = [(i, w) for i, link in enumerate(self.links) if (w := link.withheld(self.plan.spec)) is not None]
        if keeping and np.logical_or.reduce([w for _, w in keeping]).all():
            raise StackError(
                f"{' and '.join(self._named(i) for i, _ in keeping)} together leave out all layers, so that nothing is "
                "sent; leave one to share"
            )

    @property
    def encodes(self) -> bool:
        """Whether contributions leave the real numbers on their way."""
        return self.acts(Station.ENCODE)

    @property
    def bound(self) -> float | None:
        """Bound on the L2 norm of an update as it leaves the update station; None where none is stated."""
        last = [self.made[i] for i in self.at(Station.UPDATE)]
        return last[-1].l2 if last and isinstance(last[-1], Real) else None

    def _noises(self, i: int) -> bool:
        noise = self.links[i].noise(self.plan)
        return noise is not None and noise.where == "aggregate"

    def _named(self, i: int) -> str:
        place = self._places[i]
        return f"{_name(self.defenses[place])} (position {place + 1})"

    def _follow_domains(self) -> None:
        now: Domain = Real()
        giver: int | None = None
        protocol = next((d for d in self.links if isinstance(d, Protocol)), None)
        for i, link in enumerate(self.links):
            stations = [s for s in _ON_THE_WAY if link.acts_at(s)]
            if not stations:
                continue
            if stations[0] is Station.UPDATE and not isinstance(link.takes, Real):
                raise StackError(
                    f"{self._named(i)} takes {link.takes}, but acts at the update station, where a client's update is "
                    f"{Real()}; override encode, which runs after it"
                )
            link = self.defenses[self._places[i]].fitted(link, now, self.plan, protocol)
            self.links = (*self.links[:i], link, *self.links[i + 1 :])
            if not link.takes.accepts(now):
                self._refuse(i, giver, now)
            link = link.settled(now, self.plan, _name(self.defenses[self._places[i]]))
            self.links = (*self.links[:i], link, *self.links[i + 1 :])
            made = link.maps(now, self.plan)
            if type(made) is not type(now):
                giver = i
            self.given[i], self.made[i], now = now, made, made

    def _refuse(self, i: int, giver: int | None, now: Domain) -> None:
        taken = self.links[i].takes
        if giver is None or self._places[giver] == self._places[i]:
            raise StackError(
                f"{self._named(i)} takes {taken}, but a client's update is {now}; put a defense that gives {taken} "
                "before it"
            )
        order = [_name(d) for d in self.defenses]
        order.insert(self._places[i], order.pop(self._places[giver]))
        raise StackError(
            f"{self._named(giver)} gives {now}, but {self._named(i)} after it takes {taken}; "
            f"the order that works is {', '.join(order)}"
        )

    def _check_tallies(self) -> None:
        for name, bound in self.tallies.items():
            if not 0 < bound < math.inf:
                raise StackError(
                    f"tally '{name}' has the bound {bound:g}; declare a number above 0, the largest absolute value it "
                    "takes"
                )

    def _contribution(self) -> Real:
        """One client's decoded contribution: what entered the first codec, as the codecs give it back."""
        coded = [i for i in self.at(Station.ENCODE) if self.given[i] is not None]
        now: Domain = Real(self.bound)
        for i in coded:
            now = self.links[i].decoded(now, self.plan)
        if self.aggregator is not None or self.combiner is not None or not isinstance(now, Real):
            return Real()
        return now

    def _check_aggregator(self) -> None:
        acting = self.at(Station.AGGREGATE)
        if self.aggregator is not None and acting:
            assert self._sender is not None
            raise StackError(
                f"{self._named(acting[-1])} acts on the sum of the updates, but {self._named(self._sender)} gives "
                "their mean alone; leave one of them out"
            )

    def _check_combiner(self) -> None:
        if self.combiner is None:
            return
        assert self._sender is not None
        if self.encodes:
            coding = self._named(self.at(Station.ENCODE)[0])
            raise StackError(
                f"{self._named(self._sender)} combines updates as real numbers, but {coding} encodes them for a sum; "
                "leave one of them out"
            )
        if self.tallies:
            raise StackError(
                f"{self._named(self._sender)} gives no sum, but the tally '{next(iter(self.tallies))}' is summed with "
                "the updates; leave out the defense that reports it"
            )

    def _check_gradients(self) -> None:
        """Examples' own gradients are averaged for the first defense that wants the mean, and then gone."""
        averaging: int | None = None
        acting = self.at(Station.GRADIENT)
        clipping = [i for i, link in enumerate(self.links) if link.example_clip(self.plan) is not None]
        if len(clipping) > 1:
            raise StackError(
                f"{' and '.join(map(self._named, clipping))} each clip examples' gradients, but only one can; keep one"
            )
        splitting = [i for i in acting if self.links[i].per_example and i not in clipping]
        if clipping and splitting:
            raise StackError(
                f"{self._named(clipping[0])} clips examples' gradients and gives their sum alone, but "
                f"{self._named(splitting[0])} takes each example's own; they exclude each other, so keep one of them"
            )
        if clipping and acting[0] != clipping[0]:
            raise StackError(
                f"{self._named(clipping[0])} clips examples' gradients, which comes before all else that acts on "
                f"gradients, but {self._named(acting[0])} stands before it; put {_name(self.links[clipping[0]])} first"
            )
        for i in acting:
            if not self.links[i].per_example:
                averaging = i if averaging is None else averaging
            elif averaging is not None:
                raise StackError(
                    f"{self._named(averaging)} acts on the mean gradient of a batch, but {self._named(i)} after it "
                    f"takes each example's own; put {_name(self.links[i])} first"
                )

    def _check_bounds(self) -> None:
        """Noise on the sum covers one client's influence only where that is bounded."""
        if len(self._noising) > 1:
            raise StackError(
                f"{' and '.join(map(self._named, sorted(self._noising)))} each add noise at the server, but only one "
                "can be accounted for; keep one, with a noise multiplier of sqrt(a^2 + b^2) for the same total noise"
            )
        for i in self._noising:
            if self.contribution.l2 is None:
                lost = [j for j in self.at(Station.UPDATE) if j > i and isinstance(self.made[j], Real)]
                lengthening = next((j for j in lost if self.made[j].l2 is None), None)  # type: ignore[union-attr]
                if lengthening is None and self.bound is not None and self.at(Station.ENCODE):
                    coding = " and ".join(map(self._named, self.at(Station.ENCODE)))
                    raise StackError(
                        f"{self._named(i)} adds noise to the sum, but {coding} may lengthen a contribution on its way "
                        "there; say by how much with decoded(given, plan)"
                    )
                if lengthening is None:
                    raise StackError(
                        f"{self._named(i)} adds noise to the sum, but nothing bounds the norm of one client's update; "
                        "put clip(norm=...) before it"
                    )
                raise StackError(
                    f"{self._named(lengthening)} may lengthen an update after {self._named(i)} has clipped it, so the "
                    f"noise would no longer cover one client's influence; put {_name(self.links[lengthening])} first"
                )
            early = [j for j in self.at(Station.AGGREGATE) if j > i]
            if early:
                raise StackError(
                    f"{self._named(early[-1])} changes the sum before {self._named(i)} adds its noise, since the "
                    f"server's stations run in reverse; put {_name(self.links[early[-1]])} first"
                )

    def _check_simulation(self) -> None:
        """A larger federation is simulated by noise on the sum, and by nothing else."""
        if self.plan.simulates is None:
            return
        noises = {i: noise for i, link in enumerate(self.links) if (noise := link.noise(self.plan)) is not None}
        for i, noise in noises.items():
            if noise.where == "gradient" or isinstance(self.links[i], Aggregator):
                raise StackError(
                    f"{self._named(i)} adds noise that does not depend on the cohort, so simulates="
                    f"({self.plan.simulates}) has no meaning for it; leave one of them out"
                )
        if not noises:
            raise StackError(
                f"simulates=({self.plan.simulates}) scales the noise on a sum down, and no defense here adds any; add "
                "central_dp, or leave it out"
            )

    def objections(self) -> list[str]:
        """Why no epsilon can be justified for this line, whatever its defenses claim; empty if nothing does."""
        found = []
        for i, link in enumerate(self.links):
            if isinstance(link, Aggregator):
                continue
            covered = any(c.covers_tally for c in link.claims(self.plan, self.contribution))
            if link.tallies(self.plan) and not covered:
                found.append(
                    f"{self._named(i)} sums tallies beside the updates, which no claim covers; noise them, and claim "
                    "it (Claim.covers_tally)"
                )
            if link.initial_state(self.plan) == ():
                continue
            after_noise = any(i < j for j in self._noising) and not link.tallies(self.plan)
            if not (after_noise or covered):
                found.append(
                    f"{self._named(i)} carries a state from round to round that is computed from unprotected tallies "
                    "or sums; noise them, and claim it (Claim.covers_tally)"
                )
        return found

    def claims(self) -> list[Claim]:
        """The defenses' claims, as far as they hold on this line; `refusals` says why the others do not."""
        return [claim for claim, why in self._weighed() if not why]

    def refusals(self) -> list[str]:
        """Why claims do not hold on this line."""
        return [why for _, why in self._weighed() if why]

    def _weighed(self) -> list[tuple[Claim, str]]:
        found = []
        for i, link in enumerate(self.links):
            for claim in link.claims(self.plan, self.contribution):
                found.append((claim, self._unfounded(i, claim)))
        return found

    def _unfounded(self, i: int, claim: Claim) -> str:
        """Why link `i`'s claim does not hold here; empty where it does."""
        what = f"what {self._named(i)} claims against '{claim.against}' does not hold here: "
        passing = self._carries_past(i)
        if passing is not None:
            late = self._named(passing)
            return f"{what}{late} acts before it as well as after it, and may carry unprotected data past it"
        if claim.unit != "client" and self.acts(Station.DATA, Station.BATCH):
            early = self._named((self.at(Station.DATA) + self.at(Station.BATCH))[0])
            return (
                f"{what}{early} acts on examples before their gradients are clipped, and may put several of "
                "them into one"
            )
        made_up = self._unnoised(i, claim)
        if made_up:
            return what + made_up
        aborting = self.protocol is not None and self.protocol.least_clients > 1
        counted = claim.against == "released" and claim.relation == "add_or_remove_one"
        if aborting and counted and not self.plan.sampling.equal_cohorts:
            return f"{what}whether a round is aborted depends on how many clients took part; use cohorts of one size"
        if claim.about_sum:
            later = [j for s in (Station.UPDATE, Station.ENCODE) for j in self.at(s) if j > i]
            if later:
                return f"{what}it is about the sum of the messages, and {self._named(later[0])} changes them first"
            if self.aggregator is not None and self._sender is not None and self._sender != i:
                return f"{what}it is about a sum, and {self._named(self._sender)} releases something else"
            if claim.against == "server" and (self.protocol is None or not self.protocol.hides_everything):
                return f"{what}no secure sum hides the messages from the server; add one, such as secagg"
            if self.plan.on_nonfinite == "drop":
                return f"{what}it counts on every client's noise, but on_nonfinite='drop' leaves clients out"
        if claim.sensitivity is not None:
            moved = self.contribution.l2
            if moved is None:
                return f"{what}nothing bounds one client's contribution to the sum"
            moved *= 2 if claim.relation == "replace_one" else 1
            if claim.sensitivity < moved * (1 - 1e-9):
                return (
                    f"{what}it is computed for a sensitivity of {claim.sensitivity:.6g}, but one client can move the "
                    f"sum by {moved:.9g}"
                )
        return ""

    def _carries_past(self, i: int) -> int | None:
        """A link after `i` on a client's way that also acts before it, and could keep what it saw there."""
        early = (Station.DATA, Station.BATCH, Station.GRADIENT)
        noises = self.links[i].noise(self.plan)
        if noises is None or noises.where not in ("gradient", "update"):
            return None
        for j in range(i + 1, len(self.links)):
            link = self.links[j]
            if any(link.acts_at(s) for s in early) and any(link.acts_at(s) for s in (Station.UPDATE, Station.ENCODE)):
                return j
        return None

    def _unnoised(self, i: int, claim: Claim) -> str:
        """Why the noise that link `i` declares does not make its claim true; empty where it may."""
        link = self.links[i]
        if isinstance(link, Aggregator):
            return ""  # its noise is TFF's own
        noise = link.noise(self.plan)
        if noise is None:
            return "it declares no noise(plan)"
        event = claim.event
        if not isinstance(event, dp_accounting.GaussianDpEvent) or claim.sensitivity is None or noise.scale is None:
            return ""
        # What is added, as the federation that is accounted for would add it.
        scale = noise.scale / self.plan.noise_factor
        most = scale / claim.sensitivity if claim.sensitivity else math.inf
        if event.noise_multiplier > most * (1 + 1e-9):
            return (
                f"it claims a noise multiplier of {event.noise_multiplier:.6g}, but noise of {scale:.6g} over a "
                f"sensitivity of {claim.sensitivity:.6g} is {most:.6g}"
            )
        return ""

    def notes(self) -> list[str]:
        """What users should know of the links in this federation, each with the link's name."""
        pairs = zip(self.labels, self.links, strict=True)
        said = [f"defense '{label}': {note}" for label, link in pairs for note in link.notes(self.plan)]
        hiding = [i for i, d in enumerate(self.links) if d.mixture() is not None or d.transformation() is not None]
        if len(hiding) > 1:
            names = [_name(self.links[i]) for i in hiding]
            undone = [f"'{self.links[i].adaptive_attack}' undoes {n} alone" for i, n in zip(hiding, names, strict=True)]
            said.append(
                f"defense '{names[-1]}': no attack here undoes {' and '.join(names)} together: {' and '.join(undone)}"
            )
        return said

    def describe(self) -> str:
        """The line's defenses in the order the data passes them."""
        return " -> ".join(map(_name, self.defenses)) or "no defense"


def _name(defense: Defense) -> str:
    return defense.name or type(defense).__name__
