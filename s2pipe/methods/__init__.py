"""The sharpening methods by name, in one literal table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal

from s2pipe.core.errors import InputError
from s2pipe.core.tensor_files import SUFFIX
from s2pipe.methods.base import Method, Sharpener, TorchSharpener
from s2pipe.methods.classical.atprk import Atprk, AtprkSharpener
from s2pipe.methods.classical.injection import Glp, GlpFs, GlpHpm, Gsa, HpmR, InjectionSharpener
from s2pipe.methods.classical.interpolation import Bicubic, BicubicSharpener, Spline, SplineSharpener
from s2pipe.methods.classical.ressr import ResSr, ResSrSharpener
from s2pipe.methods.classical.s2sharp import S2sharp, S2sharpSharpener
from s2pipe.methods.classical.ssss import Ssss, SsssSharpener
from s2pipe.methods.classical.supreme import Supreme, SupremeSharpener
from s2pipe.methods.learned.dsen2 import Dsen2, Dsen2Sharpener
from s2pipe.methods.learned.lower_scale import LowerScaleSharpener, ResNet, SscCnn
from s2pipe.methods.learned.s2sucnn import S2sucnn, S2sucnnSharpener
from s2pipe.methods.mtf_resnet.recipe import MtfResNet, MtfResNetSharpener

__all__ = ["METHODS", "Method", "MethodInfo", "Sharpener", "get_method", "list_methods"]


Fit = Literal["none", "sample", "training"]


@dataclass(frozen=True, kw_only=True)
class MethodInfo:
    """What a user should know of a method.

    Attributes
    ----------
    fit : {"none", "sample", "training"}
        What `s2pipe.fit` does: ``"none"``: nothing; ``"sample"``: it finds what holds for the whole scene on windows of it, in
        seconds; ``"training"``: it trains a network on them.
    options : dict
        The options and their defaults.
    paper : str
        Authors, year and DOI.
    """

    fit: Fit
    options: dict[str, object]
    paper: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row of the table of methods.

    Attributes
    ----------
    recipe, sharpener : type
    fit : {"none", "sample", "training"}
        See `MethodInfo`.
    bfloat16 : bool
        Whether it has a network that may compute in bfloat16.
    paper : str
        Authors, year and DOI.
    preset : dict
        Options of the recipe that make it this method, and are none of the method's.
    """

    recipe: type[Any]
    sharpener: type[TorchSharpener]
    fit: Fit = "sample"
    bfloat16: bool = False
    paper: str
    preset: Mapping[str, str] = field(default_factory=dict)

    @property
    def trained(self) -> bool:
        """Whether a network is trained on the scene."""
        return self.fit == "training"

    @property
    def options(self) -> dict[str, object]:
        """The options there are, with their defaults; MISSING where one must be given."""
        return {f.name: f.default for f in fields(self.recipe) if f.name not in self.preset}


PANS = {"": {"pan": "synthesised"}, "-sel": {"pan": "selected"}}
"""What a name ends in, and the panchromatic band it stands for."""

METHODS: dict[str, Entry] = {
    "bicubic": Entry(recipe=Bicubic, sharpener=BicubicSharpener, fit="none", paper="Keys 1981, doi:10.1109/TASSP.1981.1163711"),
    "spline": Entry(
        recipe=Spline, sharpener=SplineSharpener, fit="none", paper="Hou and Andrews 1978, doi:10.1109/TASSP.1978.1163154"
    ),
    **{
        f"{recipe.family}{suffix}": Entry(recipe=recipe, sharpener=InjectionSharpener, paper=paper, preset=preset)
        for recipe, paper in (
            (Gsa, "Aiazzi et al. 2007, doi:10.1109/TGRS.2007.901007"),
            (Glp, "Aiazzi et al. 2002, doi:10.1109/TGRS.2002.803623"),
            (GlpFs, "Vivone et al. 2018, doi:10.1109/TIP.2018.2819501"),
            (GlpHpm, "Aiazzi et al. 2006, doi:10.14358/PERS.72.5.591"),
            (HpmR, "Vivone et al. 2018, IEEE Trans. Geosci. Remote Sens. 56(2)"),
        )
        for suffix, preset in PANS.items()
    },
    **{
        f"atprk{suffix}": Entry(
            recipe=Atprk, sharpener=AtprkSharpener, paper="Wang et al. 2016, doi:10.1016/j.rse.2016.10.030", preset=preset
        )
        for suffix, preset in PANS.items()
    },
    "supreme": Entry(recipe=Supreme, sharpener=SupremeSharpener, paper="Lanaras et al. 2017, doi:10.1109/CVPRW.2017.194"),
    "s2sharp": Entry(recipe=S2sharp, sharpener=S2sharpSharpener, paper="Ulfarsson et al. 2019, doi:10.1109/TGRS.2019.2906048"),
    "ssss": Entry(
        recipe=Ssss, sharpener=SsssSharpener, paper="Lin and Bioucas-Dias 2020, IEEE Trans. Geosci. Remote Sens. 58(5)"
    ),
    "ressr": Entry(recipe=ResSr, sharpener=ResSrSharpener, paper="Duba-Sullivan et al. 2024, arXiv:2408.13225"),
    "mtf-resnet": Entry(
        recipe=MtfResNet,
        sharpener=MtfResNetSharpener,
        bfloat16=True,
        paper="this package; null space: doi:10.1088/1361-6420/aaf14a",
    ),
    "ssc-cnn": Entry(
        recipe=SscCnn,
        sharpener=LowerScaleSharpener,
        fit="training",
        bfloat16=True,
        paper="Nguyen et al. 2020, doi:10.1109/IGARSS39084.2020.9323614",
    ),
    "resnet": Entry(
        recipe=ResNet,
        sharpener=LowerScaleSharpener,
        fit="training",
        bfloat16=True,
        paper="Palsson et al. 2018, doi:10.3390/rs10081290",
    ),
    "s2sucnn": Entry(
        recipe=S2sucnn,
        sharpener=S2sucnnSharpener,
        fit="training",
        bfloat16=True,
        paper="Nguyen et al. 2021, doi:10.1109/JSTARS.2021.3092286",
    ),
    "dsen2": Entry(
        recipe=Dsen2, sharpener=Dsen2Sharpener, fit="none", paper="Lanaras et al. 2018, doi:10.1016/j.isprsjprs.2018.09.018"
    ),
}


def entry_of(name: str, *, argument: str = "method") -> Entry:
    """The row of the table of the method called `name`.

    Raises
    ------
    InputError
        If no method has this name; it is about `argument`.
    """
    if name.endswith(SUFFIX):
        raise InputError(f"{name} is a file of weights; load it with s2pipe.load_sharpener, and give that", argument=argument)
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; there are {', '.join(METHODS)}", argument=argument)
    return METHODS[name]


def get_method(name: str, **options: object) -> Method:
    """The method called `name` with its options set.

    Raises
    ------
    InputError
        If no method has this name, or it does not have one of the options; the message lists what there is.
    """
    entry = entry_of(name)
    accepted = list(entry.options)
    if unknown := [option for option in options if option not in accepted]:
        raise InputError(
            f"method {name!r} has no option {', '.join(map(repr, unknown))}; "
            + (f"its options are {', '.join(accepted)}" if accepted else "it has no options"),
            argument=tuple(unknown),
        )
    method: Method = entry.recipe(**{**entry.preset, **options})
    return method


def list_methods() -> dict[str, MethodInfo]:
    """The methods there are, by name.

    Returns
    -------
    dict of str to MethodInfo

    Examples
    --------
    >>> import s2pipe
    >>> s2pipe.list_methods()["ssc-cnn"].fit
    'training'
    """
    return {
        name: MethodInfo(
            fit=entry.fit,
            options={option: default for option, default in entry.options.items() if default is not MISSING},
            paper=entry.paper,
        )
        for name, entry in METHODS.items()
    }
