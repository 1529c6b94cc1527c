"""What the command line prints, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape

from s2pipe.core.errors import InputError, S2PipeError
from s2pipe.core.progress import stderr_console

if TYPE_CHECKING:
    pass

out = Console()
err = stderr_console()


def say(text: str) -> None:
    """Print `text` as it is: no colours, no markup, no line breaks that would cut a path."""
    out.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def clean_exit() -> Iterator[None]:
    """Turn s2pipe's own errors into one line on stderr and an exit code: 2 for bad input, 1 for the rest."""
    try:
        yield
    except S2PipeError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2 if isinstance(error, InputError) else 1) from None
    except KeyboardInterrupt:
        err.print("interrupted")
        raise typer.Exit(130) from None


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
