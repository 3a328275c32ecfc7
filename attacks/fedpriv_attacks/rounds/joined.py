"""Joined: one attack on several views, and its findings, each about other clients, as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fedpriv.base.errors import CapabilityError, DivergenceError, ModelError
from fedpriv.base.seeds import Purpose, integer_seed
from fedpriv.threat.attack import Attack, Finding
from fedpriv.threat.view import View


def attack_each(inner: Attack, views: Sequence[View], seed: int, found: str) -> tuple[list[Finding], list[str]]:
    """What `inner` finds in each view, and what it says of those that it does not apply to.

    Args:
      inner: the attack.
      views: of one update each.
      seed: of the whole; each view gets one of its own.
      found: who has these updates and how, such as "'sum_difference' isolated".

    Raises:
      CapabilityError: there are views, and it applies to none.
    """
    findings, refused = list[Finding](), list[str]()
    for k, view in enumerate(views):
        try:
            findings.append(inner.run(view, integer_seed(seed, Purpose.ATTACK, k)))
        except (CapabilityError, ModelError, DivergenceError) as e:
            refused.append(str(e))
    if refused and not findings:
        raise CapabilityError(
            f"attack '{inner.name}' applies to none of the {len(views)} updates that {found}: {refused[0]}"
        )
    return findings, refused


def joined(findings: Sequence[Finding], shape: tuple[int, ...], began_seconds: float, **more: Any) -> Finding:
    """The examples and labels of all findings, one after the other; those where one claims nothing are left out.

    Args:
      findings: of one attack, on one view each.
      shape: of an example.
      began_seconds: seconds since the whole began.
      more: other fields of the finding.
    """
    claims = [c for f in findings if (c := _claimed(f)).y is not None or c.x is None or len(c.x)]
    nothing = Finding(np.zeros((0, *shape), np.float32), np.zeros(0, np.int32))
    xs, ys = ([a for f in [nothing, *claims] if (a := getattr(f, part)) is not None] for part in ("x", "y"))
    pictured, labelled = (len(some) > len(claims) for some in (xs, ys))
    compiled = sum(f.compile_seconds for f in findings)
    return Finding(
        x=np.concatenate(xs) if pictured else None,
        y=np.concatenate([np.zeros(0, np.int32), *(y for y in ys if y is not None)]) if labelled else None,
        objective=float(np.mean([f.objective for f in findings])) if findings else float("nan"),
        evaluations=sum(f.evaluations for f in findings),
        seconds=max(sum(f.seconds for f in findings), began_seconds - compiled),
        compile_seconds=compiled,
        restarts=max([1, *(f.restarts for f in findings)]),
        **more,
    )


def _claimed(finding: Finding) -> Finding:
    """A finding without the rows where it claims nothing, so that several can be put one after the other."""
    if finding.x is None:
        return finding
    rows = np.isfinite(finding.x).all(tuple(range(1, finding.x.ndim)))
    labels = finding.y
    if labels is not None and len(labels) == len(rows):
        labels = labels[rows]
    if labels is not None and len(labels) != rows.sum():
        labels = None
    return replace(finding, x=finding.x[rows], y=labels)
