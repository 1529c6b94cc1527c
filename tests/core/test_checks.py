import numpy as np
import pytest
from refusals import refused

from s2pipe.core.checks import check_whole


@pytest.mark.parametrize("value", [1, 5, np.int64(7)])
def test_whole_numbers_pass(value):
    checked = check_whole("steps", value, least=1)
    assert checked == value and type(checked) is int


@pytest.mark.parametrize("value", [0, -3, 1.0, "5", None, True])
def test_others_are_refused_by_name(value):
    with refused("steps", naming=(repr(value), 1)):
        check_whole("steps", value, least=1)
