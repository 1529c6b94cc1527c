"""The errors s2pipe raises on purpose, and what their texts leave out. Catch `S2PipeError` to catch them all."""

import re
from collections.abc import Iterator
from contextlib import contextmanager


class S2PipeError(Exception):
    """Base class of every error s2pipe raises on purpose.

    Parameters
    ----------
    message : str
    argument : str or tuple of str, optional
        The arguments of the call that the message is about, as Python names them: ``"chunks"``.

    Attributes
    ----------
    arguments : tuple of str
        Empty where it is about none.
    argument : str or None
        The first of them.
    """

    def __init__(self, message: str = "", *, argument: str | tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.arguments = (argument,) if isinstance(argument, str) else argument

    @property
    def argument(self) -> str | None:
        """The first of the arguments that the message is about."""
        return self.arguments[0] if self.arguments else None


class InputError(S2PipeError, ValueError):
    """An argument, an option or the data itself is not usable; the message says which and what is accepted."""


class CatalogError(S2PipeError):
    """A catalog cannot be reached, gives an invalid answer, or found nothing."""


class ReadError(S2PipeError, OSError):
    """A band's pixels cannot be read: missing, forbidden or damaged file."""


class StoreError(S2PipeError, OSError):
    """A Zarr store cannot be created, written, read or resumed."""


@contextmanager
def errors_about(*arguments: str) -> Iterator[None]:
    """Errors raised within the block are about these arguments of the call, whatever the function inside calls them."""
    try:
        yield
    except S2PipeError as error:
        error.arguments = arguments
        raise


def redact(text: str) -> str:
    """`text` without the query strings and the ``user:password@`` of the URLs in it, which hold signatures and passwords.

    What follows a question mark, and a ``user:password@`` after a quotation mark, is dropped wherever it is, because drivers
    name files and buckets without their scheme.
    """
    return re.sub(r"\?[^\s'\"]+", "", re.sub(r"(?<=://)[^/?\s'\"]*@|(?<=[\"'])[^/?\s'\":@]+:[^/?\s'\"@]+@", "", text))
