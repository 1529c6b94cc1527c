"""A scene one scale lower, where what was observed is the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from affine import Affine

from s2pipe.core.bands import node_name
from s2pipe.core.checks import check_whole
from s2pipe.core.cube import Cube, make_node
from s2pipe.core.encoding import Encoding
from s2pipe.core.errors import InputError
from s2pipe.core.lattice import STEP
from s2pipe.core.types import AnyArray
from s2pipe.fitting.fingerprint import fingerprint
from s2pipe.physics.sensor import Sensor
from s2pipe.physics.white_noise import noise_added, noise_returned


@dataclass(frozen=True, kw_only=True)
class Noise:
    """White noise of a scene.

    Attributes
    ----------
    levels : mapping of str to float
        Standard deviation by band, in reflectance.
    seed : int
        Random seed of what is added.
    """

    levels: Mapping[str, float]
    seed: int


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """A scene one scale lower, and what the sensor saw there. What makes the estimates gets the cube only.

    Attributes
    ----------
    cube : Cube
        The bands at each resolution, degraded by the ratio of `gsd`, float32 reflectance with NaN. Labels and resolutions are
        those of the scene: what is called 10 m here is `gsd` in truth.
    reference : ndarray, (band, y, x)
        The observed bands of `gsd`, float32 reflectance with NaN, on the grid of the cube's 10 m node.
    gsd : int
        20 or 60.
    sensor : str
        Name of what degraded the cube.
    scored : tuple of str
        Those bands of the reference that estimates from this cube are compared with.
    """

    cube: Cube
    reference: npt.NDArray[np.float32]
    gsd: int
    sensor: str
    scored: tuple[str, ...]

    @cached_property
    def fingerprint(self) -> npt.NDArray[np.uint64]:
        """What identifies the reference, see `s2pipe.fitting.fingerprint`."""
        valid = np.isfinite(self.reference)
        return fingerprint(np.where(valid, self.reference, 0), valid)


def reductions(cube: Cube, operator: Sensor, gsd: int, *, noise: Noise | None = None) -> list[Reduced]:
    """`reduce_scene` for each group of bands of `gsd` that the operator is matched to, each to be scored by itself."""
    observed = _observed(cube, gsd)
    return [_reduced(observed, cube, operator, gsd, group, noise) for group in operator.groups(cube.bands[gsd])]


def reduce_scene(cube: Cube, operator: Sensor, gsd: int, *, noise: Noise | None = None) -> Reduced:
    """Degrade every resolution of a scene of one date by the ratio of `gsd`, and keep its bands of `gsd` as the reference.

    A ``"matched"`` operator is matched to all of these together. Of `noise` in the scene the degraded bands get back what
    degrading took.

    Raises
    ------
    InputError
        If the scene has several dates, no band of `gsd`, or is too small.
    """
    return _reduced(_observed(cube, gsd), cube, operator, gsd, cube.bands[gsd], noise)


def _observed(cube: Cube, gsd: int) -> dict[int, npt.NDArray[np.float32]]:
    """Reflectance (band, y, x) of every resolution, as much of it as can be degraded by the ratio of `gsd`."""
    _check_judgeable(cube, gsd)
    arrays, ratio = cube.arrays, gsd // 10
    step = STEP * ratio  # so that the coarsest band can be degraded once more
    height, width = (arrays[10].sizes[axis] // step * step for axis in ("y", "x"))
    if not height or not width:
        raise InputError(
            f"the scene has {arrays[10].sizes['y']} x {arrays[10].sizes['x']} px at 10 m; to be degraded by {ratio} "
            f"it must have at least {step} x {step} px",
            argument="data",
        )
    return {
        own: cube.encoding.decode(np.asarray(array.data[0, :, : height * 10 // own, : width * 10 // own]))
        for own, array in arrays.items()
    }


def _reduced(
    observed: Mapping[int, npt.NDArray[np.float32]],
    cube: Cube,
    operator: Sensor,
    gsd: int,
    scored: tuple[str, ...],
    noise: Noise | None,
) -> Reduced:
    matched, bands, ratio = operator.matched_to(scored), cube.bands, gsd // 10
    lower = {own: matched.seen_of(array, bands[own], ratio) for own, array in observed.items()}
    if noise is not None:
        random = np.random.default_rng(noise.seed)
        lower = {own: noise_returned(array, bands[own], noise.levels, matched, ratio, random) for own, array in lower.items()}
    return Reduced(cube=_cube(lower, bands), reference=observed[gsd], gsd=gsd, sensor=operator.name, scored=scored)


def with_reference(cube: Cube, reference: AnyArray, operator: Sensor, gsd: int, *, noise: Noise | None = None) -> Reduced:
    """A scene of one date that `operator` degraded before it came, and its bands of `gsd` as observed, in the cube's numbers.

    `noise` is added to the scene, which came without.

    Raises
    ------
    InputError
        If the scene has several dates or no band of `gsd`, or the reference is not of these bands on the grid of the 10 m bands.
    """
    _check_judgeable(cube, gsd)
    arrays, bands = cube.arrays, cube.bands
    reference = np.asarray(reference)
    expected = (len(bands[gsd]), arrays[10].sizes["y"], arrays[10].sizes["x"])
    if reference.shape != expected:
        raise InputError(
            f"reference has the shape {reference.shape}; expected {expected}, the {gsd} m bands on the grid of the 10 m bands; "
            "change reference= or gsd=",
            argument=("reference", "gsd"),
        )
    encoding = cube.encoding
    if (reference.dtype.kind == "f") == encoding.is_integer:
        raise InputError(
            f"reference is {reference.dtype}, and the scene holds {encoding.dtype}; give both in the same numbers",
            argument="reference",
        )
    lower = {own: encoding.decode(np.asarray(array.data[0])) for own, array in arrays.items()}
    if noise is not None:
        random = np.random.default_rng(noise.seed)
        lower = {own: noise_added(array, bands[own], noise.levels, random) for own, array in lower.items()}
    reference = encoding.decode(reference)
    return Reduced(cube=_cube(lower, bands), reference=reference, gsd=gsd, sensor=operator.name, scored=bands[gsd])


def _check_judgeable(cube: Cube, gsd: int) -> None:
    """Refuse what is no scene of one date with bands of `gsd`."""
    if check_whole("gsd", gsd, least=10) not in (20, 60):
        raise InputError(f"gsd={gsd!r} must be 20 or 60", argument="gsd")
    if gsd not in cube.arrays:
        present = ", ".join(map(node_name, cube.arrays))
        raise InputError(f"the data have no {gsd} m bands to judge; they have {present}", argument=("data", "gsd"))
    if (dates := cube.fine.sizes["time"]) > 1:
        raise InputError(f"the data have {dates} dates; evaluate one at a time, such as data.isel(time=[0])", argument="data")


def _cube(reflectance: Mapping[int, npt.NDArray[np.float32]], bands: Mapping[int, Sequence[str]]) -> Cube:
    """The cube of one date of reflectance (band, y, x), by GSD, with NaN."""
    encoding = Encoding.default(np.float32)
    arrays = {
        gsd: make_node(array[None], bands[gsd], encoding=encoding, transform=Affine(gsd, 0, 0, 0, -gsd, 0))
        for gsd, array in reflectance.items()
    }
    return Cube.checked(arrays, encoding)
