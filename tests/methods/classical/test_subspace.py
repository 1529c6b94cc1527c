import numpy as np
import pytest
import torch
from refusals import refused
from scenes import random_cube

import s2pipe
from s2pipe import Sensor
from s2pipe.core.bands import BANDS
from s2pipe.fitting.sampling import Sample, Window
from s2pipe.inputs.dataarray import as_cube
from s2pipe.methods.classical.subspace import (
    Observation,
    Transform,
    adjoint_of_differences,
    blurred_subspace,
    differences,
    edge_weights,
    rms_of_bands,
    sample_pixels,
    scale_of_edges,
    spectra,
)

SHAPE = (36, 24)


def random(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def observation(bands, sensor, seed=0):
    images = [random(*(size * 10 // BANDS[band].gsd for size in SHAPE), seed=seed) for band in bands]
    return Observation.of(bands, images, sensor, "cpu"), images


BANDS_OF_ALL = ("B02", "B05", "B09")


@pytest.mark.parametrize("protocol", ["centre", "corner", "box"])
def test_the_observation_projects_as_the_sensor_does(protocol):
    sensor = Sensor.named(protocol)
    seen, images = observation(BANDS_OF_ALL, sensor)
    x = random(3, *SHAPE, seed=1)
    for i, band in enumerate(BANDS_OF_ALL):
        degraded = x[i] if band == "B02" else sensor.degrade(x[i : i + 1], [band], BANDS[band].gsd // 10)[0]
        # <y, B x> = <B' y, x>, and <B x, B x> = <B' B x, x>
        assert float((images[i] * degraded).sum()) == pytest.approx(float((seen.back_projected()[i] * x[i]).sum()), rel=1e-3)
        assert float((degraded**2).sum()) == pytest.approx(float((seen.back_projected(x)[i] * x[i]).sum()), rel=1e-3)


@pytest.mark.parametrize("protocol", ["centre", "corner", "box"])
def test_the_resolvent_is_exact(protocol):
    seen, _ = observation(BANDS_OF_ALL, Sensor.named(protocol))
    x = random(3, *SHAPE, seed=1)
    solved = seen.resolve(x, 0.2)
    torch.testing.assert_close(seen.back_projected(solved) + 0.2 * solved, x, atol=1e-4, rtol=1e-4)


def test_the_adjoint_of_differences_is_one():
    z, down, across = random(2, *SHAPE), random(2, *SHAPE, seed=1), random(2, *SHAPE, seed=2)
    steps = differences(z)
    left = float((steps[0] * down).sum() + (steps[1] * across).sum())
    assert left == pytest.approx(float((z * adjoint_of_differences(down, across)).sum()), rel=1e-3)


def test_the_transform_inverts_what_differences_make():
    z = random(2, *SHAPE)
    solved = Transform.of(SHAPE, "cpu").solve(z)
    torch.testing.assert_close(solved + adjoint_of_differences(*differences(solved)), z, atol=1e-4, rtol=1e-4)


def sample_of(cube):
    return Sample.of(as_cube(cube), seed=0)


def test_the_subspace_is_orthonormal_and_holds_what_the_bands_have_in_common():
    fine = np.random.default_rng(0).uniform(0.1, 0.5, (2, 96, 96)).astype(np.float32)
    mixed = np.einsum("bf,fyx->byx", np.random.default_rng(1).uniform(0, 1, (4, 2)), fine).astype(np.float32)
    cube = s2pipe.from_arrays(mixed, np.concatenate([mixed, mixed[:2]])[:, ::2, ::2])
    sample = sample_of(cube)
    rms = rms_of_bands(sample, [*sample.bands[10], *sample.bands[20]])
    subspace = blurred_subspace(sample, Sensor(), rms=rms, without=(), dimensions=7)
    np.testing.assert_allclose(subspace.T @ subspace, np.eye(7), atol=1e-6)
    spectrum = mixed[:, 5, 5] / rms[:4]
    leading = subspace[:4, :2] / np.linalg.norm(subspace[:4, :2], axis=0)
    assert np.linalg.lstsq(leading, spectrum, rcond=None)[1] < 1e-2


def test_a_band_without_data_has_no_part_in_the_subspace():
    sample = sample_of(random_cube(96, 96))
    bands = [band for names in sample.bands.values() for band in names]
    subspace = blurred_subspace(sample, Sensor(), rms=np.ones(12), without=("B05",), dimensions=7)
    assert (subspace[bands.index("B05")] == 0).all() and np.abs(subspace).sum(axis=1)[bands.index("B06")] > 0


def test_rms_is_that_of_the_valid_pixels():
    image = np.full((1, 12, 12), 3.0, np.float32)
    valid = np.ones_like(image, dtype=bool)
    image[0, :6], valid[0, :6] = 100, False
    sample = Sample(bands={10: ("B02",)}, windows=[Window(reflectance={10: image}, valid={10: valid})], gsds=())
    assert rms_of_bands(sample, ["B02"]) == pytest.approx([3])


def test_pixels_that_are_never_valid_in_all_bands_are_refused():
    fine, coarse = np.ones((4, 12, 12), np.float32), np.ones((6, 6, 6), np.float32)
    fine[:, :6] = np.nan
    coarse[0, 3:] = np.nan
    sample = sample_of(s2pipe.from_arrays(fine, coarse))
    with refused("data"):
        sample_pixels(sample, Sensor(), without=())


def test_edges_weigh_half():
    fine = torch.zeros(1, 24, 24)
    fine[:, :, 12:] = 1
    sample = sample_of(s2pipe.from_arrays(np.repeat(fine.numpy(), 4, axis=0), np.ones((6, 12, 12), np.float32)))
    scale = scale_of_edges(sample, np.ones(4))
    weights = edge_weights(fine, torch.tensor(scale))
    assert (weights[:, 11] < 0.61).all() and (weights[:, :11] == 1).all() and (weights[:, 12:] == 1).all()


def test_spectra_and_their_transpose():
    subspace, z = random(5, 3), random(3, 4, 4)
    torch.testing.assert_close(spectra(subspace, z)[:, 2, 1], subspace @ z[:, 2, 1])
    torch.testing.assert_close(spectra(subspace.T, random(5, 4, 4))[:, 0, 0], subspace.T @ random(5, 4, 4)[:, 0, 0])
