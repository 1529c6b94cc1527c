"""The weights of mtf-resnet that come with the package, and files of others like them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from s2pipe.core.errors import InputError
from s2pipe.core.tensor_files import read_tensors, write_tensors
from s2pipe.methods.mtf_resnet.inputs import CHANNELS, COARSE, RATIO, TOLD
from s2pipe.networks.mtf_resnet import MtfResNetwork

SHIPPED = Path(__file__).parent / "weights" / "mtf-resnet.safetensors"
KIND = "pretrained weights of s2pipe"
FINGERPRINT = "fingerprint"
FINGERPRINT_SHARE = 64
"""One in this many hashes of a fingerprint is kept: enough to recognise a scene of 100 x 100 pixels of 20 m."""


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A network trained on scenes other than the user's.

    Attributes
    ----------
    network : MtfResNetwork
    fingerprint : ndarray of uint64
        Of the scenes it was trained on, thinned out, see `s2pipe.fitting.fingerprint`.
    stated : dict
        How it was trained: ``scenes``, ``steps``, ``seed`` and so on.
    """

    network: MtfResNetwork
    fingerprint: npt.NDArray[np.uint64]
    stated: dict[str, object]


def new_network() -> MtfResNetwork:
    """One of the right shape, with random weights."""
    return MtfResNetwork(inputs=CHANNELS, told=TOLD, outputs=RATIO**2 * len(COARSE))


def save_pretrained(
    path: Path, network: MtfResNetwork, fingerprints: Sequence[npt.NDArray[np.uint64]], stated: dict[str, object]
) -> None:
    """Write weights, in half precision, with the fingerprints of all scenes they were trained on.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    hashes = np.unique(np.concatenate(fingerprints))
    thinned = hashes[hashes % FINGERPRINT_SHARE**2 < FINGERPRINT_SHARE]
    tensors = {f"network.{name}": tensor.half() for name, tensor in network.state_dict().items()}
    write_tensors(path, tensors | {FINGERPRINT: torch.from_numpy(thinned)}, stated, kind=KIND)


def load_pretrained(path: Path = SHIPPED) -> Pretrained:
    """Read what `save_pretrained` wrote.

    Raises
    ------
    InputError
        If there is no such file, it is another, damaged, or of another architecture.
    """
    tensors, stated = read_tensors(path, kind=KIND)
    fingerprint = tensors.pop(FINGERPRINT).numpy()
    network = new_network()
    try:
        network.load_state_dict({name.removeprefix("network."): tensor.float() for name, tensor in tensors.items()})
    except RuntimeError as error:  # names what differs
        raise InputError(f"the weights in {path} are not those of mtf-resnet: {error}", argument="path") from None
    return Pretrained(network=network.eval().requires_grad_(False), fingerprint=fingerprint, stated=stated)
