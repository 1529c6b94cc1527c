"""The sharpening methods by name, in one literal table."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any

import pandas as pd

from s2pipe.errors import InputError
from s2pipe.methods.base import Method, Sharpener, TorchSharpener
from s2pipe.methods.bicubic import Bicubic, BicubicSharpener
from s2pipe.methods.dsen2 import Dsen2, Dsen2Sharpener
from s2pipe.methods.glp import Glp, GlpSharpener
from s2pipe.methods.lower_scale import LowerScaleSharpener, ResNet, SscCnn
from s2pipe.methods.s2sucnn import S2sucnn, S2sucnnSharpener
from s2pipe.tensor_files import SUFFIX

__all__ = ["METHODS", "Method", "Sharpener", "get_method", "list_methods"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row of the table of methods."""

    recipe: type[Any]
    sharpener: type[TorchSharpener]
    trained: bool
    paper: str


METHODS: dict[str, Entry] = {
    "bicubic": Entry(
        recipe=Bicubic, sharpener=BicubicSharpener, trained=False, paper="Keys 1981, doi:10.1109/TASSP.1981.1163711"
    ),
    "glp": Entry(recipe=Glp, sharpener=GlpSharpener, trained=False, paper="Aiazzi et al. 2002, doi:10.1109/TGRS.2002.803623"),
    "ssc-cnn": Entry(
        recipe=SscCnn,
        sharpener=LowerScaleSharpener,
        trained=True,
        paper="Nguyen et al. 2020, doi:10.1109/IGARSS39084.2020.9323614",
    ),
    "resnet": Entry(
        recipe=ResNet, sharpener=LowerScaleSharpener, trained=True, paper="Palsson et al. 2018, doi:10.3390/rs10081290"
    ),
    "s2sucnn": Entry(
        recipe=S2sucnn, sharpener=S2sucnnSharpener, trained=True, paper="Nguyen et al. 2021, doi:10.1109/JSTARS.2021.3092286"
    ),
    "dsen2": Entry(
        recipe=Dsen2, sharpener=Dsen2Sharpener, trained=False, paper="Lanaras et al. 2018, doi:10.1016/j.isprsjprs.2018.09.018"
    ),
}


def get_method(name: str, **options: Any) -> Method:
    """The method called `name` with its options set.

    Raises
    ------
    InputError
        If no method has this name, or it does not have one of the options; the message lists what there is.
    """
    if name.endswith(SUFFIX):
        raise InputError(f"{name} is a file of weights; load it with s2pipe.load_sharpener, and give that")
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; legal methods are {', '.join(METHODS)}")
    recipe = METHODS[name].recipe
    legal = [f.name for f in fields(recipe)]
    if unknown := [option for option in options if option not in legal]:
        raise InputError(
            f"method {name!r} has no option {', '.join(map(repr, unknown))}; "
            + (f"its options are {', '.join(legal)}" if legal else "it has no options")
        )
    method: Method = recipe(**options)
    return method


def list_methods() -> pd.DataFrame:
    """The methods there are.

    Returns
    -------
    pandas.DataFrame
        Indexed by ``method``, with columns ``trained`` (whether a network is trained on the scene), ``options``
        (name=default) and ``paper``.
    """
    rows = {
        name: {
            "trained": entry.trained,
            "options": ", ".join(f"{f.name}={f.default}" for f in fields(entry.recipe) if f.default is not MISSING),
            "paper": entry.paper,
        }
        for name, entry in METHODS.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
