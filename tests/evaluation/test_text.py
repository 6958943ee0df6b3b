import pytest

from rl_crop.evaluation.text import extent, number, share


@pytest.mark.parametrize(
    "value,text",
    [
        (-1234.5, "-1234"),
        (500.0, "500"),
        (99.96, "100"),
        (99.94, "99.9"),
        (21.04, "21.0"),
        (-0.0163, "-0.0163"),
        (-0.0, "0.0"),
    ],
)
def test_numbers_keep_three_digits_however_small(value, text):
    assert number(value) == text


def test_ranges_and_shares():
    assert extent([1183, 1021, 1100]) == "1,021–1,183" and extent([447, 447]) == "447"
    assert share(0.05) == "5 %" and share(1.0) == "100 %"
