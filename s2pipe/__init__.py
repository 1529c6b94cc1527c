"""All Sentinel-2 bands at 10 m: from a STAC search to a sharpened Zarr store.

The public names are listed in ``__init__.pyi``, and loaded when first used: importing s2pipe is quick and imports no torch.
"""

from importlib.metadata import version

import lazy_loader

from s2pipe import accessor as accessor  # registers .s2
from s2pipe.core import errors as _errors  # noqa: F401  # an `except` clause must not import anything

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = version("s2pipe")
