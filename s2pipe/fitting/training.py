"""Training a network: the loop, its checkpoints, and the stopping rule that needs no reference."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from s2pipe.core.errors import InputError
from s2pipe.core.progress import Progress
from s2pipe.core.tensor_files import SUFFIX, read_tensors, tensors_below, write_tensors

HELD_OUT_EVERY = 25
"""Steps between two evaluations of what is held out."""

CHECKPOINT_KIND = "checkpoint of an s2pipe training"
CHECKPOINT_EVERY = 100
"""Steps between two checkpoints; the last step is saved too."""

Loss = Callable[[nn.Module, int], Tensor]
"""The loss of a network at a step. Its random numbers depend on the step only, so that a training resumes as if uninterrupted."""

HeldOut = Callable[[nn.Module], Tensor]
"""The loss of a network on what is kept out of the loss of every step."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where a training is saved, and what it is a training of.

    Attributes
    ----------
    path : Path
        A safetensors file, written when a training begins there and resumed from when it exists.
    identity : str
        Hash of the data and settings, but for the number of steps; a file with another one is refused.
    """

    path: Path
    identity: str

    @classmethod
    def within(cls, folder: Path | None, name: str, identity: str) -> Checkpoint | None:
        """That of the training `name` in a folder of checkpoints, made if missing; None without a folder."""
        if folder is None:
            return None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"checkpoint={str(folder)!r} is no folder that can be made: {error.strerror}", argument="checkpoint"
            ) from None
        return cls(path=folder / f"{name}{SUFFIX}", identity=identity)


@dataclass
class _State:
    """The state of a training."""

    step: int = 0
    best_step: int = 0
    best_loss: float = math.inf
    best: dict[str, Tensor] = field(default_factory=dict)


def train(
    network: nn.Module,
    loss: Loss,
    *,
    steps: int,
    learning_rate: float,
    device: str,
    label: str,
    decay: bool = False,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
    held_out: HeldOut | None = None,
) -> int:
    """Train `network` in place by Adam.

    Parameters
    ----------
    network : torch.nn.Module
    loss : callable
        See `Loss`.
    steps : int
        Optimiser steps, those of the checkpoint included.
    learning_rate : float
    device : str
        A torch device, where `loss` expects the network.
    label : str
        Named to `progress` and in errors.
    decay : bool
        Whether the learning rate falls to zero along half a cosine; a checkpoint then is one of this number of steps.
    progress : callable, optional
        Called at every step with (label, step, steps, loss).
    checkpoint : Checkpoint, optional
        Saved every `CHECKPOINT_EVERY` steps and at the end; an existing one is resumed.
    held_out : callable, optional
        Evaluated every `HELD_OUT_EVERY` steps: the weights with the smallest value are kept. Without it, the last are.

    Returns
    -------
    int
        The step whose weights the network has in the end.

    Raises
    ------
    InputError
        If the loss is not finite at some step, or the checkpoint is damaged, of another training, or cannot be written.
    """
    network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]  # missing in torch's stubs
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate)
    state = _State()
    if checkpoint is not None and checkpoint.path.exists():
        state = _load_checkpoint(checkpoint, network, optimiser)
        if state.step > steps:
            raise InputError(
                f"the checkpoint {checkpoint.path} is at step {state.step}, beyond steps={steps}; "
                "give more steps, or another folder",
                argument=("steps", "checkpoint"),
            )
    for step in range(state.step + 1, steps + 1):
        if decay:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate * (1 + math.cos(math.pi * (step - 1) / steps)) / 2
        optimiser.zero_grad(set_to_none=True)
        current = loss(network, step)
        value = current.item()
        if not math.isfinite(value):
            raise InputError(
                f"the loss of {label} is {value} at step {step}; give a smaller learning_rate than {learning_rate:g}, "
                "and look for numbers that cannot be reflectance",
                argument=("learning_rate", "data"),
            )
        current.backward()
        optimiser.step()
        state.step = step
        if held_out is not None and (step % HELD_OUT_EVERY == 0 or (step == steps and not state.best)):
            _keep_the_better(state, network, held_out)
        if checkpoint is not None and (step % CHECKPOINT_EVERY == 0 or step == steps):
            _save_checkpoint(checkpoint, network, optimiser, state)
        if progress is not None:
            progress(label, step, steps, value)
    if not all(torch.isfinite(parameter).all() for parameter in network.parameters()):
        raise InputError(
            f"the weights of {label} are not finite after step {steps}; give a smaller learning_rate than {learning_rate:g}",
            argument="learning_rate",
        )
    if held_out is not None:
        network.load_state_dict(state.best)
    network.to("cpu").eval()
    return state.best_step if held_out is not None else steps


def _keep_the_better(state: _State, network: nn.Module, held_out: HeldOut) -> None:
    with torch.no_grad():
        loss = held_out(network).item()
    if loss < state.best_loss or not state.best:
        state.best_step, state.best_loss = state.step, loss
        state.best = copy.deepcopy(network.state_dict())


def _save_checkpoint(checkpoint: Checkpoint, network: nn.Module, optimiser: torch.optim.Adam, state: _State) -> None:
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best.items()}
    for i, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{name}": tensor for name, tensor in moments.items()}
    stated = {
        "identity": checkpoint.identity,
        "step": state.step,
        "best_step": state.best_step,
        "best_loss": state.best_loss,
    }
    write_tensors(checkpoint.path, tensors, stated, kind=CHECKPOINT_KIND, argument="checkpoint")


def _load_checkpoint(checkpoint: Checkpoint, network: nn.Module, optimiser: torch.optim.Adam) -> _State:
    tensors, stated = read_tensors(checkpoint.path, kind=CHECKPOINT_KIND, argument="checkpoint")
    if stated["identity"] != checkpoint.identity:
        raise InputError(
            f"the checkpoint {checkpoint.path} is of a training on other data, or with other settings or precision=; "
            "give another folder, or delete it",
            argument="checkpoint",
        )
    network.load_state_dict(tensors_below(tensors, "network."))
    adam: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors_below(tensors, "adam.").items():
        i, _, moment = name.partition(".")
        adam.setdefault(int(i), {})[moment] = tensor
    optimiser.load_state_dict({"state": adam, "param_groups": optimiser.state_dict()["param_groups"]})
    return _State(
        step=stated["step"],
        best_step=stated["best_step"],
        best_loss=stated["best_loss"],
        best=tensors_below(tensors, "best."),
    )


def batch_of_step(count: int, batch: int, *, seed: int, step: int) -> Tensor:
    """Which of `count` patches a step trains on: all are shuffled anew whenever all have been used."""
    epoch, position = divmod(step - 1, -(-count // batch))
    order = np.random.default_rng((seed, epoch)).permutation(count)
    return torch.from_numpy(order[position * batch : (position + 1) * batch])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Make torch's global random numbers, which initialise networks, follow `seed` within the block only."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
