import numpy as np
import pytest
import torch
from refusals import refused

import s2pipe
from s2pipe import Sensor
from s2pipe.core.bands import BANDS_BY_GSD
from s2pipe.fitting.sampling import Sample
from s2pipe.inputs.dataarray import as_cube
from s2pipe.methods import get_method
from s2pipe.methods.classical.atprk import Atprk
from s2pipe.methods.classical.injection import Glp, Gsa
from s2pipe.methods.classical.pan import least_squares, mixture, regress_on_fine, select_fine


@pytest.fixture(scope="module")
def sample():
    """B05 is 0.1 + 0.5 B02 + 0.25 B08 of what the sensor sees of them; B06 is dark where B03 is bright; B07 is B04."""
    rng = np.random.default_rng(0)
    fine = rng.uniform(0.1, 0.5, (4, 96, 84)).astype(np.float32)
    degraded = Sensor().degrade(torch.from_numpy(fine), BANDS_BY_GSD[10], 2).numpy()
    coarse = rng.uniform(0.1, 0.5, (6, 48, 42)).astype(np.float32)
    coarse[0] = 0.1 + 0.5 * degraded[0] + 0.25 * degraded[3]
    coarse[1] = 0.9 - degraded[1]
    coarse[2] = degraded[2] + 0.01 * coarse[2]
    return Sample.of(as_cube(s2pipe.from_arrays(fine, coarse)), seed=0)


def test_a_mixture_is_found_again(sample):
    found = regress_on_fine("B05", 20, sample.bands, sample.windows, Sensor.named("centre"))
    np.testing.assert_allclose(found, [0.1, 0.5, 0, 0, 0.25], atol=1e-5)


def test_the_selected_band_correlates_most_and_not_inversely(sample):
    assert select_fine("B07", 20, sample.bands, sample.windows, Sensor.named("centre")) == 2
    assert select_fine("B06", 20, sample.bands, sample.windows, Sensor.named("centre")) != 1


def test_a_selected_band_is_regressed_alone(sample):
    found = regress_on_fine("B07", 20, sample.bands, sample.windows, Sensor.named("centre"), pan="selected")
    assert found[3] == pytest.approx(1, abs=0.01) and (found[[1, 2, 4]] == 0).all()


def test_constant_bands_are_not_selected():
    fine = np.full((4, 24, 24), 0.3, np.float32)
    fine[3] = np.random.default_rng(0).random((24, 24))
    scene = s2pipe.from_arrays(fine, -fine[[3] * 6, ::2, ::2])
    sample = Sample.of(as_cube(scene), seed=0)
    assert select_fine("B05", 20, sample.bands, sample.windows, Sensor.named("centre")) == 3  # though its correlation is negative


def test_of_many_solutions_the_smallest_is_taken():
    row = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(least_squares(np.stack([row, row]), 2 * row), [0, 1, 1], atol=1e-9)


def test_a_mixture_begins_with_its_intercept():
    bands = torch.tensor([[[1.0]], [[10.0]]])
    torch.testing.assert_close(mixture(torch.tensor([[0.5, 2, 3]]), bands), torch.tensor([[[32.5]]]))


@pytest.mark.parametrize("recipe", [Glp, Gsa, Atprk])
def test_other_pans_are_refused(recipe):
    with refused("pan", naming=("blue", "synthesised", "selected")):
        recipe(pan="blue")


@pytest.mark.parametrize("method", ["glp", "glp-sel", "atprk-sel"])
def test_the_pan_of_a_method_is_that_of_its_name(method):
    with refused("pan", naming=(method,)):
        get_method(method, pan="selected")
