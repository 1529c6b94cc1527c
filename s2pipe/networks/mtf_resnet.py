"""The residual network of mtf-resnet, on the grid of the 20 m bands, where a pixel holds the four of 10 m that it covers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

FEATURES = 64
BLOCKS = 3


def radius() -> int:
    """Pixels on either side, of the network's own grid, that an output pixel depends on."""
    return 1 + 2 * BLOCKS + 1


class Block(nn.Module):
    """x plus two 3 x 3 convolutions of x; nothing is added before the first training step."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(FEATURES, FEATURES, 3, padding=1)
        self.second = nn.Conv2d(FEATURES, FEATURES, 3, padding=1)
        _start_at_zero(self.second)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, FEATURES, y, x) of the same."""
        added: Tensor = self.second(F.relu(self.first(x), inplace=True))
        return added.add_(x)  # in place: on a CPU, fresh memory costs as much as the sum


class MtfResNetwork(nn.Module):
    """Residual blocks without normalisation (Lim et al. 2017, doi:10.1109/CVPRW.2017.151), given the sensor's parameters.

    A convolution leads in, one leads out, which starts at zero; the parameters (`told`) are mapped to a bias of the first.

    Parameters
    ----------
    inputs, told, outputs : int
        Images in, numbers that describe the sensor, and images out.
    """

    def __init__(self, *, inputs: int, told: int, outputs: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(inputs, FEATURES, 3, padding=1)
        self.tell = nn.Linear(told, FEATURES, bias=False)
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.leave = nn.Conv2d(FEATURES, outputs, 3, padding=1)
        nn.init.zeros_(self.tell.weight)
        _start_at_zero(self.leave)

    def forward(self, images: Tensor, told: Tensor) -> Tensor:
        """(batch, outputs, y, x) of images (batch, inputs, y, x) and numbers (batch, told)."""
        x = F.relu(self.enter(images).add_(self.tell(told)[:, :, None, None]), inplace=True)
        result: Tensor = self.leave(self.blocks(x))
        return result


def _start_at_zero(convolution: nn.Conv2d) -> None:
    nn.init.zeros_(convolution.weight)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
