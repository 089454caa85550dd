"""ToMe against the plain matching of even with odd tokens, exactly."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from structsam_export.choices import Reduction
from structsam_export.merging import ToMe


@given(data=st.data(), percent=st.integers(0, 75), reduction=st.sampled_from(Reduction))
def test_even_tokens_merge_into_odd_ones(
    plain: SimpleNamespace, data: st.DataObject, percent: int, reduction: Reduction
) -> None:
    images, side = data.draw(plain.exact_maps(sides=(2, 3, 4, 5, 6)))
    x, windows = plain.on_grid(images, side)
    method = ToMe(percent / 100, reduction)
    plan = method.plan(x, windows)
    number = list(range(side * side))
    merged = min(percent * side * side // 100, side * side // 2)
    expected = [
        plain.match(tokens, number[::2], number[1::2], merged) for tokens in plain.tokens_of(images, side)
    ]
    plain.check_valid(plan)
    plain.check_slots(plan, expected)
    plain.check_merges(plan, windows.cut(x), reduction)
    assert plan.position.shape[1] == method.slots(windows) == side * side - merged
