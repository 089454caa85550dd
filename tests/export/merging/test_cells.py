"""The grid of cells, the count of cells to merge, and the order that every runtime agrees on."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from structsam_export.merging import cells
from structsam_export.merging.cells import TOPK_LIMIT, cell_tokens, largest_first, merged_cells
from structsam_export.merging.index import inverse


@pytest.mark.parametrize(("side", "cell"), [(2, 2), (4, 2), (14, 2), (14, 7), (64, 2), (6, 3)])
def test_cells_partition_the_window_into_squares(side: int, cell: int) -> None:
    tokens = cell_tokens(side, cell, torch.device("cpu"))
    assert tokens.dtype == torch.int32
    assert sorted(tokens.flatten().tolist()) == list(range(side * side))
    rows, columns = tokens // side, tokens % side
    assert (rows // cell == (rows // cell)[:, :1]).all()
    assert (columns // cell == (columns // cell)[:, :1]).all()
    assert (tokens.diff(dim=1) > 0).all(), "raster order within a cell"
    assert (tokens[:, 0].diff() != 0).all()


@given(percent=st.integers(0, 75), side=st.sampled_from([2, 4, 14, 30, 60, 64, 70]))
def test_merged_cells_are_the_ceiling_of_the_exact_product(percent: int, side: int) -> None:
    exact = math.ceil(Fraction(percent, 100) * side * side / 3)
    assert merged_cells(percent / 100, side * side, 2) == exact <= side * side // 4


@given(share=st.integers(0, 48), side=st.sampled_from([7, 14, 70, 84]))
def test_the_count_does_not_depend_on_the_last_bit_of_a_rate(share: int, side: int) -> None:
    exact = math.ceil(Fraction(share, 49) * side * side / 48)
    assert merged_cells(share / 49, side * side, 7) == exact <= side * side // 49


SCORES = st.lists(st.sampled_from([-1.0, -0.0, 0.0, 0.5, 1.0, 2.0, math.inf, -math.inf]), min_size=1)


@given(scores=SCORES)
def test_equal_scores_stay_in_order(scores: list[float]) -> None:
    expected = sorted(range(len(scores)), key=lambda index: -scores[index])
    assert largest_first(torch.tensor([scores])).tolist() == [expected]


@given(scores=SCORES)
def test_counting_pairs_gives_the_order_of_sorting(scores: list[float]) -> None:
    rows = torch.tensor([scores, scores[::-1]])
    sorted_rows = largest_first(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "TOPK_LIMIT", 0)
        counted = largest_first(rows)
    assert counted.dtype == sorted_rows.dtype == torch.int32
    assert torch.equal(counted, sorted_rows)


def test_a_row_longer_than_topk_takes_is_ordered_by_counting_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    score = torch.randint(-50, 50, (1, TOPK_LIMIT + 1)).float()
    counted = largest_first(score)
    monkeypatch.setattr(cells, "TOPK_LIMIT", score.shape[1])
    assert torch.equal(counted, largest_first(score))


@given(order=st.permutations(range(9)))
def test_the_inverse_of_a_permutation_undoes_it(order: list[int]) -> None:
    rows = torch.tensor([order], dtype=torch.int32)
    assert rows.gather(1, inverse(rows).long()).tolist() == [list(range(9))]
