"""Tables: the settings in which the suite is measured, each a list of arms."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from fedpriv_experiments.gradient_inversion.arm import Arm

LENET = "lenet(init=uniform)"
IG = "inverting_gradients(optimizer.steps=3000,priors.total_variation.weight=0.01)"
L1 = (
    "inverting_gradients(objective=l1,optimizer=adam(steps=3000,learning_rate=0.05,decay=cosine),"
    "priors.total_variation.weight=0.01)"
)


@dataclass(frozen=True)
class Table:
    """Arms that are read together.

    Attributes:
      title: one line.
      question: what it answers.
      arms: in order; given the images to use for colour pictures, a dataset's name or path.
      quick: how many images an arm has in a quick look.
    """

    title: str
    question: str
    arms: Callable[[str], list[Arm]]
    quick: int = 2

    def made(self, colour: str, quick: bool) -> list[Arm]:
        """The arms; few images and evaluations for a quick look."""
        arms = self.arms(colour)
        return [_quick(a, self.quick) for a in arms] if quick else arms


def _quick(arm: Arm, images: int) -> Arm:
    group = arm.batch * arm.cohort
    attack = re.sub(r"\bsteps=\d+", "steps=300", arm.attack)
    return replace(arm, attack=attack, images=max(1, images // group) * group, rounds=min(arm.rounds, 2))


def _published(colour: str) -> list[Arm]:
    lenet: dict[str, Any] = {"data": colour, "model": LENET, "images": 20}
    return [
        Arm("DLG", "dlg(path=true)", **lenet),
        Arm("iDLG", "idlg(path=true)", **lenet),
        Arm("DLG as published", "dlg(initializer=normal(mean=0,spread=1),coordinates=pixels,path=true)", **lenet),
        Arm("Inverting Gradients", "inverting_gradients(optimizer.steps=24000,path=true)", **lenet),
        Arm("CPL", "cpl(path=true)", **lenet),
        Arm("class representatives", "class_representatives(path=true)", **lenet),
        Arm("R-GAP", "rgap", **lenet),
        Arm("modern", "modern", **lenet),
    ]


def _networks(colour: str) -> list[Arm]:
    arms = []
    for model, short, images, stages in (
        ("convnet", "ConvNet", 4, (0, 20)),
        ("resnet20", "ResNet-20", 2, (0, 20)),
        # Without normalization that means anything, it does not train at this rate.
        ("resnet20(norm=batch_eval)", "ResNet-20, frozen batch norm", 2, (0,)),
    ):
        for rounds in stages:
            stage = "untrained" if rounds == 0 else f"{rounds} rounds"
            arms += [
                Arm(f"{short}, {stage}, {attack}", text, "fashion_small", model, images=images, rounds=rounds)
                for attack, text in (
                    ("DLG", "dlg(labels=auto,restarts=1,optimizer.max_evaluations=1500)"),
                    ("Inverting Gradients", IG),
                    ("modern", "modern"),
                )
            ]
    return arms


def _batches(colour: str) -> list[Arm]:
    return [
        Arm(f"{name}, batch {b}", text, colour, LENET, images=16, batch=b)
        for b in (1, 2, 4, 8)
        for name, text in (
            ("DLG, labels optimized", "dlg(restarts=2)"),
            ("DLG, labels inferred", "dlg(labels=auto,restarts=2)"),
            ("modern", "modern"),
        )
    ]


def _fedavg(colour: str) -> list[Arm]:
    lenet: dict[str, Any] = {"data": colour, "model": LENET, "images": 16, "batch": 4, "steps": 5, "rate": 0.01}
    convnet: dict[str, Any] = {
        "data": "fashion_small",
        "model": "convnet(width=8)",
        "images": 8,
        "batch": 4,
        "steps": 5,
        "rate": 0.01,
    }
    dlg = "dlg(restarts=1{})"
    absolute = L1.removesuffix(")") + "{})"
    tied = ",replay=epochs,priors=[epoch_consistency(weight=0.01)]"
    replays = (("exact replay", ""), ("as one gradient", ",replay=one_gradient"), ("SME", ",replay=surrogate"))
    return [
        *(Arm(f"LeNet, 5 full-batch steps, DLG, {name}", dlg.format(part), **lenet) for name, part in replays),
        Arm("LeNet, 5 full-batch steps, modern", "modern", **lenet),
        *(
            Arm(f"LeNet, 5 epochs of 2 batches, DLG, {name}", dlg.format(part), local_batch=2, **lenet)
            for name, part in (("replay in another order", ""), *replays[1:], ("DLF's epochs", tied))
        ),
        *(
            Arm(f"ConvNet, 5 full-batch steps, absolute distance, {name}", absolute.format(part), **convnet)
            for name, part in replays
        ),
    ]


def _sums(colour: str) -> list[Arm]:
    common: dict[str, Any] = {"data": colour, "model": LENET, "images": 20, "cohort": 5}
    secure = ("secret_sharing(aggregators=3)",)
    return [
        Arm("sum of 5, DLG, labels optimized", "dlg(restarts=2)", defenses=secure, **common),
        Arm("sum of 5, DLG, labels inferred", "dlg(labels=auto,restarts=2)", defenses=secure, **common),
        Arm("sum of 5, Inverting Gradients", IG, defenses=secure, **common),
        Arm("sum of 5, modern", "modern", defenses=secure, **common),
    ]


def _stages(colour: str) -> list[Arm]:
    dlg = "dlg(labels=auto,restarts=1,optimizer.max_evaluations=1500)"
    return [
        Arm(f"{name}, {rounds} rounds", text, "fashion_small", model, images=8, rounds=rounds)
        for model, attacks in (
            (LENET, (("LeNet, DLG", "dlg(labels=auto,restarts=2)"), ("LeNet, Inverting Gradients", IG))),
            (
                "convnet",
                (
                    ("ConvNet, DLG", dlg),
                    ("ConvNet, Inverting Gradients", IG),
                    ("ConvNet, absolute distance", L1),
                ),
            ),
        )
        for name, text in attacks
        for rounds in (0, 1, 5, 20)
    ]


TABLES = {
    "published": Table(
        "The DLG paper's LeNet, one image, labels unknown",
        "How well, how fast and at how many gradient evaluations does each attack do on the setting most papers share?",
        _published,
    ),
    "networks": Table(
        "ConvNet and ResNet-20, one image", "What is left on ReLU networks, before and after training?", _networks, 1
    ),
    "batches": Table("Batches of 1, 2, 4 and 8", "How does leakage fall with the batch?", _batches, 8),
    "fedavg": Table("FedAvg: four images, five local epochs", "What does replaying the local steps gain?", _fedavg, 4),
    "sums": Table("Secure sums of five clients, one image each", "What does a small cohort's sum hide?", _sums, 5),
    "stages": Table("The training stage", "Does leakage fall as training goes on?", _stages, 2),
}
