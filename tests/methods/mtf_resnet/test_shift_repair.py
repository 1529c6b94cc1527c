import numpy as np
import pytest
import torch

from s2pipe.methods.mtf_resnet.shift_repair import moved


@pytest.mark.parametrize("shift", [(1.0, -2.0), (0.3, 0.0), (-0.5, 1.4)])
def test_a_moved_image_is_that_of_the_place_beside(shift):
    def waves(dy, dx):
        y, x = np.mgrid[:40, :40].astype(float)
        return torch.from_numpy(np.sin(0.5 * (y + dy)) + np.cos(0.7 * (x + dx) + 0.2 * (y + dy)))[None]

    inner = (..., slice(6, -6), slice(6, -6))
    torch.testing.assert_close(moved(waves(0, 0), shift)[inner], waves(*shift)[inner], atol=0.02, rtol=0)


def test_an_image_that_is_not_moved_is_the_same():
    image = torch.rand(2, 12, 12)
    assert moved(image, (0.0, 0.0)) is image
    torch.testing.assert_close(moved(torch.full((1, 12, 12), 0.3), (0.4, -1.7)), torch.full((1, 12, 12), 0.3))
