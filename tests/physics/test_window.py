import pytest
import torch

from s2pipe.physics.window import window_mean


@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_the_mean_of_a_constant_is_it(constant):
    torch.testing.assert_close(window_mean(torch.full((2, 9, 7), constant)), torch.full((2, 9, 7), constant))
