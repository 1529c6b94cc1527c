"""One hash for arrays, the same wherever it is computed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from s2pipe.core.types import AnyArray


def sha256_of(arrays: Mapping[str, AnyArray], *facts: object) -> str:
    """Hash of arrays by name, whatever their order, and of facts by their repr, in their order."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(name.encode())
        array = np.ascontiguousarray(array)
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    digest.update(repr(facts).encode())
    return digest.hexdigest()
