"""What tests hold of an error: its class, the argument it is about, and the facts it names; not its words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from s2pipe.core.errors import InputError, S2PipeError


@contextmanager
def refused(*arguments: str, kind: type[S2PipeError] = InputError, naming: tuple[object, ...] = ()) -> Iterator[None]:
    """The block raises an error of just this class, about these arguments of the call.

    `naming` are the facts of the case that a user must find in its text: a path, a value, a band.
    """
    with pytest.raises(S2PipeError) as raised:
        yield
    assert type(raised.value) is kind, raised.value
    assert raised.value.arguments == arguments, raised.value
    for fact in naming:
        assert str(fact) in str(raised.value)
