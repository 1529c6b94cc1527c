"""DSen2 and VDSen2 with their authors' weights (Lanaras et al. 2018): trained once for the whole globe, not on the scene."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Self, Unpack

import torch
from torch import Tensor, nn

from s2pipe.core.bands import BANDS_BY_GSD, bands_at
from s2pipe.core.errors import InputError, errors_about
from s2pipe.core.tensor_files import tensors_below
from s2pipe.fitting.sampling import Sample, bands_without_data
from s2pipe.methods.attributes import Fields
from s2pipe.methods.base import FitContext, TensorPixels, TorchSharpener, halo_of, placed, stated_options, upsampling_reach
from s2pipe.networks.dsen2 import Dsen2Network, load_keras_weights, radius
from s2pipe.physics.sensor import Sensor

log = logging.getLogger(__name__)

SCALE = 0.2
"""Reflectance that is 1 to the networks: the authors divide DN of 1e-4 by 2000."""

FINE_ORDER = [BANDS_BY_GSD[10].index(band) for band in ("B04", "B03", "B02", "B08")]
"""Order of the 10 m bands that the weights were trained with: that of GDAL's SAFE driver, not that of the authors' comments."""


@dataclass(frozen=True, kw_only=True)
class Dsen2:
    """The networks of Lanaras et al. 2018 (doi:10.1016/j.isprsjprs.2018.09.018) with weights that their authors trained.

    They were trained on scenes degraded by a Gaussian of sigma 1/ratio and the block mean, the sensor ``"box"``, with
    coarse bands upsampled bilinearly at block centres. That is how they see data of every sensor here: others are not what
    they were trained for. All 10 m and 20 m bands are needed. Bands of a resolution without weights are interpolated
    (`bicubic_bands`).

    Attributes
    ----------
    weights_20m, weights_60m : str, optional
        Paths of the authors' Keras files (HDF5), of DSen2 or VDSen2, for the 20 m and the 60 m bands; at least one.

    Raises
    ------
    InputError
        If neither is given, one is no str, its file cannot be read, or holds another architecture or resolution.
    """

    name: ClassVar[str] = "dsen2"

    weights_20m: str | None = None
    weights_60m: str | None = None

    def __post_init__(self) -> None:
        if not self._paths:
            raise InputError(
                "dsen2 has no weights; give weights_20m= or weights_60m=, the path of an HDF5 file of the authors",
                argument=("weights_20m", "weights_60m"),
            )
        if strange := {gsd: path for gsd, path in self._paths.items() if not isinstance(path, str)}:
            raise InputError(
                "; ".join(f"weights_{gsd}m={path!r} must be a path as a str" for gsd, path in strange.items()),
                argument=tuple(f"weights_{gsd}m" for gsd in strange),
            )

    @property
    def _paths(self) -> dict[int, str]:
        return {gsd: path for gsd, path in ((20, self.weights_20m), (60, self.weights_60m)) if path is not None}

    @cached_property
    def networks(self) -> dict[int, Dsen2Network]:
        """The networks by GSD.

        Raises
        ------
        InputError
            If a file cannot be read, holds another architecture, or the network of the other resolution.
        """
        loaded = {}
        for gsd, path in self._paths.items():
            with errors_about(f"weights_{gsd}m"):
                network = loaded[gsd] = load_keras_weights(path).requires_grad_(False)
            if network.targets != len(BANDS_BY_GSD[gsd]):
                raise InputError(
                    f"weights_{gsd}m={path!r} makes {network.targets} bands, but there are {len(BANDS_BY_GSD[gsd])} "
                    f"bands of {gsd} m; are weights_20m and weights_60m exchanged?",
                    argument=f"weights_{gsd}m",
                )
        return loaded

    def halo(self, gsds: Collection[int], sensor: Sensor) -> int:
        """See `Method.halo`."""
        return halo_of(gsds, self._reach)

    def _reach(self, ratio: int) -> int:
        network = self.networks.get(10 * ratio)
        return upsampling_reach(ratio) if network is None else bilinear_reach(ratio) + radius(len(network.blocks))

    def fit(self, sample: Sample, context: FitContext) -> Dsen2Sharpener:
        """Nothing is fitted; of the sample only the names of its bands are used.

        Raises
        ------
        InputError
            If a 10 m or 20 m band is missing, or holds nodata only.
        """
        names = sample.bands
        missing = bands_without_data(sample.windows, names)
        lacking = {
            gsd: [band for band in BANDS_BY_GSD[gsd] if band not in names.get(gsd, ()) or band in missing] for gsd in BANDS_BY_GSD
        }
        if lacking[10] or lacking[20]:
            raise InputError(
                f"dsen2 needs every 10 m and 20 m band, but {', '.join(lacking[10] + lacking[20])} are missing or hold nodata "
                "only; load them too, or give method='glp'",
                argument="data",
            )
        networks = {gsd: network for gsd, network in self.networks.items() if not lacking[gsd]}
        interpolated = tuple(band for gsd in sample.gsds if gsd not in networks for band in names[gsd])
        if interpolated:
            log.warning("dsen2 has no weights for bands %s, or not all it needs: they are interpolated", ", ".join(interpolated))
        return Dsen2Sharpener(
            method=self.name,
            options=stated_options(self),
            seed=context.seed,
            sensor=context.sensor,
            bands_in=sample.inputs,
            bands_out=sample.targets,
            bicubic_bands=interpolated,
            halo=self.halo(sample.gsds, context.sensor),
            networks=networks,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Dsen2Sharpener(TorchSharpener):
    """Pretrained `networks` by GSD; coarse bands without one are interpolated."""

    networks: dict[int, Dsen2Network] = field(repr=False)

    @classmethod
    def restore(cls, weights: dict[str, Tensor], **fields: Unpack[Fields]) -> Self:
        """See `TorchSharpener.restore`."""
        networks = {}
        for gsd in (20, 60):
            if state := tensors_below(weights, f"{gsd}m."):
                networks[gsd] = Dsen2Network.of_state(state)
        return cls(**fields, networks=networks)

    def weights(self) -> dict[str, Tensor]:
        """See `TorchSharpener.weights`."""
        return {
            f"{gsd}m.{name}": tensor for gsd, network in self.networks.items() for name, tensor in network.state_dict().items()
        }

    def to(self, device: str) -> Self:
        """See `TorchSharpener.to`."""
        return replace(self, device=device, networks={gsd: placed(network, device) for gsd, network in self.networks.items()})

    def forward(self, pixels: TensorPixels) -> Tensor:
        """See `TorchSharpener.forward`."""
        arrays = {**pixels.reflectance, 10: pixels.reflectance[10][FINE_ORDER]}
        return torch.cat([self._sharpen(arrays, gsd) for gsd in (20, 60) if bands_at(self.bands_out, gsd)])

    def _sharpen(self, arrays: dict[int, Tensor], gsd: int) -> Tensor:
        if gsd not in self.networks:
            return self.sensor.upsample(arrays[gsd], gsd // 10)
        channels = torch.cat([_upsample(array, own // 10) for own, array in arrays.items() if own <= gsd])
        inputs = (channels / SCALE)[None].contiguous(memory_format=torch.channels_last)
        sharpened: Tensor = self.networks[gsd](inputs)[0] * SCALE
        return sharpened


def _upsample(coarse: Tensor, ratio: int) -> Tensor:
    """Bilinear upsampling of (band, y, x), every fine pixel within its block, as the networks were trained with."""
    if ratio == 1:
        return coarse
    return nn.functional.interpolate(coarse[None], scale_factor=ratio, mode="bilinear", align_corners=False)[0]


def bilinear_reach(ratio: int) -> int:
    """10 m pixels on either side that bilinear upsampling depends on: to the far edge of the neighbour half a pixel away."""
    return ratio + ratio // 2 - 1
