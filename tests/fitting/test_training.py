import math
from itertools import pairwise

import pytest
import safetensors.torch
import torch
from refusals import refused

from s2pipe.fitting.training import HELD_OUT_EVERY, Checkpoint, batch_of_step, seeded, train

INPUTS = torch.rand(32, 2, 8, 8, generator=torch.Generator().manual_seed(0))
TARGETS = 0.5 * INPUTS[:, :1] + 0.25 * INPUTS[:, 1:]


def toy(seed):
    with seeded(seed):
        return torch.nn.Conv2d(2, 1, 1)


def loss_of(seed, blow_up_at=None):
    def loss(network, step):
        batch = batch_of_step(len(INPUTS), 8, seed=seed, step=step)
        value = torch.nn.functional.mse_loss(network(INPUTS[batch]).float(), TARGETS[batch])
        return value * math.nan if step == blow_up_at else value

    return loss


def trained(seed, steps=150, **options):
    network, told = toy(seed), []
    kept = train(
        network, options.pop("loss", loss_of(seed)), steps=steps, learning_rate=0.05, device="cpu", label="toy",
        progress=lambda *what: told.append(what), **options,
    )  # fmt: skip
    return network, told, kept


def test_training_learns_reports_and_is_reproducible():
    network, told, kept = trained(3)
    assert told[0][:3] == ("toy", 1, 150) and told[-1][:3] == ("toy", 150, 150) and kept == 150
    assert told[-1][3] < 0.05 * told[0][3]
    torch.testing.assert_close(network.state_dict(), trained(3)[0].state_dict(), rtol=0, atol=0)
    assert not torch.equal(network.weight, trained(4)[0].weight)


def test_every_patch_is_seen_once_before_any_is_seen_again():
    for epoch in range(3):
        steps = [batch_of_step(20, 8, seed=1, step=3 * epoch + position) for position in (1, 2, 3)]
        assert [len(batch) for batch in steps] == [8, 8, 4]
        assert sorted(torch.cat(steps).tolist()) == list(range(20))
    assert batch_of_step(20, 8, seed=1, step=1).tolist() != batch_of_step(20, 8, seed=1, step=4).tolist()


def test_a_training_resumed_from_its_checkpoint_ends_as_one_that_was_never_interrupted(tmp_path):
    checkpoint = Checkpoint(path=tmp_path / "toy.safetensors", identity="a")
    whole, *_ = trained(3, steps=150)
    _, first, _ = trained(3, steps=70, checkpoint=checkpoint)
    resumed, second, _ = trained(3, steps=150, checkpoint=checkpoint)
    assert len(first) == 70 and [step for _, step, *_ in second] == list(range(71, 151))
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    again, told, _ = trained(3, steps=150, checkpoint=checkpoint)
    assert not told
    torch.testing.assert_close(again.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_a_training_killed_between_checkpoints_goes_on_from_the_last(tmp_path):
    checkpoint = Checkpoint(path=tmp_path / "toy.safetensors", identity="a")

    class Killed(Exception):
        pass

    def die(network, step):
        if step == 130:
            raise Killed
        return loss_of(3)(network, step)

    with pytest.raises(Killed):
        trained(3, loss=die, checkpoint=checkpoint)
    resumed, told, _ = trained(3, checkpoint=checkpoint)
    assert told[0][1] == 101
    torch.testing.assert_close(resumed.state_dict(), trained(3)[0].state_dict(), rtol=0, atol=0)


def test_the_learning_rate_falls_to_zero_along_half_a_cosine():
    weights = []

    def loss(network, step):
        weights.append(network.weight.detach().clone())
        return network.weight.sum()  # a constant slope, along which Adam steps as far as the learning rate

    trained(3, steps=9, loss=loss, decay=True)
    moved = torch.stack([(after - before).abs().max() for before, after in pairwise(weights)])
    expected = 0.05 * (1 + torch.cos(torch.pi * torch.arange(8) / 9)) / 2
    torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-5)


def test_what_is_held_out_decides_which_weights_are_kept(tmp_path):
    looked_at = []

    def held_out(network):
        """Best at the second look."""
        looked_at.append(network.weight.detach().clone())
        return torch.tensor([3.0, 1.0, 2.0, 1.5][len(looked_at) - 1])

    checkpoint = Checkpoint(path=tmp_path / "toy.safetensors", identity="a")
    trained(3, steps=3 * HELD_OUT_EVERY, held_out=held_out, checkpoint=checkpoint)
    network, _, kept = trained(3, steps=4 * HELD_OUT_EVERY, held_out=held_out, checkpoint=checkpoint)
    assert kept == 2 * HELD_OUT_EVERY and len(looked_at) == 4
    torch.testing.assert_close(network.weight, looked_at[1])


def test_more_steps_look_at_what_is_held_out_when_an_uninterrupted_training_would(tmp_path):
    def held_out(network):
        return network.weight.abs().sum().detach()

    checkpoint = Checkpoint(path=tmp_path / "toy.safetensors", identity="a")
    trained(3, steps=60, held_out=held_out, checkpoint=checkpoint)
    resumed, _, kept = trained(3, steps=150, held_out=held_out, checkpoint=checkpoint)
    whole, _, expected = trained(3, steps=150, held_out=held_out)
    assert kept == expected
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    assert trained(3, steps=10, held_out=held_out)[2] == 10


def test_seeded_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    with seeded(0):
        torch.rand(5)
    assert torch.equal(torch.rand(1), expected)


def test_a_loss_that_is_not_finite_stops_the_training_at_its_step_with_the_cure(tmp_path):
    checkpoint = Checkpoint(path=tmp_path / "toy.safetensors", identity="a")
    with refused("learning_rate", "data", naming=("toy", "step 7", "0.05")):
        trained(3, loss=loss_of(3, blow_up_at=7), checkpoint=checkpoint)
    assert not checkpoint.path.exists()


def test_checkpoints_of_another_training_and_damaged_ones_are_refused(tmp_path):
    path = tmp_path / "toy.safetensors"
    trained(3, steps=20, checkpoint=Checkpoint(path=path, identity="a"))
    with refused("checkpoint", naming=(path,)):
        trained(3, checkpoint=Checkpoint(path=path, identity="b"))
    with refused("steps", "checkpoint", naming=(path, "20", "steps=10")):
        trained(3, steps=10, checkpoint=Checkpoint(path=path, identity="a"))
    path.write_bytes(path.read_bytes()[:100])
    with refused("checkpoint", naming=(path,)):
        trained(3, checkpoint=Checkpoint(path=path, identity="a"))
    torch.save({"step": 1}, path)
    with refused("checkpoint", naming=(path,)):
        trained(3, checkpoint=Checkpoint(path=path, identity="a"))
    safetensors.torch.save_file({"x": torch.ones(1)}, path)
    with refused("checkpoint", naming=(path,)):
        trained(3, checkpoint=Checkpoint(path=path, identity="a"))


def test_a_checkpoint_whose_numbers_changed_is_refused(tmp_path):
    checkpoint = Checkpoint(path=tmp_path / "toy.safetensors", identity="a")
    trained(3, steps=20, checkpoint=checkpoint)
    content = bytearray(checkpoint.path.read_bytes())
    content[-3] ^= 1
    checkpoint.path.write_bytes(content)
    with refused("checkpoint", naming=(checkpoint.path,)):
        trained(3, checkpoint=checkpoint)


def test_a_checkpoint_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    with refused("checkpoint", naming=("missing/toy.safetensors",)):
        trained(3, steps=1, checkpoint=Checkpoint(path=tmp_path / "missing" / "toy.safetensors", identity="a"))
    (tmp_path / "file").write_text("no folder")
    with refused("checkpoint", naming=(tmp_path / "file",)):
        Checkpoint.within(tmp_path / "file", "toy", "a")
    assert Checkpoint.within(None, "toy", "a") is None


def test_weights_that_are_not_finite_in_the_end_are_refused():
    def loss(network, step):
        return (0 * network(INPUTS)).sqrt().mean()  # nought, but with a gradient that is not a number

    network = toy(3)
    with refused("learning_rate", naming=("toy", "0.1")):
        train(network, loss, steps=1, learning_rate=0.1, device="cpu", label="toy")
