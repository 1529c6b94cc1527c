"""Settings of a process, which change how fast it computes and how much memory that takes: `s2pipe.options`."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, fields

from s2pipe.core.checks import check_positive, check_whole
from s2pipe.core.errors import InputError
from s2pipe.core.lattice import STEP


@dataclass(kw_only=True)
class Options:
    """What `s2pipe.options` has; a job takes those of the process that plans it to all of its workers.

    Attributes
    ----------
    cpu_block : tuple of int
        Height and width of the blocks that a chunk is cut into on CPUs, in 10 m pixels, multiples of 6: smaller ones lose time by
        their halos, larger ones by the processor's caches. A chunk of 1830 px has twelve of the default, which 2, 3, 4, 6 or 12
        cores share evenly.
    cuda_block : tuple of int
        The same for CUDA; see ``benchmarks/gpu_tile.py``.
    cached_sharpeners : int
        How many Sharpeners a worker keeps on its devices.
    memory_retry_s : float
        Seconds after which a device that was short of memory is given blocks of full size again.

    Examples
    --------
    >>> import s2pipe
    >>> s2pipe.options.cached_sharpeners = 2
    >>> with s2pipe.options.set(cpu_block=(306, 306)):
    ...     s2pipe.options.cpu_block
    (306, 306)
    """

    cpu_block: tuple[int, int] = (612, 462)
    cuda_block: tuple[int, int] = (1830, 1830)
    cached_sharpeners: int = 8
    memory_retry_s: float = 300.0

    def __setattr__(self, name: str, value: object) -> None:
        """Set an option.

        Raises
        ------
        InputError
            If there is none of this name, or it cannot have this value.
        """
        names = [field.name for field in fields(self)]
        if name not in names:
            raise InputError(f"s2pipe.options has no {name!r}; it has {', '.join(names)}", argument=name)
        if name.endswith("_block"):
            _check_block(name, value)
        elif name == "cached_sharpeners":
            check_whole(name, value, least=1)
        else:
            check_positive(name, value)
        super().__setattr__(name, value)

    def set(self, **options: object) -> AbstractContextManager[object]:
        """Set these options, as a statement of its own or, after `with`, until the block ends.

        Raises
        ------
        InputError
            See `__setattr__`.
        """
        with ExitStack() as undone:  # where one of them is refused, none is set
            for name, value in options.items():
                before = getattr(self, name, None)
                setattr(self, name, value)
                undone.callback(setattr, self, name, before)
            return undone.pop_all()


def _check_block(name: str, value: object) -> None:
    edges = value if isinstance(value, tuple) and len(value) == 2 else (None,)
    if not all(isinstance(edge, int) and edge > 0 and edge % STEP == 0 for edge in edges):
        raise InputError(f"{name}={value!r} must be two multiples of {STEP}, such as (612, 462)", argument=name)


options = Options()
