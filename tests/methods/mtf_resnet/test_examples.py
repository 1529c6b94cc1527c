import numpy as np
import pytest
import torch
from papers import paper_scene
from scenes import with_numbers

from s2pipe import Sensor
from s2pipe.fitting.sampling import Sample
from s2pipe.fitting.training import seeded
from s2pipe.inputs.dataarray import as_cube
from s2pipe.methods.mtf_resnet.examples import Example, _channels_of, lowered
from s2pipe.methods.mtf_resnet.inputs import COARSE, Inputs, Scaling
from s2pipe.methods.mtf_resnet.pretrained import new_network
from s2pipe.physics.misfit import Known


def example_of(cube, protocol="centre", used=COARSE):
    sample, sensor = Sample.of(as_cube(cube), seed=0), Sensor.named(protocol)
    window = sample.windows[0]
    rows = [COARSE.index(band) for band in used]
    return Example.of(lowered(window, sample.bands, used, sensor), window.reflectance[20][rows], sample.bands, used, sensor)


@pytest.fixture(scope="module")
def iceland(data_dir):
    return paper_scene(data_dir, "iceland")


def test_a_network_that_adds_nothing_has_the_error_of_the_guess(iceland):
    """Its mean is 1 in the unit of the loss, so that the loss lies between half of that and half of its square."""
    example = example_of(iceland)
    torch.testing.assert_close(example.left.abs().mean(dim=(1, 2)), example.error.flatten(), rtol=0.1, atol=0)
    losses = [example.loss(new_network(), np.random.default_rng(seed), "cpu", "float32").item() for seed in range(5)]
    assert 0.2 < np.mean(losses) < 2


def test_the_loss_falls_when_the_network_adds_what_is_missing(iceland):
    example = example_of(iceland)
    with seeded(0):
        network = new_network()
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    losses = []
    for step in range(30):
        loss = example.loss(network, np.random.default_rng(step % 3), "cpu", "float32")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])


def test_what_is_held_out_shares_no_pixel_with_what_is_trained_on(iceland):
    trained, held_out = (
        {(y + i, x + j) for y, x in half.corners.tolist() for i in range(half.edge) for j in range(half.edge)}
        for half in example_of(iceland).split()
    )
    assert trained and held_out and not trained & held_out


def test_patches_hold_no_nodata(iceland):
    numbers = iceland["r20m"]["reflectance"].values.copy()
    numbers[..., :40, :60] = 0
    example = example_of(with_numbers(iceland, r20m=numbers))
    assert len(example.corners)
    assert all(y >= 20 or x >= 30 for y, x in example.corners.tolist())


@pytest.mark.parametrize("protocol", ["centre", "box", "corner"])
def test_patches_are_turned_by_symmetries_of_the_sensor_only(iceland, protocol):
    """What is made of turned bands are the turned channels."""
    sample, sensor = Sample.of(as_cube(iceland), seed=0), Sensor.named(protocol)
    lower = lowered(sample.windows[0], sample.bands, COARSE, sensor)
    scaling = Scaling.of([lower], sample.bands, COARSE, sensor)
    example = example_of(iceland, protocol)
    turned = set()
    for seed in range(40):
        turn = example._turn(np.random.default_rng(seed))
        name = turn(torch.arange(4.0).reshape(1, 2, 2)).flatten().int().numpy().tobytes()
        if name not in turned:
            bands = [turn(torch.from_numpy(lower.reflectance[gsd])) for gsd in (10, 20)]
            channels = Inputs.of(*bands, Known.everywhere(*bands), sample.bands[10], COARSE, sensor, scaling).channels(range(6))
            size = channels.shape[1]
            y, x = ((size - example.edge) // 2,) * 2
            inner = slice(y, y + example.edge)
            torch.testing.assert_close(channels[:, inner, inner], example._channels(y, x, turn), atol=2e-3, rtol=1e-3)
        turned.add(name)
    assert len(turned) == (2 if protocol == "corner" else 8)


def test_hidden_bands_are_neither_shown_nor_judged(iceland):
    example = example_of(iceland)
    shown = []

    class Watching(torch.nn.Module):
        def forward(self, images, told):
            shown.append(images)
            return torch.zeros(len(images), 24, *images.shape[2:])

    for seed in range(8):
        example.loss(Watching(), np.random.default_rng(seed), "cpu", "float32", hiding=1.0)
    hidden = [[not images[:, _channels_of(slot)].any() for slot in range(6)] for images in shown]
    assert any(any(row) for row in hidden) and not any(all(row) for row in hidden)
    assert {tuple(_channels_of(slot)) for slot in range(6)} == {tuple(c) for c in map(_channels_of, range(6))}


def test_an_example_of_some_bands_only(iceland):
    example = example_of(iceland, used=("B05", "B11"))
    assert example.slots == (0, 4) and len(example.left) == 2
    assert torch.isfinite(example.loss(new_network(), np.random.default_rng(0), "cpu", "float32"))
