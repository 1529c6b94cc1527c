"""S2SUCNN: one unsupervised CNN for all bands (Nguyen et al., JSTARS 2021, doi:10.1109/JSTARS.2021.3092286)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEATURES = 128
LEVELS = 3
"""Parallel convolutions of the 20 m bands whose outputs enter the 20 m part one after another."""
LEAK = 0.2
NORM_EPSILON = 1e-3

Variant = Literal["full", "reduced"]
"""The papers' network for full resolution, and the longer one of their reduced-resolution experiments."""


def radius(variant: Variant) -> int:
    """10 m pixels on either side that an output pixel depends on.

    Along the longest way from a 60 m pixel: one convolution at 60 m and the next 60 m pixel that bilinear upsampling by 3
    reads, 9 convolutions at 20 m and the next 20 m pixel that upsampling by 2 reads, then the convolutions at 10 m.
    """
    convolutions_20m = 1 + LEVELS + 1 + (LEVELS - 1)
    convolutions_10m = 3 if variant == "full" else 5
    return 6 * 2 + 2 * (convolutions_20m + 1) + convolutions_10m


class Unit(nn.Module):
    """3 x 3 convolution (He normal), layer normalisation over the channels of each pixel, leaky ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, FEATURES, 3, padding=1)
        self.norm = nn.LayerNorm(FEATURES, eps=NORM_EPSILON)
        nn.init.kaiming_normal_(self.convolution.weight, nonlinearity="relu")
        assert self.convolution.bias is not None
        nn.init.zeros_(self.convolution.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, FEATURES, y, x) of (batch, channels, y, x)."""
        features: Tensor = self.convolution(x)
        # channels last in memory, so that neither permutation moves a number
        normalised = self.norm(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return F.leaky_relu(normalised, LEAK)


class S2sucnnNetwork(nn.Module):
    """All bands at 10 m, between 0 and 1, from the bands at their own resolutions.

    Parameters
    ----------
    bands : dict of int to int
        Number of bands by GSD; 60 may be missing.
    variant : {"full", "reduced"}
        ``"reduced"`` adds a second half to the 10 m part.
    """

    def __init__(self, bands: dict[int, int], variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        self.enter_20m = Unit(bands[20])
        self.enter_60m = Unit(bands[60]) if 60 in bands else None
        self.merge_20m = Unit(FEATURES)
        self.skips_20m = nn.ModuleList(Unit(bands[20]) for _ in range(LEVELS))
        self.down_20m = nn.ModuleList(Unit(FEATURES) for _ in range(LEVELS))
        self.turn_20m = Unit(FEATURES)
        self.fuse_20m = nn.ModuleList(Unit(FEATURES) for _ in range(LEVELS - 1))
        self.up_20m = nn.ModuleList(Unit(FEATURES) for _ in range(LEVELS - 1))

        self.enter_10m = Unit(bands[10])
        self.enter_20m_upsampled = Unit(bands[20])
        self.merge_10m = Unit(FEATURES)
        self.skip_10m = Unit(bands[10])
        self.down_10m = Unit(FEATURES)
        self.second_skip_10m = Unit(FEATURES)
        self.second_down_10m = Unit(FEATURES)
        if variant == "reduced":
            self.turn_10m = Unit(FEATURES)
            self.fuse_10m = Unit(FEATURES)
            self.up_10m = Unit(FEATURES)
        self.head = nn.Conv2d(FEATURES, sum(bands.values()), 1)

    def forward(self, r10m: Tensor, r20m: Tensor, r60m: Tensor | None) -> Tensor:
        """(batch, band, y, x) at 10 m, the 60 m bands first, then those at 20 m and 10 m, of (batch, band, y, x) inputs."""
        features = self._at_10m(self._at_20m(r20m, r60m), r10m, r20m)
        with torch.autocast(features.device.type, enabled=False):  # reflectances to 8 bits would be too coarse
            return torch.sigmoid(self.head(features.to(self.head.weight.dtype)))

    def _at_20m(self, r20m: Tensor, r60m: Tensor | None) -> Tensor:
        entered = self.enter_20m(r20m)
        if self.enter_60m is not None and r60m is not None:
            entered = entered + _upsample(self.enter_60m(r60m), 3)
        features: Tensor = self.merge_20m(entered)
        skips = [skip(r20m) for skip in self.skips_20m]  # three views of the input itself, not a chain
        for skip, down in zip(skips, self.down_20m, strict=True):
            features = down(features + skip)
        features, fused = self.turn_20m(features), skips[-1]
        for skip, fuse, up in zip(reversed(skips[:-1]), self.fuse_20m, self.up_20m, strict=True):
            fused = fuse(fused + skip)
            features = up(features + fused)
        return features

    def _at_10m(self, features_20m: Tensor, r10m: Tensor, r20m: Tensor) -> Tensor:
        entered = _upsample(features_20m, 2) + self.enter_10m(r10m) + self.enter_20m_upsampled(_upsample(r20m, 2))
        features: Tensor = self.merge_10m(entered)
        first = self.skip_10m(r10m)
        features = self.down_10m(features + first)
        second = self.second_skip_10m(first)
        features = self.second_down_10m(features + second)
        if self.variant == "reduced":
            features = self.turn_10m(features)
            features = self.up_10m(features + self.fuse_10m(second + first))
        return features


def _upsample(x: Tensor, ratio: int) -> Tensor:
    return F.interpolate(x, scale_factor=ratio, mode="bilinear", align_corners=False)
