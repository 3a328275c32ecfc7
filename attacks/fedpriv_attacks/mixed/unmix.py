"""Unmix: mixtures of a client's images reconstructed round by round, and told apart together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import AfterValidator, Field

from fedpriv.base.errors import CapabilityError
from fedpriv.base.seeds import Purpose, integer_seed
from fedpriv.data.loading import load
from fedpriv.defense.mixture import Mixture
from fedpriv.threat.attack import Attack, Capability, Finding
from fedpriv.threat.dossier import Dossier
from fedpriv.threat.knowledge import Auxiliary, Knowledge
from fedpriv.threat.view import View
from fedpriv_attacks.inversion.inversion import by_optimization
from fedpriv_attacks.labels.inference import Joint
from fedpriv_attacks.mixed.decoding import Decoded, Public, check_count, decode, moments
from fedpriv_attacks.mixed.signs import Look, darker_border, look_of, signed, smooth
from fedpriv_attacks.modern import AttackPart
from fedpriv_attacks.rounds.joined import attack_each

#: Objective below which no mixtures are told to be better, in double precision.
_EXACT = 1e-14
#: Auxiliary images that signs are told by, from the first on.
_MOST_IMAGES = 2000


def _inner(value: Attack) -> Attack:
    matching = by_optimization(value, "dlg or inversion(objective=cosine)")
    if not isinstance(matching.labels, Joint):
        raise ValueError(
            f"labels={matching.labels.describe()} finds one class an image, and mixtures have several; use labels=joint"
        )
    return value


class Unmix(Attack):
    """Undoes MixUp and InstaHide: inverts each round to its mixtures, then solves for the images in all of them.

    Every round another attack finds the batch that was trained on: mixtures, with the shares of their classes. The
    shares are the coefficients, so that many mixtures of the same images are a linear system in them. For MixUp n
    mixtures of n images suffice, which one round may give. Where signs were drawn (InstaHide) squares are what is
    linear, in n (n + 1) / 2 products a pixel, so it takes that many mixtures: (n + 1) / 2 rounds of n, if inversion is
    exact. Images of one class are told apart by clustering mixtures, which takes more. The steps from encodings to
    images follow Carlini et al. 2021, "Is Private Learning Possible with Instance Encoding?", arXiv 2011.05315 (which
    encodings share an image, then a system without signs), for encodings that come with their labels; that gradients
    give encodings away is shown by Huang et al. 2021, arXiv 2112.00059.

    What random signs leave open is one sign a pixel, alike for all images. It is chosen so that images look like the
    auxiliary data that the adversary holds (a normal distribution of them), or without any so that neighbours are alike
    and borders dark; that is a guess, and wrong where the images are not like that. Mixtures with public images are
    solved in the mean over these, which takes hundreds.

    What it assumes: the adversary knows the defense; a client holds the same examples in all rounds, takes all of them
    in one local step a round, and connects under its name. Rounds weigh by the inverse of the inner attack's objective,
    so it fails where that matches none of them exactly, as in large batches and on ReLU networks. It refuses fewer
    mixtures than it needs, and images that are all of one class. `measures`: `encodings`, how many mixtures were used
    of a client (the median), and `residual`, how badly they are explained.
    """

    name: ClassVar[str] = "unmix"
    paper: ClassVar[str] = "Carlini et al. 2021, arXiv 2011.05315; Huang et al. 2021, arXiv 2112.00059"
    needs: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.REAL_UPDATE,
            Capability.NUM_EXAMPLES,
            Capability.SINGLE_CLIENT,
            Capability.SINGLE_STEP,
            Capability.SOFTMAX,
        }
    )

    inner: Annotated[AttackPart, AfterValidator(_inner)] = Field(
        default="dlg(restarts=16,tolerance=1e-11)",  # type: ignore[assignment]
        description="the optimization attack that finds a round's mixtures, with `labels=joint`, such as `dlg`; give "
        "it starts enough to reach an exact match in some rounds.",
        validate_default=True,
    )
    restarts: Annotated[int, Field(ge=1)] = Field(
        default=100, description="random assignments of mixtures to images, where several images have one class."
    )

    def requirements(self) -> frozenset[Capability]:
        """The inner attack's too."""
        return self.needs | self.inner.requirements()

    def brings(self) -> tuple[Knowledge, ...]:
        """What the inner attack brings in."""
        return self.inner.brings()

    def attack_dossier(self, dossier: Dossier, seed: int) -> Finding:
        """The images of each client, in the order it was first seen.

        Raises:
          CapabilityError: no mixing is known, updates cannot be told apart by client, mixtures are too few or their
            signs cannot be told.
        """
        began = time.perf_counter()
        mixture = known_mixture(dossier.pages[0])
        findings, decoded = list[Finding](), list[Decoded]()
        clients = _by_client(dossier)
        for pages in clients:
            check_count(len(pages) * pages[0].total_examples, pages[0].total_examples, mixture)
        for k, pages in enumerate(clients):
            own = integer_seed(seed, Purpose.ATTACK, k)
            found, _ = attack_each(self.inner, pages, own, "mix the images of one client")
            findings += found
            decoded.append(self._decoded(found, pages[0], mixture, own))
        kind, shape = dossier.pages[0].data_kind, dossier.pages[0].model.input_shape
        x = np.concatenate([d.x for d in decoded]).reshape(-1, *shape)
        compiled = sum(f.compile_seconds for f in findings)
        extra: dict[str, Any] = {
            "mixtures": np.stack([f.x for f in findings if f.x is not None]),
            "shares": np.stack([f.extra["label_probabilities"] for f in findings]),
        }
        return Finding(
            x=kind.settle(x).astype(np.float32),
            y=np.concatenate([d.y for d in decoded]),
            objective=float(np.mean([d.residual for d in decoded])),
            evaluations=sum(f.evaluations for f in findings),
            seconds=time.perf_counter() - began - compiled,
            compile_seconds=compiled,
            restarts=max(f.restarts for f in findings),
            measures={
                "encodings": float(np.median([d.encodings for d in decoded])),
                "residual": float(np.median([d.residual for d in decoded])),
            },
            extra=extra,
        )

    def _decoded(self, found: Sequence[Finding], page: View, mixture: Mixture, seed: int) -> Decoded:
        middle = mixture.middle if mixture.flips else 0.0
        encodings = np.concatenate([np.asarray(f.x, np.float64) for f in found]) - middle
        encodings = encodings.reshape(len(encodings), -1)
        shares = np.concatenate([f.extra["label_probabilities"] for f in found])
        n = page.total_examples
        look, public = self._prior(page, mixture) if mixture.flips else (None, None)
        # A match's error is about the square of its examples'; a round whose start was stuck has a far larger one.
        trust = np.repeat([1 / max(f.objective, f.extra["noise_floor"], _EXACT) for f in found], n)
        out = decode(encodings, shares, n, mixture, seed, page.labels, public, self.restarts, trust)
        if look is None:
            return out
        shift = 0.0 if public is None else public.shift
        x = signed(out.x, out.y, look, shift)
        if not look.directed:
            x = darker_border(x, page.model.input_shape)
        return Decoded(x - shift + middle, out.y, out.residual, out.encodings)

    def _prior(self, page: View, mixture: Mixture) -> tuple[Look, Public | None]:
        """What the images look like, and what public images add to them."""
        public = None
        if mixture.data is not None:
            train, _ = load(mixture.data)
            mixed_in = _flat(train.floats(np.arange(min(mixture.pool, len(train)))), mixture)
            public = moments(mixture, mixed_in)
        held = page.adversary.held(Auxiliary)
        if held:
            x, y = held[0].load(page.model)
            return look_of(_flat(x[:_MOST_IMAGES], mixture), y[:_MOST_IMAGES], page.model.num_classes), public
        if mixture.data is not None:
            return look_of(mixed_in[:_MOST_IMAGES]), public
        return smooth(tuple(page.model.input_shape)), public


def _flat(x: np.ndarray, mixture: Mixture) -> np.ndarray:
    """Examples as rows `[m, p]` about the middle of the range."""
    return x.reshape(len(x), -1).astype(np.float64) - mixture.middle


def known_mixture(view: View) -> Mixture:
    """How the batches behind a view were mixed.

    Raises:
      CapabilityError: the adversary knows no defense that mixes.
    """
    found = [m for d in view.defenses for part in d.parts() if (m := part.mixture()) is not None]
    if not found:
        raise CapabilityError(
            "attack 'unmix' undoes mixing that it knows, and knows of none here; give it a run with mixup or instahide "
            f"and an adversary that knows 'defense', or use its inner attack alone; {view.describe()}"
        )
    return found[0]


def _by_client(dossier: Dossier) -> list[tuple[View, ...]]:
    if len(dossier.pages) == 1:
        return [dossier.pages]
    if any(page.pseudonym is None for page in dossier.pages):
        raise CapabilityError(
            "attack 'unmix' needs to know which updates are of the same client, which this does not tell: "
            f"{dossier.describe()} Let the adversary be a server whose clients connect under their names"
        )
    return [dossier.by(name) for name in dossier.pseudonyms]
