import numpy as np
import pytest
import torch

from s2pipe import Sensor
from s2pipe.core.bands import BANDS_BY_GSD
from s2pipe.physics.white_noise import noise_returned, with_fine_bands


@pytest.mark.parametrize("ratio", [2, 6])
def test_degraded_noise_gets_back_what_it_lost(ratio):
    bands, random = BANDS_BY_GSD[20][:2], np.random.default_rng(0)
    noise = {bands[0]: 0.001, bands[1]: 0.0}
    fine = np.stack([noise[band] * random.standard_normal((720, 720)) for band in bands]).astype(np.float32)
    degraded = Sensor().degrade(torch.from_numpy(fine), bands, ratio).numpy()
    assert degraded[0].std() < 0.5 * fine[0].std()
    returned = noise_returned(degraded, bands, noise, Sensor(), ratio, random)
    assert returned[0].std() == pytest.approx(0.001, rel=0.03)
    assert returned.dtype == np.float32 and not returned[1].any()


def test_fine_bands_have_the_noise_of_those_most_like_them():
    noise = {"B05": 0.001, "B06": 0.002, "B8A": 0.004, "B11": 1.0}
    assert with_fine_bands(noise, ("B02",)) == noise | {"B02": 0.002}
    assert with_fine_bands({"B11": 1.0}, ("B02",))["B02"] == 0
