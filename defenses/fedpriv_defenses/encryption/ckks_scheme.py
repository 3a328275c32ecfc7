"""CkksScheme: integers in the slots of CKKS ciphertexts, by TenSEAL (Benaissa et al. 2021, arXiv 2104.03152)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from fedpriv.base.errors import MessageError
from fedpriv_defenses.encryption.ckks_parameters import CkksParameters
from fedpriv_defenses.encryption.extra import library
from fedpriv_defenses.encryption.scheme import (
    CHECK_BITS,
    TAG_BITS,
    Block,
    PublicKey,
    Scheme,
    SecretKey,
    garbled,
)


class Slots:
    """What lies in which slot: elements, then the digits of tag and check; the rest is 0.

    Args:
      parameters: of the scheme.
    """

    def __init__(self, parameters: CkksParameters) -> None:
        self.parameters = parameters
        #: Bits of a digit: so many that the sum of a cohort's digits has the room that the sum of elements has.
        self.digit = (parameters.room.limit + 1).bit_length() - 1
        self.tag, self.check = (-(-bits // self.digit) for bits in (TAG_BITS, CHECK_BITS))
        self.elements = parameters.slots - self.tag - self.check

    def fill(self, block: Block) -> np.ndarray:
        """A block as float64 `[slots]`."""
        slots = np.zeros(self.parameters.slots)
        slots[: len(block.elements)] = block.elements
        slots[self.elements :] = [*self._digits(block.tag, self.tag), *self._digits(block.check, self.check)]
        return slots

    def empty(self, slots: np.ndarray, elements: int, clients: int) -> Block:
        """A sum of so many blocks from rounded slots.

        Raises:
          MessageError: values that no sum of blocks has.
        """
        values, unused, digits = np.split(slots, [elements, self.elements])
        top = clients * ((1 << self.digit) - 1)
        if np.abs(values).max(initial=0) > self.parameters.room.largest:
            raise garbled("is beyond the room for the cohort")
        if unused.any() or digits.min() < 0 or digits.max() > top:
            raise garbled("has values that no contribution has")
        tag, check = (self._number(d) for d in (digits[: self.tag], digits[self.tag :]))
        return Block(values.astype(np.int64), tag, check)

    def _digits(self, number: int, count: int) -> list[int]:
        mask = (1 << self.digit) - 1
        return [(number >> (i * self.digit)) & mask for i in range(count)]

    def _number(self, digits: Iterable[float]) -> int:
        return sum(int(d) << (i * self.digit) for i, d in enumerate(digits))


class CkksPublicKey(PublicKey):
    """A TenSEAL context without its secret key."""

    def __init__(self, message: bytes, context: Any, parameters: CkksParameters) -> None:
        self.message, self.context, self._parameters = message, context, parameters
        self._slots = Slots(parameters)
        self.elements = self._slots.elements
        self._tenseal = library("tenseal", "ckks")

    def encrypt(self, block: Block) -> bytes:
        """See PublicKey."""
        values = self._slots.fill(block).tolist()
        return bytes(self._tenseal.ckks_vector(self.context, values, scale=self._parameters.scale).serialize())

    def read(self, ciphertext: bytes) -> Any:
        """See PublicKey. SEAL checks that polynomials are of these parameters and coefficients below the moduli."""
        return read(self.context, ciphertext, self._parameters)

    def add(self, total: Any, other: Any) -> Any:
        """See PublicKey."""
        return total.add_(other)

    def write(self, total: Any) -> bytes:
        """See PublicKey."""
        return bytes(total.serialize())


class CkksSecretKey(SecretKey):
    """A TenSEAL context with its secret key."""

    def __init__(self, context: Any, parameters: CkksParameters) -> None:
        self._context, self._parameters = context, parameters
        self._slots = Slots(parameters)
        message = _without_secret(context)
        self.public = CkksPublicKey(message, context.copy(), parameters)
        self.public.context.make_context_public()

    def decrypt(self, ciphertext: bytes, elements: int, clients: int) -> Block:
        """See SecretKey. Whatever is farther from an integer than noise can bring it is no sum of ciphertexts."""
        slots = np.asarray(read(self._context, ciphertext, self._parameters).decrypt(), np.float64)
        whole = np.rint(slots)
        if not np.isfinite(slots).all() or np.abs(slots - whole).max() > self._parameters.error:
            raise garbled("does not decrypt to integers")
        return self._slots.empty(whole, elements, clients)


class CkksScheme(Scheme):
    """CKKS with settings under which sums are exact.

    Args:
      parameters: the settings.
    """

    def __init__(self, parameters: CkksParameters) -> None:
        self.parameters = parameters
        self._tenseal = library("tenseal", "ckks")
        library("tenseal.sealapi", "ckks")  # its import teaches TenSEAL to hand out SEAL's own objects

    def generate(self) -> CkksSecretKey:
        """See Scheme; SEAL draws from the operating system."""
        p = self.parameters
        context = self._tenseal.context(
            self._tenseal.SCHEME_TYPE.CKKS, p.degree, coeff_mod_bit_sizes=list(p.moduli), n_threads=1
        )
        return CkksSecretKey(context, p)

    def public(self, message: bytes) -> CkksPublicKey:
        """See Scheme."""
        p = self.parameters
        try:
            context = self._tenseal.context_from(message, n_threads=1)
            secret = context.has_secret_key()
            made_for = context.seal_context().data.key_context_data().parms()
            moduli = tuple(modulus.bit_count() for modulus in made_for.coeff_modulus())
            fits = (made_for.poly_modulus_degree(), moduli) == (p.degree, p.moduli)
        except (ValueError, RuntimeError, IndexError, TypeError) as e:
            raise MessageError(f"a message holds no public key of CKKS ({_short(e)}); run the round again") from e
        if secret:
            raise MessageError("a public key of CKKS came with its secret key; run the round again with a new key")
        if not fits:
            raise MessageError(
                f"a public key of CKKS is for other parameters than ring degree {p.degree} with primes of "
                f"{p.moduli} bits; give all parties the same settings"
            )
        return CkksPublicKey(message, context, p)


def read(context: Any, ciphertext: bytes, parameters: CkksParameters) -> Any:
    """A TenSEAL vector from bytes.

    Raises:
      MessageError: there is none in them for these parameters.
    """
    try:
        vector = library("tenseal", "ckks").ckks_vector_from(context, ciphertext)
        fits = _fits(vector, parameters)
    except (ValueError, RuntimeError, IndexError, TypeError) as e:
        raise MessageError(
            f"a message holds no CKKS ciphertext ({_short(e)}); run the round again, without its sender"
        ) from e
    if not fits:
        raise MessageError(
            "a CKKS ciphertext is of other parameters or of another scale than the round's; run the round again, "
            "without its sender"
        )
    return vector


def _fits(vector: Any, parameters: CkksParameters) -> bool:
    """Whether it is one ciphertext of two polynomials with all slots in use, as `encrypt` makes it."""
    parts = vector.ciphertext()
    if len(parts) != 1 or vector.size() != parameters.slots:
        return False
    part = parts[0]
    shape = (part.size(), part.poly_modulus_degree(), part.coeff_modulus_size())
    wanted = (2, parameters.degree, len(parameters.moduli) - 1)
    return bool(shape == wanted and part.scale == parameters.scale and part.is_ntt_form())


def _without_secret(context: Any) -> bytes:
    return bytes(
        context.serialize(save_public_key=True, save_secret_key=False, save_galois_keys=False, save_relin_keys=False)
    )


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:80] if str(error) else type(error).__name__
