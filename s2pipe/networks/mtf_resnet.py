"""The residual network of mtf-resnet. It works on a grid of half the resolution, where a pixel holds four of the image's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

FEATURES = 64
BLOCKS = 3


def radius() -> int:
    """Pixels of the image on either side that an output pixel depends on: two for each 3 x 3 convolution, and its own square."""
    return 2 * (1 + 2 * BLOCKS + 1) + 1


class Block(nn.Module):
    """x plus two 3 x 3 convolutions of x; nothing is added before the first training step."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(FEATURES, FEATURES, 3, padding=1)
        self.second = nn.Conv2d(FEATURES, FEATURES, 3, padding=1)
        _start_at_zero(self.second)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, FEATURES, y, x) of the same."""
        added: Tensor = self.second(F.relu(self.first(x)))
        return x + added


class MtfResNetwork(nn.Module):
    """Images of detail from images.

    Residual blocks without normalisation (Lim et al. 2017, doi:10.1109/CVPRW.2017.151) between a convolution that leads in and
    one that leads out, which starts at zero. Each square of 2 x 2 pixels becomes one pixel with four times the channels (Shi et
    al. 2016, doi:10.1109/CVPR.2016.207), and back: a quarter of the pixels make the same convolutions four times cheaper, and
    reach twice as far.

    Parameters
    ----------
    inputs, outputs : int
        Images in and out.
    """

    def __init__(self, *, inputs: int, outputs: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(4 * inputs, FEATURES, 3, padding=1)
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.leave = nn.Conv2d(FEATURES, 4 * outputs, 3, padding=1)
        _start_at_zero(self.leave)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, outputs, y, x) of (batch, inputs, y, x); y and x are even."""
        x = F.pixel_unshuffle(images, 2)
        x = self.blocks(F.relu(self.enter(x)))
        return F.pixel_shuffle(self.leave(x), 2)


def _start_at_zero(convolution: nn.Conv2d) -> None:
    nn.init.zeros_(convolution.weight)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
