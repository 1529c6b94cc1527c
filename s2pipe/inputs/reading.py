"""Reading a window of one file, unchanged, and the error where that fails.

Nothing is resampled or rescaled; a file that is not on the grid its item states is an error. A read that fails is retried, with
exponential backoff where the failure may be temporary. `sign` is called at each attempt, so that a token that expires does no
harm, and no signed href reaches a log or an error.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from itertools import chain, repeat
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.errors
import rasterio.windows
from affine import Affine

from s2pipe.core.errors import ReadError, redact

log = logging.getLogger(__name__)

Sign = Callable[[str], str]
"""Gets an href and returns the one to read."""

LONGEST_PAUSE = 60.0
"""Maximum seconds between two attempts at a file."""

_T = TypeVar("_T")

GDAL_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_CONNECTTIMEOUT": "30",
    "GDAL_HTTP_MAX_RETRY": "5",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1000",
    "GDAL_HTTP_LOW_SPEED_TIME": "30",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "VSI_CACHE": "TRUE",
}
"""GDAL's settings at each read; an environment variable of the same name wins.

GDAL itself retries what a server answers with 429 or 5xx. It gives up a transfer of less than 1000 bytes a second after 30 s, and
`guarded` retries it; without that limit GDAL would wait indefinitely.
"""

_FORGETFUL = {**GDAL_OPTIONS, "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/:/vsiaz/:/vsigs/"}
"""The settings of a retry. GDAL caches in a process that a file failed; with these it asks the server again."""


def _redact_record(record: logging.LogRecord) -> bool:
    """Remove what may be a token from the messages of GDAL that rasterio logs; a logging filter that keeps every record."""
    record.msg, record.args = redact(record.getMessage()), ()
    return True


for _name in ("rasterio._env", "rasterio._err", "rasterio._io", "rasterio._base"):
    logging.getLogger(_name).addFilter(_redact_record)


def read_window(labelled: str, sign: Sign | None, epsg: int, transform: Affine, shape: tuple[int, int]) -> npt.NDArray[np.uint16]:
    """The pixels of one file on exactly this grid, (y, x); ReadError if they cannot be read."""
    href, _, label = labelled.rpartition("#")
    options = chain([GDAL_OPTIONS], repeat(_FORGETFUL))
    return guarded(lambda signed: _read_file(signed, epsg, transform, shape, next(options)), href, label, sign)


def _read_file(
    href: str, epsg: int, transform: Affine, shape: tuple[int, int], options: Mapping[str, str]
) -> npt.NDArray[np.uint16]:
    changed = {name: value for name, value in options.items() if name not in os.environ}
    with rasterio.Env(**changed), rasterio.open(href, sharing=False) as file:
        pixels: npt.NDArray[np.uint16] = file.read(1, window=_window_in(file, epsg, transform, shape))
        return pixels


def _is_remote(href: str) -> bool:
    return re.match(r"/vsi|(?!file:)\w+://", href) is not None


def _window_in(file: rasterio.DatasetReader, epsg: int, transform: Affine, shape: tuple[int, int]) -> rasterio.windows.Window:
    """Where the grid lies in the file, in whole pixels."""
    if file.count != 1 or file.dtypes[0] != "uint16":
        raise Unfit(f"it holds {file.count} bands of {file.dtypes[0]}, not one of uint16 DN")
    column = (transform.c - file.transform.c) / transform.a
    row = (transform.f - file.transform.f) / transform.e
    on_grid = (
        (file.crs is None or file.crs.to_epsg() in (None, epsg))
        and file.transform.almost_equals(Affine(transform.a, 0, file.transform.c, 0, transform.e, file.transform.f), 1e-6)
        and abs(column - round(column)) < 1e-3
        and abs(row - round(row)) < 1e-3
        and round(column) >= 0
        and round(row) >= 0
        and round(row) + shape[0] <= file.height
        and round(column) + shape[1] <= file.width
    )
    if not on_grid:
        raise Unfit(
            f"the file has {file.height} x {file.width} px of {file.transform.a:g} m from {file.transform.c, file.transform.f} "
            f"in {file.crs}, not on the grid its item states ({transform.a:g} m, EPSG:{epsg})"
        )
    return rasterio.windows.Window(round(column), round(row), shape[1], shape[0])


class Unfit(Exception):
    """A failure that no retry cures, as when a file is not what its item states; the message holds no href.

    `argument` names the argument of `load` that it is about, if it is about one.
    """

    def __init__(self, message: str, *, argument: str | tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.argument = argument


def guarded(read: Callable[[str], _T], href: str, label: str, sign: Sign | None) -> _T:
    """What `read` makes of the signed href, at the first attempt that succeeds; else a ReadError that shows the unsigned one.

    It is raised outside the handlers, because a chained error's text may hold the signed href.
    """
    failed = 0
    while True:
        argument: str | tuple[str, ...] = ()
        pauses: list[float] = []
        try:
            signed = _signed(href, sign)
            return read(signed)
        except Unfit as error:
            cause, argument = str(error), error.argument
        except MemoryError as error:
            cause, argument = f"there is not enough memory for it ({type(error).__name__}); give smaller chunks", "chunks"
        except Exception as error:  # drivers raise nearly anything on damaged files
            cause, pauses = _likely_cause(error), _pauses(error) if _is_remote(signed) else []
        if failed >= len(pauses):
            raise ReadError(f"cannot read {label} from {redact(href)}: {cause}", argument=argument)
        if pauses[failed]:
            log.warning("cannot read %s: %s; retrying in %.1f s", label, cause, pauses[failed])
            time.sleep(pauses[failed])
        failed += 1


def _signed(href: str, sign: Sign | None) -> str:
    try:
        return sign(href) if sign else href
    except Exception as error:
        raise Unfit(f"sign failed with {type(error).__name__}", argument="sign") from None


def _pauses(error: Exception) -> list[float]:
    """Seconds before each retry of a remote file: the first at once, with a new signature, others with exponential backoff.

    A transfer that broke off looks like a damaged file, so damaged files are retried too.
    """
    if isinstance(error, _NOT_THE_FILES):
        return []
    if any(re.search(pattern, _text(error)) for pattern, _ in _LASTING_CAUSES):
        return [0.0]
    retries, delay = int(_setting("GDAL_HTTP_MAX_RETRY")), _setting("GDAL_HTTP_RETRY_DELAY")
    return [0.0, *(min(delay * 2.0**retry, LONGEST_PAUSE) for retry in range(retries))]


def _setting(name: str) -> float:
    try:
        return float(os.environ.get(name, ""))
    except ValueError:
        return float(GDAL_OPTIONS[name])


_LASTING_CAUSES = (
    (r"ImportError|ModuleNotFoundError", "a package for this kind of address is not installed, such as s3fs or aiohttp"),
    (r"\b404\b|No such file|does not exist|NoSuchKey|NotFound|FileNotFound|not found", "the file is missing"),
    (
        r"\b40[139]\b|AccessDenied|Forbidden|InvalidAccessKeyId|SignatureDoesNotMatch|AWS_SECRET_ACCESS_KEY|[Cc]redentials",
        "access is forbidden; the href may need signing, give sign, or set the server's credentials in the environment",
    ),
)
_CAUSES = (
    *_LASTING_CAUSES,
    (r"\b(?:429|5\d\d)\b", "the server keeps failing although the read was retried; try again later"),
    (r"resolve host|[Cc]onnection|[Tt]imed out|CURL error", "the server cannot be reached; check the network"),
)


_NOT_THE_FILES = (AssertionError, AttributeError, NameError, NotImplementedError, TypeError)
"""What defects in code raise, in this package or in a driver."""


def _likely_cause(error: Exception) -> str:
    name = type(error).__name__
    if isinstance(error, _NOT_THE_FILES):
        return f"reading it failed with {name}"
    code = _code(error)
    stated = f" (HTTP {code})" if code else ""
    for pattern, cause in _CAUSES:
        if re.search(pattern, _text(error)):
            return f"{cause}{stated}"
    return f"the file is truncated, damaged, or of no known format ({name}){stated}"


def _text(error: Exception) -> str:
    """Where the cause of an error is searched: its HTTP code if it states one, else its type and text."""
    code = _code(error)
    return f"HTTP {code}" if code else f"{type(error).__name__}: {error}"


def _code(error: Exception) -> str | None:
    code = re.search(r"(?:HTTP|response|status|code)\D{0,20}\b(\d{3})\b", f"{type(error).__name__}: {error}")
    return code[1] if code else None
