"""What the command line prints, and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from s2pipe.core.errors import InputError, S2PipeError
from s2pipe.core.progress import stderr_console

out = Console()
err = stderr_console()


def say(text: str) -> None:
    """Print `text` as it is: no colours, no markup, no line breaks that would cut a path."""
    out.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def clean_exit(flags: Callable[[], Mapping[str, str]] = dict) -> Iterator[None]:
    """Turn s2pipe's own errors into one line on stderr and an exit code: 2 for bad input, 1 for the rest.

    `flags` gives the command's options by the arguments of the library; the line names those that the error is about.
    """
    try:
        yield
    except S2PipeError as error:
        options = flags()
        named = ", ".join(options[argument] for argument in error.arguments if argument in options)
        text = f"{error} ({named})" if named else str(error)
        err.print(f"[bold red]error:[/] {escape(text)}", highlight=False, soft_wrap=True)
        raise typer.Exit(2 if isinstance(error, InputError) else 1) from None
    except KeyboardInterrupt:
        err.print("interrupted")
        raise typer.Exit(130) from None


OTHER_NAMES = {"path": ("method", "methods")}
"""Parameters that give an argument of another name, where a command has none of its name: --method names the path of a file."""


class Commands(TyperGroup):
    """Commands that end as `clean_exit` says. Their parameters are named as the arguments of the library that they give."""

    def invoke(self, ctx: Any) -> Any:  # its class is click's, which some versions of typer bring themselves
        """Run the command that was typed."""

        def flags() -> dict[str, str]:
            command = self.commands[str(ctx.invoked_subcommand)]
            own = {str(option.name): option.opts[0] for option in command.params if option.param_type_name == "option"}
            others = {argument: own[name] for argument, names in OTHER_NAMES.items() for name in names if name in own}
            return others | own

        with clean_exit(flags):
            return super().invoke(ctx)


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
