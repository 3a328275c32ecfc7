"""Rounds of encrypted sums, for the tests of both schemes."""

import numpy as np

from fedpriv.defense.parties import Party
from fedpriv.defense.stations import Plan

KEY_HOLDER = Party("key_holder")


def plan_of(cohort, n=3):
    return Plan.everybody(cohort, n - 1)


def limit(protocol, clients):
    return (2 ** (protocol.bits - 1) - 1) // clients


def random_vectors(protocol, clients, n, seed=0):
    """Contributions that keep the room for the cohort, signed; the first column and row at its ends."""
    top = limit(protocol, clients)
    signed = np.random.default_rng(seed).integers(-top, top + 1, (clients, n))
    signed[:, 0], signed[0] = top, -top
    return signed


def ring(protocol, signed):
    return np.asarray(signed, np.int64).view(np.uint64) & np.uint64(2**protocol.bits - 1)


def run(protocol, signed, attrition=None, round=0, sends=None, **options):
    """A round of contributions int64 `[m, n]`; (session, outcome)."""
    m, n = signed.shape
    session = protocol.open(plan_of(m, n), range(m), round=round, seed=0, attrition=attrition, **options)
    for client in session.begin():
        if sends is None or client in sends:
            session.submit(client, ring(protocol, signed[client]))
    return session, session.finish()
