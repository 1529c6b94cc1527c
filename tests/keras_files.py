"""Weight files of DSen2 as Keras writes them."""

from __future__ import annotations

import h5py
import numpy as np


def kernel_shapes(inputs, targets, *, features=8, blocks=2):
    return [(3, 3, inputs, features), *[(3, 3, features, features)] * (2 * blocks), (3, 3, features, targets)]


def random_weights(shapes, seed=0):
    """Kernels (y, x, input, output), He-uniform, each with its biases."""
    rng = np.random.default_rng(seed)
    bounds = [np.sqrt(6 / np.prod(shape[:3])) for shape in shapes]
    return [
        (rng.uniform(-bound, bound, shape).astype(np.float32), rng.uniform(-0.1, 0.1, shape[3]).astype(np.float32))
        for bound, shape in zip(bounds, shapes, strict=True)
    ]


def write_keras_weights(path, weights, *, under="/"):
    """A file as Keras writes it: counted names in the network's order, groups by name, layers without weights too."""
    layers = {"input_1": [], "input_2": [], "concatenate_1": []}
    for number, arrays in enumerate(weights, 9):  # "conv2d_10" sorts before "conv2d_9"
        layers[f"conv2d_{number}"] = list(zip(("kernel:0", "bias:0"), arrays, strict=False))
        layers[f"lambda_{number}"] = []
    layers["add_1"] = []
    with h5py.File(path, "w") as file:
        root = file.require_group(under)
        root.attrs["layer_names"] = np.array(list(layers), dtype="S")
        root.attrs["backend"] = b"tensorflow"
        for name, arrays in sorted(layers.items()):
            group = root.create_group(name)
            group.attrs["weight_names"] = np.array([f"{name}/{part}" for part, _ in arrays], dtype="S")
            for part, array in arrays:
                group[f"{name}/{part}"] = array
    return str(path)
