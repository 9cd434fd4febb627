import numpy as np
import pytest

from msformer_deploy.errors import UsageError
from msformer_deploy.images import windows


@pytest.mark.parametrize(
    ("text", "window"),
    [("lung", (-600, 1500)), ("-600,1500", (-600, 1500)), ("40, 80.5", (40, 80.5)), ("brain", (40, 80))],
)
def test_a_window_is_a_name_or_two_numbers(text: str, window: tuple[float, float]) -> None:
    assert windows.parse_window(text) == window


@pytest.mark.parametrize("text", ["", "lungs", "40", "40,0", "40,-1", "nan,1", "inf,1", "1,2,3", "40;80"])
def test_anything_else_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="choose one of bone, brain") as caught:
        windows.parse_window(text)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("window", [(40, 80), (-600, 1500), (0.5, 2), (10, 1)])
def test_shades_are_those_of_the_standards_formula(window: tuple[float, float]) -> None:
    centre, width = window
    values = np.linspace(-900, 900, 400).reshape(20, 20)
    expected = np.empty_like(values)
    for place, value in np.ndenumerate(values):  # PS3.3, C.11.2.1.2.1
        if value <= centre - 0.5 - (width - 1) / 2:
            expected[place] = 0
        elif value > centre - 0.5 + (width - 1) / 2:
            expected[place] = 1
        else:
            expected[place] = (value - (centre - 0.5)) / (width - 1) + 0.5
    np.testing.assert_allclose(windows.scaled(values, *windows.limits(window)), expected, atol=1e-6)
