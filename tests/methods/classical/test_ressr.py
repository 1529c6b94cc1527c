import numpy as np
import pytest
from papers import mean_sre, paper_scene
from refusals import refused

from s2pipe.methods import get_method
from s2pipe.methods.classical.ressr import data_weights, spectral_mixture


@pytest.mark.parametrize(
    ("name", "protocol", "expected"), [("iceland", "centre", 27.68), ("usa", "centre", 31.19), ("T33UUB", "box", 29.92)]
)
def test_figures_are_those_measured_elsewhere_with_block_means(data_dir, name, protocol, expected):
    scene = paper_scene(data_dir, name)
    assert mean_sre(scene, "ressr", protocol, operator="block") == pytest.approx(expected, abs=0.1)
    if protocol == "centre":  # where the sensor is no block mean, it is better to know it
        assert mean_sre(scene, "ressr", protocol) > expected + 2


def test_weights_of_the_data_sum_to_one_a_resolution():
    assert data_weights([10, 10, 20, 60]).tolist() == pytest.approx([0.99, 0.99, 0.0075, 0.0025])
    assert data_weights([10, 20]).tolist() == pytest.approx([0.99, 0.01])


def test_spectra_in_the_subspace_stay_what_they_are():
    rng = np.random.default_rng(0)
    pixels = rng.uniform(0, 1, (6, 2)) @ rng.uniform(0.1, 0.5, (2, 400)) + 0.1
    mixture = spectral_mixture(pixels, [10, 10, 10, 10, 20, 20])
    np.testing.assert_allclose(mixture[:, :1] + mixture[:, 1:] @ pixels, pixels, atol=2e-3)


def test_a_coarse_band_follows_the_10_m_bands():
    rng = np.random.default_rng(0)
    pixels = rng.uniform(0, 1, (6, 2)) @ rng.uniform(0.1, 0.5, (2, 400)) + 0.1
    mixture = spectral_mixture(pixels, [10, 10, 10, 10, 20, 20])
    assert np.abs(mixture[4:, 1:5]).sum() > 20 * np.abs(mixture[4:, 5:]).sum()


def test_flat_pixels_are_no_harm():
    mixture = spectral_mixture(np.full((5, 30), 0.2), [10, 10, 10, 20, 60])
    np.testing.assert_allclose(mixture[:, 0] + mixture[:, 1:] @ np.full(5, 0.2), 0.2)


def test_other_operators_are_refused():
    with refused("operator", naming=("mean", "sensor", "block")):
        get_method("ressr", operator="mean")
