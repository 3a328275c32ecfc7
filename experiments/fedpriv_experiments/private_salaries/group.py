"""Group: who takes part, and what each earns."""

from __future__ import annotations

from dataclasses import dataclass

from fedpriv.base.errors import ParameterError

#: What a sum has room for, for each person.
LIMIT = 100_000
#: No salary is higher, so that there is room for a lie about one too.
MOST = 90_000


@dataclass(frozen=True)
class Person:
    """One of a group.

    Attributes:
      name: to be shown.
      salary: a month, in whole units of the currency.
    """

    name: str
    salary: int


#: Made up.
PEOPLE = (
    Person("Ada", 2900),
    Person("Bruno", 4150),
    Person("Chen", 3400),
    Person("Dana", 5200),
    Person("Emeka", 2600),
)
NEWCOMER = Person("Farid", 6100)


def person(written: str) -> Person:
    """One as written on a command line, such as `Ada=2900`.

    Raises:
      ParameterError: something else is written.
    """
    name, _, number = (word.strip() for word in written.partition("="))
    if not name or not number.isascii() or not number.isdigit():
        raise ParameterError(f"'{written}' is no person; write a name and a whole number, such as Ada=2900")
    if int(number) > MOST:
        raise ParameterError(f"{name}={number} is above {MOST}, and there is no room for it; write a smaller number")
    return Person(name, int(number))


def read(written: str) -> tuple[Person, ...]:
    """People as written on a command line, such as `Ada=2900,Bruno=4150,Chen=3400`.

    Raises:
      ParameterError: something else is written, or a group of another size than the page's lessons need.
    """
    found: list[Person] = []
    for part in written.split(","):
        one = person(part)
        if one.name in [p.name for p in found]:
            raise ParameterError(f"'{one.name}' is there twice; write another name for one of them")
        found.append(one)
    if not 5 <= len(found) <= 12:
        raise ParameterError(f"{len(found)} people: the page needs 5 to 12, so that one liar among them can be told")
    return tuple(found)
