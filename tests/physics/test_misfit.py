import numpy as np
import pytest
import torch

from s2pipe import Sensor
from s2pipe.core.bands import BANDS_BY_GSD
from s2pipe.physics.misfit import REACH, Known, fill_smoothly, misfit_of

BANDS = BANDS_BY_GSD[20][:2]


def image(*shape):
    return torch.from_numpy(np.random.default_rng(0).random(shape).astype(np.float32))


def a_hole(*shape):
    valid = torch.ones(shape, dtype=torch.bool)
    valid[..., 10:16, 7:12] = False
    return valid


def test_what_is_known_is_seen_whole():
    fine, coarse = torch.ones(8, 8, dtype=torch.bool), torch.ones(2, 4, 4, dtype=torch.bool)
    fine[3, 2] = False
    coarse[1, 3, 3] = False
    known = Known.of(fine, coarse).coarse
    expected = coarse.clone()
    expected[:, 1, 1] = False
    assert torch.equal(known, expected)


@pytest.mark.parametrize("ratio", [2, 6])
def test_what_lies_in_a_hole_does_not_matter(ratio):
    sensor, guess, valid = Sensor(), image(2, 36, 36), a_hole(36, 36)
    observed = sensor.degrade(guess, BANDS, ratio)
    known = Known.of(valid, torch.ones(observed.shape, dtype=torch.bool))
    changed = torch.where(valid, guess, 7.0)
    changed_observed = torch.where(known.coarse, observed, -3.0)
    expected = misfit_of(guess, observed, sensor, BANDS, ratio, known)
    torch.testing.assert_close(misfit_of(changed, changed_observed, sensor, BANDS, ratio, known), expected)


def test_without_holes_it_is_observed_minus_degraded():
    sensor, guess, observed = Sensor(), image(2, 24, 24), image(2, 12, 12)
    known = Known.of(torch.ones(24, 24, dtype=torch.bool), torch.ones(2, 12, 12, dtype=torch.bool))
    assert torch.equal(misfit_of(guess, observed, sensor, BANDS, 2, known), observed - sensor.degrade(guess, BANDS, 2))


def test_a_hole_is_filled_with_what_is_around_it_and_far_from_all_with_nothing():
    misfit, known = torch.full((1, 30, 30), 2.0), torch.ones(1, 30, 30, dtype=torch.bool)
    known[:, 5:25, 5:25] = False
    filled = fill_smoothly(torch.where(known, misfit, torch.nan).nan_to_num(99.0), known)
    assert torch.equal(filled[known], misfit[known])
    assert (filled <= 2).all() and filled[0, 5, 15] > 1.5
    assert (filled[0, 5 + REACH : 25 - REACH, 5 + REACH : 25 - REACH] == 0).all()
