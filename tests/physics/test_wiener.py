"""What a guess lacks, estimated from its misfit: on images drawn from the very model."""

import numpy as np
import pytest
import torch

from s2pipe import Sensor
from s2pipe.physics.projection import lift
from s2pipe.physics.wiener import STRENGTHS, MisfitModel, fit_model, lacking, seen_power, shares_of

SENSOR = Sensor()
CASES = [("B05", 2), ("B11", 2), ("B01", 6)]


def drawn(model, band, ratio, *, size=128, seed=0):
    """A fine image (y, x) of a model's variance and length, and what the sensor sees of it, with noise."""
    rng = np.random.default_rng(seed)
    edge = size * ratio
    frequency = 2 * np.pi * np.fft.fftfreq(edge)
    power = (1 + model.length**2 * (frequency[:, None] ** 2 + frequency**2)) ** -1.5
    white = np.fft.fft2(rng.standard_normal((edge, edge)))
    fine = np.fft.ifft2(white * np.sqrt(model.variance * power / power.mean())).real
    seen = SENSOR.degrade(torch.from_numpy(fine)[None], [band], ratio)[0].numpy()
    return fine, seen + model.noise * rng.standard_normal(seen.shape)


def everywhere(misfit):
    """Shares of what is as strong in all places as in the mean of the scene."""
    one = torch.tensor([float(strength == 1) for strength in STRENGTHS], dtype=torch.float64)
    return one[None, :, None, None].expand(1, -1, *misfit.shape)


@pytest.mark.parametrize(("band", "ratio"), CASES)
@pytest.mark.parametrize("model", [MisfitModel(1.0, 0.0, 0.3), MisfitModel(1.0, 2.0, 0.2), MisfitModel(1.0, 1.0, 1.0)])
def test_it_is_nearer_to_what_is_lacking_than_any_other_share_of_it(band, ratio, model):
    fine, misfit = drawn(model, band, ratio)

    def error(estimate):
        inner = slice(8 * ratio, -8 * ratio)
        return np.mean((estimate - fine)[inner, inner] ** 2)

    shares = everywhere(misfit)
    best = lacking(torch.from_numpy(misfit)[None], [model], SENSOR, [band], ratio, shares)[0].numpy()
    everything = lift(torch.from_numpy(misfit)[None], SENSOR, [band], ratio)[0].numpy()
    doubled = MisfitModel(model.variance, model.length, 2 * model.noise)
    noisier = lacking(torch.from_numpy(misfit)[None], [doubled], SENSOR, [band], ratio, shares)
    assert error(best) < min(error(share * best) for share in (0, 0.9, 1.1))
    assert error(best) < min(error(everything), error(noisier[0].numpy()))


@pytest.mark.parametrize(("band", "ratio"), CASES)
def test_without_noise_what_is_degraded_is_the_misfit(band, ratio):
    _, misfit = drawn(MisfitModel(1.0, 0.0, 0.0), band, ratio, size=48)
    found = lacking(torch.from_numpy(misfit)[None], [MisfitModel(1.0, 0.0, 0.0)], SENSOR, [band], ratio)
    left = SENSOR.degrade(found, [band], ratio)[0].numpy() - misfit
    assert left.std() < 0.06 * misfit.std()


@pytest.mark.parametrize(("band", "ratio"), CASES)
def test_where_the_guess_lacks_nothing_noise_is_not_sharpened(band, ratio):
    model = MisfitModel(1.0, 0.5, 0.1)
    fine, misfit = drawn(model, band, ratio)
    calm = misfit.shape[1] // 2
    rng = np.random.default_rng(1)
    fine[:, calm * ratio :] = 0
    misfit[:, calm:] = model.noise * rng.standard_normal(misfit[:, calm:].shape)
    shares = shares_of(torch.from_numpy(misfit)[None], [model], SENSOR, [band], ratio)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones_like(shares[:, 0]))
    alike, local = (
        lacking(torch.from_numpy(misfit)[None], [model], SENSOR, [band], ratio, given)[0].numpy() - fine
        for given in (everywhere(misfit), shares)
    )
    loud, quiet = (slice(8 * ratio, (calm - 8) * ratio), slice((calm + 8) * ratio, -8 * ratio))
    assert local[:, quiet].std() < 0.5 * alike[:, quiet].std()
    assert local[:, loud].std() < 1.02 * alike[:, loud].std()


def test_where_all_is_noise_nothing_is_lacking():
    misfit = torch.rand(1, 24, 24)
    assert lacking(misfit, [MisfitModel(1e-12, 0.0, 1.0)], SENSOR, ["B05"], 2).abs().max() < 1e-6


@pytest.mark.parametrize(("band", "ratio"), CASES)
@pytest.mark.parametrize("model", [MisfitModel(4e-6, 0.0, 5e-4), MisfitModel(1e-6, 2.0, 5e-4), MisfitModel(9e-6, 4.0, 1e-4)])
def test_the_model_is_found_and_whitens_the_misfit(band, ratio, model):
    _, misfit = drawn(model, band, ratio, size=192)
    found = fit_model([(misfit, np.ones(misfit.shape, bool))], SENSOR, band, ratio, model.noise)
    expected = found.variance * seen_power(SENSOR, band, ratio, found.length, (64, 64)) + model.noise**2
    taper = np.outer(np.hanning(66)[1:-1], np.hanning(66)[1:-1])
    tiles = misfit.reshape(3, 64, 3, 64).swapaxes(1, 2).reshape(9, 64, 64)
    chi_squared = np.mean(np.abs(np.fft.fft2(taper * tiles)) ** 2 / (taper**2).sum() / expected)
    assert 0.8 < chi_squared < 1.25
    if ratio == 2:
        assert found.length == pytest.approx(model.length, abs=1) and 0.5 < found.variance / model.variance < 2


def test_invalid_pixels_do_not_count():
    _, misfit = drawn(MisfitModel(4e-6, 0.0, 5e-4), "B05", 2)
    valid = np.ones(misfit.shape, bool)
    valid[10:14] = False
    spoilt = np.where(valid, misfit, 1.0)
    with_hole, without = (fit_model([(image, valid)], SENSOR, "B05", 2, 5e-4) for image in (spoilt, misfit))
    assert with_hole == without
    assert fit_model([(misfit, ~valid)], SENSOR, "B05", 2, 5e-4).variance == 0
