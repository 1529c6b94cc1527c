"""SSC-CNN: a CNN with symmetric skip connections (Nguyen et al., IGARSS 2020, doi:10.1109/IGARSS39084.2020.9323614)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

FEATURES = 128
SKIP_FEATURES = 25
LEVELS = 3
LEAK = 0.01

RADIUS = 2 * LEVELS
"""Pixels on either side that an output pixel depends on: one for each of the 3 x 3 convolutions."""


class SscCnnNetwork(nn.Module):
    """Residual of the target bands from the upsampled target bands and their finer companions.

    Three 3 x 3 convolutions lead in and three lead out; each way out but the first also sees a 1 x 1 compressed copy of
    the features of its mirror image on the way in. The authors' code computes a skip for the deepest level too and never
    uses it; it is left out here. Zero padding keeps the size.

    Parameters
    ----------
    targets : int
        Bands to sharpen: the first channels of the input, and the channels of the output.
    companions : int
        Further input channels.
    """

    def __init__(self, targets: int, companions: int) -> None:
        super().__init__()
        self.targets = targets
        widths = [targets + companions] + [FEATURES] * LEVELS
        self.encoders = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths))
        self.skips = nn.ModuleList(nn.Conv2d(FEATURES, SKIP_FEATURES, 1) for _ in range(LEVELS - 1))
        self.decoders = nn.ModuleList(
            nn.Conv2d(FEATURES + (SKIP_FEATURES if level else 0), FEATURES, 3, padding=1) for level in range(LEVELS)
        )
        self.head = nn.Conv2d(FEATURES, targets, 1)
        self.activation = nn.LeakyReLU(LEAK)

    def forward(self, x: Tensor) -> Tensor:
        """Sharpened bands, (batch, targets, y, x), of (batch, targets + companions, y, x) on one grid."""
        features, skips = x, []
        for level, encoder in enumerate(self.encoders):
            features = self.activation(encoder(features))
            if level < LEVELS - 1:
                skips.append(self.activation(self.skips[level](features)))
        features = self.activation(self.decoders[0](features))
        for decoder, skip in zip(self.decoders[1:], reversed(skips), strict=True):
            features = self.activation(decoder(torch.cat([features, skip], dim=1)))
        residual: Tensor = self.head(features)
        return x[:, : self.targets] + residual
