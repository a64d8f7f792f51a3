"""Mutants: wrong versions of a notebook's code, or of `fmlib`'s, each of which must make a claim of the notebook fail.

One file a notebook, with a list `MUTANTS`. `make mutants` runs them all; a survivor is a defect of the claims.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """In the cell `id`, `old` (which stands there once) becomes `new`. what: the mistake, in words."""

    id: str
    old: str
    new: str
    what: str


@dataclass(frozen=True)
class Library:
    """In the function `name` of `fmlib`, as "exact.MixturePath.velocity", `old` (there once) becomes `new`.

    at: the cell from which on it is wrong; by default the first.
    """

    name: str
    old: str
    new: str
    what: str
    at: str = ""
