"""A command in a terminal of its own, and what a person sees there meanwhile."""

import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator

import pyte

LINES, COLUMNS = 24, 80


class Terminal:
    """Python with these arguments in a pseudo-terminal; `screen` is what it shows."""

    def __init__(self, *arguments: object) -> None:
        self.screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self.screen)
        self._mine, its = pty.openpty()
        termios.tcsetwinsize(its, (LINES, COLUMNS))

        def take() -> None:
            os.login_tty(its)
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # which tests run in the background hand down ignored

        self._process = subprocess.Popen(
            [sys.executable, *map(str, arguments)], env={**os.environ, "TERM": "xterm-256color"}, preexec_fn=take
        )
        os.close(its)

    def states(self) -> Iterator[list[str]]:
        """The lines that are not empty, whenever something is written, until the command ends."""
        while written := self._read():
            self._stream.feed(written)
            yield self.lines()

    def _read(self) -> bytes:
        try:
            return os.read(self._mine, 65536)
        except OSError:  # Linux's way to say that nobody is there to write any more
            return b""

    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def type(self, keys: str) -> None:
        os.write(self._mine, keys.encode())

    def close(self) -> int:
        """The exit code."""
        os.close(self._mine)
        return self._process.wait(60)
