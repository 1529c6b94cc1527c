"""Types that several modules name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import dask.array as da

AnyArray: TypeAlias = npt.NDArray[Any]
"""A NumPy array of any dtype."""

AnyDtype: TypeAlias = np.dtype[Any]
"""The type of the numbers of any NumPy array."""

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
"""A NumPy array of floats of any width."""

ArrayLike: TypeAlias = "AnyArray | da.Array"
"""A NumPy array, or a lazy one of dask."""

Json: TypeAlias = Mapping[str, Any]
"""A JSON object, such as a STAC item."""
