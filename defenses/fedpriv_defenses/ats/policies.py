"""Policies: which transforms follow each other, by the numbers of Gao et al. 2021's library."""

from __future__ import annotations

from fedpriv_defenses.ats.transforms import Transform

#: The library of Gao et al. 2021 (arXiv 2011.12505), in their order: a policy names its transforms by place, from 0.
#: AutoAugment's probabilities play no part in their work and are left out.
LIBRARY: tuple[Transform, ...] = tuple(
    Transform(name, level)
    for name, level in (
        *(("invert", 7), ("contrast", 6), ("rotate", 2), ("translate_x", 9), ("sharpness", 1)),
        *(("sharpness", 3), ("shear_y", 2), ("translate_y", 2), ("autocontrast", 5), ("equalize", 2)),
        *(("shear_y", 5), ("posterize", 5), ("color", 3), ("brightness", 5), ("sharpness", 9)),
        *(("brightness", 9), ("equalize", 5), ("equalize", 1), ("contrast", 7), ("sharpness", 5)),
        *(("color", 5), ("translate_x", 5), ("equalize", 7), ("autocontrast", 8), ("translate_y", 3)),
        *(("sharpness", 6), ("brightness", 6), ("color", 8), ("solarize", 0), ("invert", 0)),
        *(("equalize", 0), ("autocontrast", 0), ("equalize", 8), ("equalize", 4), ("color", 5)),
        *(("equalize", 5), ("autocontrast", 4), ("solarize", 4), ("brightness", 3), ("color", 0)),
        *(("solarize", 1), ("autocontrast", 0), ("translate_y", 3), ("translate_y", 3), ("autocontrast", 1)),
        *(("solarize", 1), ("equalize", 5), ("invert", 0), ("translate_y", 3), ("autocontrast", 1)),
    )
)
#: The most transforms of one policy.
LONGEST = 3
#: What the paper searched out, by data and network: two policies, and both at random as its hybrid.
PUBLISHED = {
    "cifar100_resnet": "3-1-7+43-18-18",
    "cifar100_convnet": "21-13-3+7-4-15",
    "fashion_resnet": "19-15-45+2-43-21",
    "fashion_convnet": "42-28-42+14-48-48",
}

#: Places in the library.
Policy = tuple[int, ...]


def parse(text: str) -> tuple[Policy, ...]:
    """`3-1-7` is one policy, `3-1-7+43-18-18` two, of which each image gets one at random; or a name of `PUBLISHED`.

    Raises:
      ValueError: no numbers of the library, or more than three.
    """
    found = []
    for one in PUBLISHED.get(text, text).split("+"):
        places = one.strip().split("-")
        if not all(place.strip().isdecimal() and int(place) < len(LIBRARY) for place in places):
            raise ValueError(
                f"policy '{one}' is no list of transforms: give 1 to {LONGEST} numbers from 0 to {len(LIBRARY) - 1} "
                f"such as 3-1-7, several policies as 3-1-7+43-18-18, or one of {', '.join(PUBLISHED)}"
            )
        if len(places) > LONGEST:
            raise ValueError(f"policy '{one}' has {len(places)} transforms; give at most {LONGEST}")
        found.append(tuple(int(place) for place in places))
    return tuple(found)


def written(policies: tuple[Policy, ...]) -> str:
    """The inverse of `parse`."""
    return "+".join("-".join(map(str, policy)) for policy in policies)


def describe(policy: Policy) -> str:
    """Its transforms in words."""
    return ", ".join(LIBRARY[place].describe() for place in policy)
