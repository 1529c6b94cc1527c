import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2pipe import Sensor
from s2pipe.core.bands import BANDS_BY_GSD
from s2pipe.fitting.training import seeded
from s2pipe.physics.projection import lift, project, reach, unseen

PROTOCOLS = ("centre", "box", "corner")
LEFT = {2: 0.015, 6: 0.06}
"""Share of a misfit that may be left."""


def scene(seed, ratio, *, size=144):
    """A rough image of the bands at 10 m, and what another one is seen as."""
    bands = BANDS_BY_GSD[10 * ratio]
    rng = np.random.default_rng(seed)
    fine, other = (torch.from_numpy(rng.random((len(bands), size, size), dtype=np.float32)) for _ in range(2))
    return bands, fine, other


@pytest.mark.parametrize("ratio", [2, 6])
@pytest.mark.parametrize("protocol", PROTOCOLS)
@settings(max_examples=3)
@given(seed=st.integers(0, 1000))
def test_projected_and_degraded_it_is_what_was_observed(protocol, ratio, seed):
    sensor = Sensor.named(protocol)
    bands, fine, other = scene(seed, ratio)
    observed = sensor.degrade(other, bands, ratio)
    left = sensor.degrade(project(fine, observed, sensor, bands, ratio), bands, ratio) - observed
    inner = slice(8, -8) if protocol == "corner" else slice(None)  # whose zeros beyond the edge no mirror undoes
    before = sensor.degrade(fine, bands, ratio) - observed
    assert left[:, inner, inner].std() < LEFT[ratio] * before.std()


@pytest.mark.parametrize("ratio", [2, 6])
def test_it_is_the_least_change(ratio):
    sensor = Sensor()
    bands, fine, other = scene(0, ratio)
    observed = sensor.degrade(other, bands, ratio)
    change = project(fine, observed, sensor, bands, ratio) - fine
    # any other image that meets the observation differs from this one by what the sensor does not see
    hidden = unseen(other, sensor, bands, ratio)
    inner = slice(5 * ratio, -5 * ratio)
    cosine = torch.cosine_similarity(change[:, inner, inner].flatten(), hidden[:, inner, inner].flatten(), dim=0)
    assert abs(cosine) < LEFT[ratio]


@pytest.mark.parametrize("ratio", [2, 6])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_the_sensor_does_not_see_it_does_not_see(protocol, ratio):
    sensor = Sensor.named(protocol)
    bands, fine, _ = scene(1, ratio)
    seen = sensor.degrade(unseen(fine, sensor, bands, ratio), bands, ratio)
    inner = slice(8, -8) if protocol == "corner" else slice(None)
    assert seen[:, inner, inner].std() < LEFT[ratio] * sensor.degrade(fine, bands, ratio).std()


@pytest.mark.parametrize("ratio", [2, 6])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_farther_than_its_reach_matters(protocol, ratio):
    sensor = Sensor.named(protocol)
    bands, fine, other = scene(2, ratio, size=240)
    observed = sensor.degrade(other, bands, ratio)
    touched, seen = fine.clone(), observed.clone()
    middle = 120
    touched[:, middle, middle] += 1
    seen[:, middle // ratio, middle // ratio] += 1
    change = project(touched, seen, sensor, bands, ratio) - project(fine, observed, sensor, bands, ratio)
    rows = torch.nonzero(change.abs().amax(dim=(0, 2)) > 1e-6)[:, 0]
    assert middle - rows.min() <= reach(sensor, ratio)
    assert rows.max() - middle <= reach(sensor, ratio)


def test_noise_of_coarse_pixels_is_sharpened_two_to_threefold():
    """The less a sensor sees of detail, the more."""
    with seeded(0):
        noise = torch.randn(2, 120, 120)
    sharpened = lift(noise, Sensor(), ["B05", "B11"], 2).std(dim=(1, 2))
    assert sharpened[0] == pytest.approx(1.9, abs=0.1) and sharpened[1] == pytest.approx(3.5, abs=0.1)
