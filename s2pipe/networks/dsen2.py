"""DSen2 and VDSen2 (Lanaras et al. 2018, doi:10.1016/j.isprsjprs.2018.09.018), and their authors' weights."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence

import h5py
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from s2pipe.core.errors import InputError

RESIDUAL_SCALE = 0.1

INPUTS = {6: 10, 2: 12}
"""Input channels by targets: the 20 m network sees 4 + 6 bands, the 60 m network 4 + 6 + 2."""

Shape = tuple[int, ...]
Layers = dict[str, list[npt.NDArray[np.float32]]]


def radius(blocks: int) -> int:
    """Pixels on either side that an output pixel depends on: one for each of the 3 x 3 convolutions."""
    return 2 * blocks + 2


class Dsen2Network(nn.Module):
    """Residual of the target bands from their finer companions and the upsampled target bands.

    A 3 x 3 convolution leads in, residual blocks follow, whose residual is scaled by 0.1, and a 3 x 3 convolution leads
    out. Zero padding keeps the size. DSen2 has 6 blocks of 128 features, VDSen2 32 of 256.

    Parameters
    ----------
    targets : int
        Bands to sharpen: the last channels of the input, as in the authors' weights, and the channels of the output.
    companions : int
        Further input channels, which come first.
    features : int
        Channels between the convolutions.
    blocks : int
        Residual blocks.
    """

    def __init__(self, targets: int, companions: int, *, features: int, blocks: int) -> None:
        super().__init__()
        self.targets = targets
        self.entry = _convolution(companions + targets, features)
        self.blocks = nn.ModuleList(
            nn.Sequential(_convolution(features, features), nn.ReLU(), _convolution(features, features)) for _ in range(blocks)
        )
        self.head = _convolution(features, targets)

    @classmethod
    def of_state(cls, state: dict[str, Tensor]) -> Dsen2Network:
        """The network that had this state, whose shapes determine its size.

        Raises KeyError or RuntimeError where it is that of another architecture.
        """
        features, inputs = state["entry.weight"].shape[:2]
        targets = len(state["head.bias"])
        blocks = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
        network = cls(targets, inputs - targets, features=features, blocks=blocks)
        network.load_state_dict(state)
        return network.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Sharpened bands, (batch, targets, y, x), of (batch, companions + targets, y, x) on one grid."""
        features = torch.relu(self.entry(x))
        for block in self.blocks:
            features = features + RESIDUAL_SCALE * block(features)
        residual: Tensor = self.head(features)
        return x[:, -self.targets :] + residual


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # there is one by default
    return layer


def load_keras_weights(path: str | os.PathLike[str]) -> Dsen2Network:
    """The network whose weights the authors' Keras wrote to `path`.

    Whether it is DSen2 or VDSen2, for 20 m or 60 m bands, is read off the shapes. The file is HDF5, of Keras'
    ``save_weights`` or of its ``save``, where the same tree lies under ``model_weights``: the attribute ``layer_names``, a
    group for each layer, its attribute ``weight_names``, and datasets of these names. Convolutions are taken in the order
    of ``layer_names``, in which Keras lists the layers of a chain from input to output; the groups themselves are sorted by
    name and say nothing. Kernels are (y, x, input, output), correlated and not convolved, as the TensorFlow backend has them.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    Dsen2Network
        On the CPU, float32.

    Raises
    ------
    InputError
        If `path` cannot be read as HDF5, is not laid out like that, or holds another architecture.
    """
    layers = _read_layers(path)
    _check_architecture(path, layers)
    kernels = [weights[0].shape for weights in layers.values()]
    (*_, inputs, features), targets = kernels[0], kernels[-1][-1]
    with torch.device("meta"):  # no use in drawing random weights that are replaced
        network = Dsen2Network(targets, inputs - targets, features=features, blocks=len(kernels) // 2 - 1)
    tensors = [
        torch.from_numpy(np.ascontiguousarray(array))
        for kernel, bias in layers.values()
        for array in (kernel.transpose(3, 2, 0, 1), bias)
    ]
    network.load_state_dict(dict(zip(network.state_dict(), tensors, strict=True)), assign=True)
    return network


def _check_architecture(path: str | os.PathLike[str], layers: Layers) -> None:
    expected = (
        "expected are those of DSen2, 3x3 from 10 or 12 channels to N, an even number from N to N, and 3x3 from N to 6 or 2, "
        "each with its bias: give a file s2_*.hdf5 of the authors; the files aesr_*.hdf5 hold AESR, another architecture"
    )
    shapes = {name: [array.shape for array in weights] for name, weights in layers.items()}
    if strange := {name: s for name, s in shapes.items() if [len(shape) for shape in s] != [4, 1] or s[0][-1:] != s[1]}:
        raise InputError(f"{path} holds layers that are no convolutions, {strange}; {expected}", argument="path")
    kernels = [kernel for kernel, _ in shapes.values()]
    inputs, features, targets = (kernels[0][2], kernels[0][3], kernels[-1][3]) if kernels else (0, 0, 0)
    inner = [(3, 3, features, features)] * (len(kernels) // 2 * 2 - 2)
    if kernels != [(3, 3, inputs, features), *inner, (3, 3, features, targets)]:
        raise InputError(f"{path} holds the convolutions {_described(kernels)}; {expected}", argument="path")
    if INPUTS.get(targets) != inputs:
        raise InputError(f"{path} holds a network from {inputs} channels to {targets}; {expected}", argument="path")


def _described(kernels: Sequence[Shape]) -> str:
    """Kernels in words, equal ones in a row counted."""
    runs = [(shape, len(list(run))) for shape, run in itertools.groupby(kernels)]
    return ", ".join((f"{n} times " if n > 1 else "") + f"{y}x{x} from {i} to {o}" for (y, x, i, o), n in runs) or "none"


def _read_layers(path: str | os.PathLike[str]) -> Layers:
    """The weights of every layer that has any, in the order of the network."""
    try:
        with h5py.File(path) as file:
            root = file.get("model_weights", file)
            layers = {name: _read_weights(root[name]) for name in _names(root, "layer_names")}
    except OSError as error:
        raise InputError(
            f"{path} cannot be read as HDF5 ({error}); give the path of a weights file of Keras", argument="path"
        ) from None
    except KeyError as error:
        raise InputError(
            f"{path} is HDF5, but not laid out as Keras lays out weights: {error.args[0]}", argument="path"
        ) from None
    return {name: weights for name, weights in layers.items() if weights}


def _read_weights(layer: h5py.Group) -> list[npt.NDArray[np.float32]]:
    return [np.asarray(layer[name], dtype=np.float32) for name in _names(layer, "weight_names")]


def _names(group: h5py.Group, attribute: str) -> list[str]:
    return [name.decode() if isinstance(name, bytes) else str(name) for name in group.attrs[attribute]]
