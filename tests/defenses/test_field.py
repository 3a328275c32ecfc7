"""Exact arithmetic modulo Mersenne primes against Python's own integers."""

import fedpriv_defenses.secure_sum.field as field_module
import numpy as np
import pytest
import threadpoolctl
from fedpriv_defenses.secure_sum.field import PrimeField
from scipy import stats

FIELDS = [PrimeField(31), PrimeField(61)]


def some(field, *shape, seed=0):
    drawn = np.random.default_rng(seed).integers(0, field.p, shape, dtype=np.uint64)
    drawn.reshape(-1)[: min(4, drawn.size)] = [0, 1, field.p - 1, field.p - 2][: min(4, drawn.size)]
    return drawn


def exact(values):
    return values.astype(object)


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: f"p{f.exponent}")
def test_every_operation_is_that_of_the_integers_modulo_p(field):
    a, b = some(field, 500, seed=1), some(field, 500, seed=2)[::-1]
    p = field.p
    assert (exact(field.add(a, b)) == (exact(a) + exact(b)) % p).all()
    assert (exact(field.subtract(a, b)) == (exact(a) - exact(b)) % p).all()
    assert (exact(field.multiply(a, b)) == exact(a) * exact(b) % p).all()
    units = np.where(a == 0, np.uint64(7), a)
    assert (field.multiply(units, field.inverse(units)) == 1).all()
    wide = np.random.default_rng(3).integers(0, 2**64, 500, dtype=np.uint64)
    wide[:2] = [2**64 - 1, p]
    assert (exact(field.reduce(wide)) == exact(wide) % p).all()
    with pytest.raises(ZeroDivisionError, match="0 has no inverse"):
        field.inverse(a)
    for count in range(10):
        few = units[1 : 1 + count]
        assert (field.multiply(few, field.inverse(few)) == 1).all()
        rows = a[: 3 * count].reshape(count, 3)
        assert (exact(field.product(rows)) == np.multiply.reduce(exact(rows), 0) % p).all()
    assert field.inverse(units.reshape(20, 25)).shape == (20, 25)


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: f"p{f.exponent}")
@pytest.mark.parametrize("inner", [0, 1, 51, 240, 3000])
def test_matrix_products_are_exact_at_their_worst(field, inner):
    for a, b in [
        (some(field, 3, inner), some(field, inner, 5, seed=1)),
        (np.full((2, inner), field.p - 1, np.uint64), np.full((inner, 2), field.p - 1, np.uint64)),
        (np.full((2, inner), 0x7FFF8000, np.uint64), np.full((inner, 2), 0, np.uint64)),  # the lowest signed limbs
        (np.full((2, inner), 0x7FFF7FFF, np.uint64), np.full((inner, 2), field.p - 1, np.uint64)),  # and the highest
    ]:
        assert (exact(field.matmul(a, b)) == exact(a) @ exact(b) % field.p).all()


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: f"p{f.exponent}")
def test_wide_products_on_several_threads_are_exact_and_leave_blas_as_it_was(field, monkeypatch):
    monkeypatch.setattr(field_module, "_cores", lambda: 3)
    before = [lib["num_threads"] for lib in threadpoolctl.threadpool_info()]
    a, b = some(field, 30, 250), some(field, 250, 4 * 1024 + 77, seed=1)
    assert a.size * b.shape[1] > field_module._WORTH_THREADS
    found = field.matmul(a, b)
    picked = [0, 1023, 1024, 2048, 3071, 3072, 4095, 4096, -1]
    assert (exact(found[:, picked]) == exact(a) @ exact(b[:, picked]) % field.p).all()
    monkeypatch.setattr(field_module, "_cores", lambda: 1)
    assert np.array_equal(field.matmul(a, b), found)
    assert [lib["num_threads"] for lib in threadpoolctl.threadpool_info()] == before


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: f"p{f.exponent}")
@pytest.mark.parametrize("rows", [0, 1, 7, 8, 50])
def test_sums_of_rows_are_exact_in_the_type_they_are_kept_in(field, rows):
    values = np.full((rows, 3), field.p - 1, f"<u{field.width}")
    values[:, 1] = some(field, rows)
    assert (exact(field.total(values)) == exact(values).sum(0) % field.p).all()


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: f"p{f.exponent}")
@pytest.mark.parametrize("bits", [8, 20, 30])
def test_ring_elements_become_the_signed_integers_they_stand_for(field, bits):
    signed = np.array([0, 1, -1, 2 ** (bits - 1) - 1, -(2 ** (bits - 1))])
    ring = (signed % 2**bits).astype(np.uint64)
    embedded = field.embed(ring, bits)
    assert (exact(embedded) == exact(signed) % field.p).all()
    assert (field.to_ring(embedded, bits) == ring).all()
    total = field.add(embedded, field.add(embedded, embedded))
    if bits < field.exponent - 1:  # three of them fit
        assert (exact(field.to_ring(total, bits)) == 3 * exact(signed) % 2**bits).all()


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: f"p{f.exponent}")
def test_drawn_elements_are_uniform_and_a_key_stands_for_the_same_ones(field):
    drawn = field.uniform(40_000)
    assert stats.kstest(drawn / field.p, "uniform").pvalue > 1e-6
    lowest = np.bincount((drawn & np.uint64(15)).astype(int), minlength=16)
    assert stats.chisquare(lowest).pvalue > 1e-6
    assert not np.array_equal(drawn, field.uniform(40_000))
    key = bytes(range(32))
    assert np.array_equal(field.expand(key, 100)[:60], field.expand(key, 60))


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: f"p{f.exponent}")
def test_messages_hold_elements_or_are_none(field):
    a = some(field, 9)
    assert np.array_equal(field.unpack(field.pack(a)), a)
    assert field.unpack(field.pack(a)[:-1]) is None
    assert field.unpack(field.p.to_bytes(field.width, "little")) is None


def test_other_fields_are_refused():
    with pytest.raises(ValueError, match="exponent=32"):
        PrimeField(32)
