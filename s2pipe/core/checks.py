"""Checks of arguments that several modules take."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import SupportsIndex, cast

from s2pipe.core.errors import InputError


def check_whole(name: str, value: object, *, least: int) -> int:
    """`value` as an int if it is a whole number of at least `least`; else InputError, naming the argument `name`."""
    try:
        number = operator.index(cast(SupportsIndex, value))
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        raise InputError(f"{name}={value!r} must be a whole number of at least {least}", argument=name)
    return number


def check_positive(name: str, value: object) -> None:
    """InputError, naming the argument `name`, unless `value` is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise InputError(f"{name}={value!r} must be a number above 0", argument=name)
