"""ResNet: a deep residual network (Palsson, Sveinsson, Ulfarsson 2018, Remote Sens. 10(8):1290, doi:10.3390/rs10081290)."""

from __future__ import annotations

from torch import Tensor, nn

FEATURES = 64
HEAD_FEATURES = (128, 256)
LEAK = 0.01


def radius(blocks: int) -> int:
    """Pixels on either side that an output pixel depends on: one for each of the 3 x 3 convolutions."""
    return 1 + 2 * blocks + 2 + len(HEAD_FEATURES) + 1


class ResNet(nn.Module):
    """Residual of the target bands from the upsampled target bands and their finer companions.

    One 3 x 3 convolution leads in; residual blocks without batch normalisation and two more convolutions follow, to which
    the first features are added again; three convolutions, ever wider, lead out. Zero padding keeps the size. This is how
    the authors of SSC-CNN (Nguyen et al. 2020), who compare with it, implement it.

    Parameters
    ----------
    targets : int
        Bands to sharpen: the first channels of the input, and the channels of the output.
    companions : int
        Further input channels.
    blocks : int
        Residual blocks.
    """

    def __init__(self, targets: int, companions: int, blocks: int = 24) -> None:
        super().__init__()
        self.targets = targets
        self.activation = nn.LeakyReLU(LEAK)
        self.entry = _convolution(targets + companions, FEATURES)
        self.blocks = nn.ModuleList(_two_convolutions() for _ in range(blocks))
        self.after = _two_convolutions()
        self.head = nn.Sequential(
            _convolution(FEATURES, HEAD_FEATURES[0]),
            nn.LeakyReLU(LEAK),
            _convolution(HEAD_FEATURES[0], HEAD_FEATURES[1]),
            nn.LeakyReLU(LEAK),
            _convolution(HEAD_FEATURES[1], targets),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Sharpened bands, (batch, targets, y, x), of (batch, targets + companions, y, x) on one grid."""
        first: Tensor = self.activation(self.entry(x))
        features = first
        for block in self.blocks:
            features = features + block(features)
        residual: Tensor = self.head(first + self.after(features))
        return x[:, : self.targets] + residual


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _two_convolutions() -> nn.Sequential:
    return nn.Sequential(_convolution(FEATURES, FEATURES), nn.LeakyReLU(LEAK), _convolution(FEATURES, FEATURES))
