from dataclasses import replace

import numpy as np
import pytest
import torch
from papers import paper_scene
from scenes import random_cube

from s2pipe import Sensor
from s2pipe.core.bands import BANDS
from s2pipe.fitting.sampling import Sample, Window
from s2pipe.fitting.training import seeded
from s2pipe.inputs.dataarray import as_cube
from s2pipe.methods.mtf_resnet.inputs import (
    CHANNELS,
    COARSE,
    FINE,
    IN_SQUARES,
    TOLD,
    Inputs,
    Scaling,
    describe,
    image_of,
    squares_of,
)
from s2pipe.physics.misfit import Known

SENSOR = Sensor()


def inputs_of(sample, used=COARSE, sensor=SENSOR):
    window = sample.windows[0]
    scaling = Scaling.of(sample.windows, sample.bands, used, sensor)
    rows = [sample.bands[20].index(band) for band in used]
    fine, coarse = torch.from_numpy(window.reflectance[10]), torch.from_numpy(window.reflectance[20][rows])
    return Inputs.of(fine, coarse, Known.everywhere(fine, coarse), FINE, used, sensor, scaling), scaling


def test_squares_hold_the_pixels_of_an_image():
    image = torch.arange(2 * 4 * 6.0).reshape(2, 4, 6)
    squares = squares_of(image)
    assert squares.shape == (2, 4, 2, 3)
    np.testing.assert_array_equal(squares[1, :, 1, 2], image[1, 2:, 4:].flatten())
    torch.testing.assert_close(image_of(squares), image, atol=0, rtol=0)


def test_what_is_told_tells_sensors_apart():
    sharper = replace(SENSOR, mtf=tuple((name, band.mtf_nyquist + 0.05) for name, band in BANDS.items()))
    told = [describe(sensor) for sensor in (SENSOR, sharper, Sensor.named("box"), Sensor.named("corner"))]
    assert all(vector.shape == (TOLD,) and vector.abs().max() < 1.5 for vector in told)
    assert (told[1][:-1] < told[0][:-1]).all()  # a higher MTF is a narrower point spread function
    assert told[0][-1] == pytest.approx(0, abs=1e-6) and told[3][-1] == pytest.approx(-1)
    assert len({tuple(vector.tolist()) for vector in told}) == 4


def test_scaled_bands_have_a_mean_of_0_and_a_deviation_of_1(data_dir):
    sample = Sample.of(as_cube(paper_scene(data_dir, "iceland")), seed=0)
    inputs, _ = inputs_of(sample)
    assert inputs.coarse.mean(dim=(1, 2)).abs().max() < 1e-4
    for image in (inputs.coarse, inputs.fine_detail, inputs.guess_detail):
        deviation = image.flatten(1).std(dim=1)
        torch.testing.assert_close(deviation, torch.ones_like(deviation), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("name", "share"), [("centre", 0.5), ("matched", 0.6)])  # matched, the one mixture is nearer, too
def test_the_guess_is_nearer_to_the_coarse_bands_than_one_mixture_for_the_whole_scene(data_dir, name, share):
    inputs, _ = inputs_of(Sample.of(as_cube(paper_scene(data_dir, "iceland")), seed=0), sensor=Sensor.named(name))
    assert (inputs.local_misfit.square().mean(dim=(1, 2)) < share * inputs.misfit.square().mean(dim=(1, 2))).all()


def test_invalid_pixels_do_not_count():
    sample = Sample.of(as_cube(random_cube()), seed=0)
    window = sample.windows[0]
    valid = {gsd: array.copy() for gsd, array in window.valid.items()}
    reflectance = {gsd: array.copy() for gsd, array in window.reflectance.items()}
    valid[20][:, :30], valid[10][:, :60] = False, False
    reflectance[20][:, :30], reflectance[10][:, :60] = 7.0, 7.0
    scalings = [
        Scaling.of([Window(reflectance=reflectance, valid=valid)], sample.bands, COARSE, SENSOR).coarse_mean,
        torch.from_numpy(window.reflectance[20][:, 30:].mean(axis=(1, 2)))[:, None, None],
    ]
    torch.testing.assert_close(*scalings)


def test_nothing_is_added_to_constant_bands():
    window = Window(
        reflectance={10: np.full((4, 24, 24), 0.2, np.float32), 20: np.full((6, 12, 12), 0.3, np.float32)},
        valid={10: np.ones((4, 24, 24), bool), 20: np.ones((6, 12, 12), bool)},
    )
    inputs, scaling = inputs_of(Sample(bands={10: FINE, 20: COARSE}, windows=[window], gsds=(20,)))
    assert all(torch.isfinite(image).all() for image in vars(inputs).values())
    assert (scaling.guess_detail * scaling.coarse_scale <= 1e-6).all()


def test_bands_that_are_missing_leave_their_channels_empty():
    with seeded(0):
        sample = Sample.of(as_cube(random_cube()), seed=0)
    everything, _ = inputs_of(sample)
    some, _ = inputs_of(sample, ("B06", "B12"))
    full, partial = everything.channels(range(6)), some.channels((1, 5))
    assert full.shape == partial.shape == (CHANNELS, 60, 48)
    squares = partial[4 * (IN_SQUARES - 6) : 4 * IN_SQUARES].reshape(6, 4, 60, 48)
    rest = partial[4 * IN_SQUARES :].reshape(6, 3, 60, 48)
    for images in (squares, rest):
        assert [bool(image.any()) for image in images] == [False, True, False, False, False, True]
    torch.testing.assert_close(partial[: 4 * len(FINE)], full[: 4 * len(FINE)])
