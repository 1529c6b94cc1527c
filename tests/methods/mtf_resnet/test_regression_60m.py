import numpy as np
import pytest
import torch
from scenes import random_cube

from s2pipe import Sensor
from s2pipe.fitting.sampling import Sample, Window
from s2pipe.inputs.dataarray import as_cube
from s2pipe.methods.mtf_resnet.regression_60m import mixtures_of_60m

SENSOR = Sensor()


def sample_of(slopes, names, *, size=252, dead=()):
    """A scene whose 60 m bands are mixtures of the bands in `names`, and the bands at 10 m; of `dead` a quarter is valid."""
    sample = Sample.of(as_cube(random_cube(size, size)), seed=0)
    window = sample.windows[0]
    coarse = torch.from_numpy(window.reflectance[20].repeat(2, axis=1).repeat(2, axis=2))
    finer = torch.cat([torch.from_numpy(window.reflectance[10]), coarse])
    valid = {gsd: mask.copy() for gsd, mask in window.valid.items()}
    for band in dead:
        valid[20][sample.bands[20].index(band), :, size // 8 :] = False
    mixture = torch.einsum("bk,kyx->byx", torch.from_numpy(slopes).float(), finer)
    mixed = 0.05 + SENSOR.degrade(mixture, sample.bands[60], 6).numpy()
    changed = Window(reflectance=window.reflectance | {60: mixed}, valid=valid)
    return Sample(bands=sample.bands, windows=[changed], gsds=sample.gsds), finer


NAMES = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12")


def test_mixtures_are_found():
    slopes = np.zeros((2, 10))
    slopes[0, :4], slopes[1, 4:] = (0.6, 0.2, 0.0, 0.1), (0.1, 0, 0, 0.5, 0.3, 0)
    sample, finer = sample_of(slopes, NAMES)
    found = mixtures_of_60m(sample, [finer], NAMES, SENSOR, without=()).numpy()
    np.testing.assert_allclose(found[:, 1:], slopes, atol=0.01)
    np.testing.assert_allclose(found[:, 0], 0.05, atol=0.01)


def test_b01_takes_nothing_from_the_20m_bands_and_what_is_left_out_is_zero():
    sample, finer = sample_of(np.ones((2, 10)), NAMES)
    found = mixtures_of_60m(sample, [finer], NAMES, SENSOR, without=("B09",))
    assert found[0, 1:5].all() and not found[0, 5:].any() and not found[1].any()


@pytest.mark.parametrize(("dead", "left"), [(("B11",), 9), (("B05", "B12"), 8)])
def test_a_band_with_few_valid_pixels_is_not_used(dead, left):
    sample, finer = sample_of(np.ones((2, 10)), NAMES, dead=dead)
    assert np.count_nonzero(mixtures_of_60m(sample, [finer], NAMES, SENSOR, without=())[1, 1:]) == left


def test_few_pixels_have_a_mean_only():
    sample, finer = sample_of(np.ones((2, 10)), NAMES, size=18)
    found = mixtures_of_60m(sample, [finer], NAMES, SENSOR, without=())
    assert not found[:, 1:].any()
    torch.testing.assert_close(found[:, 0], torch.from_numpy(sample.windows[0].reflectance[60].mean(axis=(1, 2))))
