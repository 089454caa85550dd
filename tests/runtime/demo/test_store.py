"""Which pictures are kept, and under which names."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from structsam_runtime.demo.asked import RefusedError
from structsam_runtime.demo.store import Picture, Store


@given(
    most=st.integers(1, 4),
    steps=st.lists(st.tuples(st.sampled_from(["put", "get"]), st.integers(0, 6)), max_size=30),
)
@example(most=2, steps=[("put", 0), ("put", 1), ("get", 0), ("put", 2)])
def test_the_least_recently_asked_for_goes(most: int, steps: list[tuple[str, int]]) -> None:
    store = Store(most)
    kept: list[str] = []  # the newest last
    for step, number in steps:
        name = f"picture {number}"
        if step == "put":
            store.put(Picture(name, 1, 1, b"", {}))
        elif name not in kept:
            with pytest.raises(RefusedError, match=f"no picture '{name}'") as error:
                store.get(name)
            assert error.value.status == 404
            continue
        else:
            assert store.get(name).id == name
        kept = [*(other for other in kept if other != name), name][-most:]
    assert [number for number in range(7) if store.find(f"picture {number}")] == sorted(
        int(name[-1]) for name in kept
    )


def test_names_are_of_contents_and_of_one_server() -> None:
    one, other = Store(1), Store(1)
    assert one.name(b"a") == one.name(b"a") != one.name(b"b")
    assert one.name(b"a") != other.name(b"a")


@given(height=st.integers(1, 5000), width=st.integers(1, 5000), side=st.none() | st.integers(1, 6000))
def test_a_fitted_picture_keeps_its_proportions(height: int, width: int, side: int | None) -> None:
    fitted = Picture("", height, width, b"", {}).fitted(side)
    if side is None or side >= max(height, width):
        assert fitted == (height, width)
    else:
        assert max(fitted) == side
        scale = side / max(height, width)
        assert all(abs(new - old * scale) <= 1 for new, old in zip(fitted, (height, width), strict=True))
