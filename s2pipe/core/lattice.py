"""Integer arithmetic on the 10/20/60 m lattice: chunk edges, halos, blocks. Uses no array library.

Everything is counted in 10 m pixels. The lattice step is 6: one 60 m pixel covers 6 x 6, one 20 m pixel 2 x 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from s2pipe.core.errors import InputError

STEP = 6
"""10 m pixels along the edge of a 60 m pixel: chunk edges, halos and blocks are multiples of it."""

DEFAULT_CHUNK = 1830
"""Chunk edge in 10 m pixels: a sixth of a tile's 10980."""


def round_up(value: int) -> int:
    """Smallest multiple of `STEP` that is at least `value`."""
    return -(-value // STEP) * STEP


def regular_chunks(size: int, chunk: int) -> tuple[int, ...]:
    """Chunks of `chunk` pixels along an axis of `size`, the last one ragged."""
    whole, rest = divmod(size, chunk)
    return (chunk,) * whole + ((rest,) if rest else ())


def check_chunks(chunks: Sequence[int], *, halo: int, axis: str) -> None:
    """Refuse chunks that no method with this halo can work on.

    Parameters
    ----------
    chunks : sequence of int
        Chunk sizes along one axis, in 10 m pixels. The last may be what is left of the scene.
    halo : int
        The Sharpener's halo in 10 m pixels.
    axis : str
        ``"y"`` or ``"x"``, named in the error.

    Raises
    ------
    InputError
        If a chunk before the last is not a multiple of 6, or thinner than `halo`.
    """
    for chunk in chunks[:-1]:
        if chunk % STEP:
            accepted = _nearest_accepted(chunk, halo)
            raise InputError(
                f"chunk of {chunk} px along {axis} is not a multiple of {STEP} px; the nearest accepted sizes are {accepted}: "
                f"rechunk the 10 m data, for example data.chunk({axis}={accepted[0]})",
                argument=("data", "chunks"),
            )
    for chunk in chunks[:-1]:
        if chunk < halo:
            raise InputError(
                f"chunk of {chunk} px along {axis} is thinner than the method's halo of {halo} px; the nearest accepted size is "
                f"{round_up(halo)}: rechunk the 10 m data, for example data.chunk({axis}={round_up(halo)})",
                argument=("data", "chunks"),
            )


def _nearest_accepted(chunk: int, halo: int) -> list[int]:
    smallest = max(round_up(halo), STEP)
    below, above = chunk // STEP * STEP, round_up(chunk)
    return sorted({max(below, smallest), max(above, smallest)})


def join_thin_chunks(chunks: Sequence[int], *, depth: int) -> tuple[int, ...]:
    """Join neighbouring chunks until each holds at least `depth` pixels, so that an overlap reaches one neighbour only.

    Equal chunks stay equal; a remainder joins the chunk before it. An axis shorter than `depth` becomes one chunk.

    Examples
    --------
    >>> join_thin_chunks((1830, 12), depth=60)
    (1842,)
    >>> join_thin_chunks((30, 30, 30, 30, 30), depth=60)
    (60, 90)
    """
    joined: list[int] = []
    gathered = 0
    for chunk in chunks:
        gathered += chunk
        if gathered >= depth:
            joined.append(gathered)
            gathered = 0
    if gathered:
        rest = joined.pop() if joined else 0
        joined.append(rest + gathered)
    return tuple(joined)


def join_small_chunks(chunks: Sequence[int], *, edge: int) -> tuple[int, ...]:
    """Join neighbouring chunks as long as they hold at most `edge` pixels together.

    Examples
    --------
    >>> join_small_chunks((366,) * 7, edge=1830)
    (1830, 732)
    >>> join_small_chunks((1830, 1830), edge=1830)
    (1830, 1830)
    """
    joined: list[int] = []
    for chunk in chunks:
        if joined and joined[-1] + chunk <= edge:
            joined[-1] += chunk
        else:
            joined.append(chunk)
    return tuple(joined)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of a padded array and the part of it that is kept, in 10 m pixels along y and x.

    Attributes
    ----------
    outer_y, outer_x : tuple of int
        Start and stop of what is read, within the padded array.
    inner_y, inner_x : tuple of int
        Start and stop of what is kept, within the unpadded array.
    """

    outer_y: tuple[int, int]
    outer_x: tuple[int, int]
    inner_y: tuple[int, int]
    inner_x: tuple[int, int]


def blocks(height: int, width: int, *, edges: tuple[int, int], halo: int) -> Iterator[Block]:
    """Cut an array of `height` x `width` pixels, padded by `halo` on each side, into blocks.

    Of these, at most `edges` pixels along y and x are kept, about as many of each.
    """
    rows, columns = (_even(size, edge) for size, edge in zip((height, width), edges, strict=True))
    for y in range(0, height, rows):
        for x in range(0, width, columns):
            y_stop, x_stop = min(y + rows, height), min(x + columns, width)
            yield Block(
                outer_y=(y, y_stop + 2 * halo),
                outer_x=(x, x_stop + 2 * halo),
                inner_y=(y, y_stop),
                inner_x=(x, x_stop),
            )


def _even(size: int, edge: int) -> int:
    """The multiple of `STEP` that cuts `size` pixels into as many parts as `edge` does, but of about one size."""
    parts = -(-size // edge)
    return round_up(-(-size // parts))
