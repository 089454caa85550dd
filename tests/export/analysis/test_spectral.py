"""Spectra of lifted graphs against their definitions, and the inequalities that the paper proves of them."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from structsam_export.analysis.spectral import (
    attended,
    block_discrepancy,
    block_sums,
    coarsen,
    encoder_distortion,
    encoder_sums,
    lift,
    lifted_spectrum,
    normalized_laplacian,
    spectrum,
    token_graph,
    window_discrepancy,
)
from structsam_export.choices import Selection
from structsam_export.encoder import apply, merged_blocks
from structsam_export.encoder.patch import windows_of
from structsam_export.merging import Identity, StructSAM

Floats = NDArray[np.float64]
Slots = NDArray[np.int64]
Build = Callable[..., Any]
Photographs = Callable[[int], Tensor]

ROUNDING = 1e-9  # of sums over a few hundred eigenvalues from 0 to 2, each good to about 1e-14
SEEDS = st.integers(0, 2**32 - 1)
NODES = st.integers(1, 24)


def random_graph(rng: np.random.Generator, nodes: int) -> Floats:
    """Symmetric weights from 0 to 1, many of them 0, with self-loops."""
    upper = np.triu(rng.random((nodes, nodes)) * (rng.random((nodes, nodes)) < rng.random()), 1)
    return upper + upper.T + np.diag(rng.uniform(0.1, 1, nodes))


def random_partition(rng: np.random.Generator, nodes: int) -> Slots:
    """Slots 0 .. n-1 for a random n, each used."""
    parts = rng.integers(1, nodes + 1)
    return rng.permutation(np.concatenate([np.arange(parts), rng.integers(0, parts, nodes - parts)]))


def plain_laplacian(weights: Floats) -> Floats:
    """Eq. 4, entry by entry."""
    nodes = len(weights)
    degree = [sum(weights[i]) for i in range(nodes)]
    laplacian = np.zeros((nodes, nodes))
    for i, j in itertools.product(range(nodes), range(nodes)):
        laplacian[i, j] = float(i == j) - weights[i, j] / np.sqrt(degree[i] * degree[j])
    return laplacian


def plain_coarsening(weights: Floats, slot: Slots) -> Floats:
    """Eq. 3 with its double sum."""
    parts = [[u for u in range(len(slot)) if slot[u] == i] for i in range(max(slot) + 1)]
    coarse = np.zeros((len(parts), len(parts)))
    for i, j in itertools.product(range(len(parts)), range(len(parts))):
        total = sum(weights[u, v] for u in parts[i] for v in parts[j])
        coarse[i, j] = total / (len(parts[i]) * len(parts[j]))
    return coarse


def plain_lifting(coarse: Floats, slot: Slots) -> Floats:
    """Eq. 5, pair by pair."""
    lifted = np.zeros((len(slot), len(slot)))
    for u, v in itertools.product(range(len(slot)), range(len(slot))):
        lifted[u, v] = coarse[slot[u], slot[v]]
    return lifted


def plain_spectrum(weights: Floats) -> Floats:
    """By numpy, from the plain Laplacian."""
    return np.linalg.eigvalsh(plain_laplacian(weights))


def with_ones(eigenvalues: Floats, nodes: int) -> Floats:
    """Lemma 1's multiset: the eigenvalues and as many ones as are missing, sorted."""
    return np.sort(np.concatenate([eigenvalues, np.ones(nodes - len(eigenvalues))]))


def drift(one: Floats, other: Floats) -> float:
    return float(np.abs(one - other).sum())


def discrepancy(weights: Floats, slot: Slots) -> float:
    """SD of a window whose graph is given."""
    return drift(spectrum(weights), lifted_spectrum(weights, slot))


# --- eq. 3, 4, 5 and Lemma 1


@given(seed=SEEDS, nodes=NODES)
def test_coarsening_lifting_and_laplacian_are_those_of_the_paper(seed: int, nodes: int) -> None:
    rng = np.random.default_rng(seed)
    weights, slot = random_graph(rng, nodes), random_partition(rng, nodes)
    coarse = plain_coarsening(weights, slot)
    np.testing.assert_allclose(coarsen(weights, slot), coarse, atol=1e-13, rtol=0)
    assert np.array_equal(lift(coarse, slot), plain_lifting(coarse, slot))
    np.testing.assert_allclose(normalized_laplacian(weights), plain_laplacian(weights), atol=1e-13, rtol=0)


@given(seed=SEEDS, nodes=NODES)
def test_lemma_1(seed: int, nodes: int) -> None:
    """The lifted spectrum, from an N x N matrix, is the coarse one of the block sums and N - n ones."""
    rng = np.random.default_rng(seed)
    weights, slot = random_graph(rng, nodes), random_partition(rng, nodes)
    lifted = plain_spectrum(plain_lifting(plain_coarsening(weights, slot), slot))
    np.testing.assert_allclose(lifted_spectrum(weights, slot), lifted, atol=ROUNDING, rtol=0)


def test_lemma_1_fails_for_the_printed_coarse_graph_when_parts_differ_in_size() -> None:
    """W = [[1, 1, 0], [1, 1, 1], [0, 1, 1]] with the first two nodes merged: W_c = [[1, 1/2], [1/2, 1]] has
    the eigenvalues 0 and 2/3, the lifted graph 0, 7/10 and 1."""
    weights, slot = np.array([[1.0, 1, 0], [1, 1, 1], [0, 1, 1]]), np.array([0, 0, 1])
    lifted = plain_spectrum(plain_lifting(plain_coarsening(weights, slot), slot))
    np.testing.assert_allclose(lifted, [0, 7 / 10, 1], atol=1e-13)
    np.testing.assert_allclose(lifted_spectrum(weights, slot), [0, 7 / 10, 1], atol=1e-13)
    np.testing.assert_allclose(spectrum(coarsen(weights, slot)), [0, 2 / 3], atol=1e-13)


@given(seed=SEEDS, parts=st.integers(1, 8), size=st.integers(1, 4))
def test_the_printed_coarse_graph_is_right_when_parts_are_equally_large(
    seed: int, parts: int, size: int
) -> None:
    rng = np.random.default_rng(seed)
    weights, slot = random_graph(rng, parts * size), rng.permutation(np.arange(parts * size) % parts)
    printed = with_ones(spectrum(coarsen(weights, slot)), parts * size)
    np.testing.assert_allclose(lifted_spectrum(weights, slot), printed, atol=ROUNDING, rtol=0)


@given(seed=SEEDS, nodes=NODES)
def test_block_sums_of_block_sums_are_block_sums(seed: int, nodes: int) -> None:
    rng = np.random.default_rng(seed)
    weights, first = random_graph(rng, nodes), random_partition(rng, nodes)
    second = random_partition(rng, max(first) + 1)
    step_by_step, _ = block_sums(block_sums(weights, first)[0], second)
    at_once, size = block_sums(weights, second[first])
    np.testing.assert_allclose(step_by_step, at_once, atol=1e-12, rtol=0)
    assert size.tolist() == np.bincount(second[first]).tolist()


def test_block_averages_of_block_averages_are_not_block_averages() -> None:
    weights, all_in_one = np.array([[1.0, 1, 0], [1, 1, 1], [0, 1, 1]]), np.array([0, 0, 0])
    twice = coarsen(coarsen(weights, np.array([0, 0, 1])), np.array([0, 0]))
    assert (twice.item(), coarsen(weights, all_in_one).item()) == pytest.approx((3 / 4, 7 / 9), abs=1e-13)


def test_slots_may_be_any_integers() -> None:
    rng = np.random.default_rng(0)
    weights, slot = random_graph(rng, 12), random_partition(rng, 12)
    other = 7 * slot - 3
    assert np.array_equal(coarsen(weights, slot), coarsen(weights, other))
    assert np.array_equal(lift(coarsen(weights, slot), slot), lift(coarsen(weights, other), other))


@pytest.mark.parametrize("broken", [0.0, np.nan, -1.0])
def test_a_node_without_a_positive_degree_is_refused(broken: float) -> None:
    with pytest.raises(ValueError, match="positive degree"):
        spectrum(np.diag([1.0, broken]))


# --- Lemma 2 and the telescoping of Theorem 2


@given(seed=SEEDS, nodes=NODES)
def test_lemma_2_for_symmetric_matrices(seed: int, nodes: int) -> None:
    """Hoffman-Wielandt, and its l1 form by Cauchy-Schwarz. The sides may be equal, hence the 1e-9."""
    a, b = np.random.default_rng(seed).standard_normal((2, nodes, nodes))
    a, b = a + a.T, b + b.T
    alpha, beta = np.linalg.eigvalsh(a), np.linalg.eigvalsh(b)
    frobenius = np.linalg.norm(a - b)
    assert np.sum((alpha - beta) ** 2) <= frobenius**2 * (1 + ROUNDING)
    assert drift(alpha, beta) <= np.sqrt(nodes) * frobenius * (1 + ROUNDING)


@given(seed=SEEDS, nodes=NODES)
def test_lemma_2_bounds_the_discrepancy(seed: int, nodes: int) -> None:
    rng = np.random.default_rng(seed)
    weights, slot = random_graph(rng, nodes), random_partition(rng, nodes)
    lifted = plain_laplacian(plain_lifting(plain_coarsening(weights, slot), slot))
    moved = np.linalg.norm(plain_laplacian(weights) - lifted)
    difference = spectrum(weights) - lifted_spectrum(weights, slot)
    assert np.sum(difference**2) <= moved**2 + ROUNDING
    assert np.abs(difference).sum() <= np.sqrt(nodes) * moved + ROUNDING


def merge_steps(rng: np.random.Generator, nodes: int, parts: int) -> list[Slots]:
    """Partitions into N, N - 1, .. parts: in each step two random parts become one."""
    slots = [np.arange(nodes)]
    for _ in range(nodes - parts):
        kept, gone = rng.choice(np.unique(slots[-1]), 2, replace=False)
        slots.append(np.where(slots[-1] == gone, kept, slots[-1]))
    return slots


@given(seed=SEEDS, nodes=st.integers(2, 16))
def test_one_step_drifts_bound_the_discrepancy(seed: int, nodes: int) -> None:
    """Step 1 of the proof of Theorem 2. Every step is lifted to all N nodes, so all spectra have N values and
    the triangle inequality telescopes. The drift of a step is the same between the graph of s weighted nodes
    and its own lifted proxy: both sides only gain the same N - s ones."""
    rng = np.random.default_rng(seed)
    weights, parts = random_graph(rng, nodes), int(rng.integers(1, nodes))
    slots = merge_steps(rng, nodes, parts)
    proxies = [lifted_spectrum(weights, slot) for slot in slots]
    drifts = [drift(before, after) for before, after in itertools.pairwise(proxies)]
    assert discrepancy(weights, slots[-1]) <= sum(drifts) + ROUNDING

    local = []
    for before, after in itertools.pairwise(slots):
        graph, _ = block_sums(weights, before)
        _, first = np.unique(before, return_index=True)  # a node of every part, in the order of the parts
        local.append(discrepancy(graph, after[first]))
    assert local == pytest.approx(drifts, abs=ROUNDING)


# --- the token graph


def random_tokens(rng: np.random.Generator, tokens: int) -> Floats:
    """[tokens, 5], around a mean of their own, so that cosines of both signs occur in some draws only."""
    return rng.standard_normal((tokens, 5)) + 2 * rng.standard_normal(5) * rng.random()


@given(seed=SEEDS, tokens=NODES, padding=st.integers(0, 5))
def test_weights_are_clipped_cosines_and_padding_is_alike(seed: int, tokens: int, padding: int) -> None:
    v = np.concatenate([random_tokens(np.random.default_rng(seed), tokens), np.zeros((padding, 5))])
    weights = token_graph(v)
    for i, j in itertools.product(range(tokens + padding), range(tokens + padding)):
        if i < tokens and j < tokens:
            cosine = v[i] @ v[j] / (np.linalg.norm(v[i]) * np.linalg.norm(v[j]))
            assert weights[i, j] == pytest.approx(max(cosine, 0), abs=1e-13)
        else:
            assert weights[i, j] == float(i >= tokens and j >= tokens)
    assert np.array_equal(weights, weights.T)
    assert weights.sum(1).min() >= 1 - 1e-13  # d_min of eq. 9
    assert weights.max() <= 1  # w_max


@given(seed=SEEDS, tokens=st.integers(2, 24))
def test_proposition_1_with_our_weights(seed: int, tokens: int) -> None:
    """psi has the Lipschitz constant 1, so rows of unit tokens differ by at most N |v_a - v_b|."""
    v = random_tokens(np.random.default_rng(seed), tokens)
    v[1] = v[0] + 0.1 * v[1]
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    rows = token_graph(v)
    assert np.abs(rows[0] - rows[1]).sum() <= tokens * np.linalg.norm(v[0] - v[1]) + ROUNDING


@given(seed=SEEDS, tokens=NODES, padding=st.integers(0, 5))
def test_merging_nothing_or_identical_tokens_costs_nothing(seed: int, tokens: int, padding: int) -> None:
    """0 in exact arithmetic, since the lifted graph is the graph; eigenvalues are good to rounding."""
    rng = np.random.default_rng(seed)
    different = np.concatenate([random_tokens(rng, tokens), np.zeros((min(padding, 1), 5))])
    slot = np.concatenate([random_partition(rng, len(different)), np.arange(len(different))])
    alike = different[slot] * rng.uniform(0.5, 2, (len(slot), 1))  # cosines do not see the length
    slots = np.stack([np.arange(len(slot)), rng.permutation(len(slot)), slot])
    assert window_discrepancy(alike, slots) == pytest.approx([0, 0, 0], abs=ROUNDING)


def test_without_self_loops_identical_tokens_would_cost_something() -> None:
    weights, slot = token_graph([[1.0, 0], [1, 0], [1, 1]]), np.array([0, 0, 1])
    assert discrepancy(weights, slot) == pytest.approx(0, abs=ROUNDING)
    np.fill_diagonal(weights, 0)
    assert discrepancy(weights, slot) > 0.1


def test_merging_padding_is_free_until_it_takes_part_of_the_picture() -> None:
    v = np.zeros((6, 3))
    v[:3] = [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    padding_only, one_token_too = np.array([[0, 1, 2, 3, 3, 3], [0, 1, 2, 2, 2, 2]])
    free, charged = window_discrepancy(v, np.stack([padding_only, one_token_too]))
    assert free == pytest.approx(0, abs=ROUNDING)
    assert charged > 0.1


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-30, -1e30])
def test_constant_windows_have_no_structure_to_lose(value: float) -> None:
    features = np.full((2, 16, 8), value, np.float32)
    slots = np.tile(np.arange(16) // 4, (2, 1))[None]
    assert block_discrepancy(features, slots) == pytest.approx([0], abs=ROUNDING)


def test_a_block_is_the_sum_of_its_windows() -> None:
    rng = np.random.default_rng(1)
    features = np.stack([random_tokens(rng, 9) for _ in range(4)])
    slots = np.stack([[random_partition(rng, 9) for _ in features] for _ in range(3)])
    expected = [
        sum(discrepancy(token_graph(v), s) for v, s in zip(features, plan, strict=True)) for plan in slots
    ]
    assert block_discrepancy(features, slots) == pytest.approx(expected, abs=ROUNDING)


# --- the encoder


@pytest.mark.parametrize("image_size", [224, 320])
def test_attended_features_are_what_metas_attention_sees(
    image_size: int, build_encoder: Build, photographs: Photographs
) -> None:
    """Exactly those of Meta's own forward pass, whether or not the encoder is patched."""
    encoder, image = build_encoder(image_size), photographs(image_size)[:1]
    seen: list[Tensor] = []
    hooks = [
        block.norm1.register_forward_hook(lambda *call: seen.append(call[2])) for block in encoder.blocks
    ]
    with torch.no_grad():
        encoder(image)
    for hook in hooks:
        hook.remove()
    expected = windows_of(encoder)
    for patched in (False, True):
        if patched:
            apply(encoder, [StructSAM(0.55)] * 4)
        walked = list(attended(encoder, image))
        assert [windows for _, windows in walked] == expected
        assert all(torch.equal(x, y) for (x, _), y in zip(walked, seen, strict=True))


@pytest.fixture(scope="module")
def methods() -> dict[str, list[Any]]:
    """Flattest cells, random cells, and nothing; one method per block."""
    return {
        "flat": [StructSAM(0.55)] * 4,
        "random": [StructSAM(0.55, selection=Selection.RANDOM, seed=block) for block in range(4)],
        "nothing": [Identity()] * 4,
    }


@pytest.mark.parametrize("photograph", [0, *(pytest.param(one, marks=pytest.mark.long) for one in (1, 2))])
def test_distortion_of_every_block_on_photographs(
    build_encoder: Build, photographs: Photographs, methods: dict[str, list[Any]], photograph: int
) -> None:
    """Each block against the spectrum of its graph, lifted to all tokens. Merging flat cells distorts less
    than merging random ones on each photograph, with the same number of slots."""
    encoder = build_encoder(320)
    image = photographs(320)[photograph : photograph + 1]
    blocks = list(encoder_distortion(encoder, image, methods))
    assert [block.attends_in_windows for block in blocks] == [True, False, True, False]
    assert [block.slots["flat"] for block in blocks] == [88, 178, 88, 178]
    assert [block.slots["nothing"] for block in blocks] == [196, 400, 196, 400]
    for block, (features, windows) in zip(blocks, attended(encoder, image), strict=True):
        assert block.windows == windows
        plan = methods["flat"][block.index].plan(features, windows)
        expected = 0.0
        for v, slot in zip(windows.cut(features).numpy(), plan.slot.numpy(), strict=True):
            weights = token_graph(v)
            lifted = np.linalg.eigvalsh(normalized_laplacian(lift(coarsen(weights, slot), slot)))
            expected += drift(np.linalg.eigvalsh(normalized_laplacian(weights)), lifted)
        assert block.discrepancy["flat"] == pytest.approx(expected, abs=ROUNDING)
        assert block.discrepancy["nothing"] == pytest.approx(0, abs=ROUNDING)
    sums = encoder_sums(blocks)
    assert sums["flat"] == sum(block.discrepancy["flat"] for block in blocks)
    assert 0.01 < sums["flat"] < sums["random"]


def test_the_encoder_is_not_changed_and_may_be_patched(
    build_encoder: Build, photographs: Photographs, methods: dict[str, list[Any]]
) -> None:
    encoder, image = build_encoder(224), photographs(224)[:1]
    before = list(encoder_distortion(encoder, image, methods))
    apply(encoder, methods["random"])
    patched = list(encoder.blocks)
    for one, other in zip(before, encoder_distortion(encoder, image, methods), strict=True):
        assert one.discrepancy == pytest.approx(other.discrepancy, abs=ROUNDING)
    assert list(encoder.blocks) == patched == merged_blocks(encoder)


def test_a_black_image_has_a_spectrum(build_encoder: Build, methods: dict[str, list[Any]]) -> None:
    """Also where nothing but the image reaches the tokens, so that all of them are equal at first."""
    for encoder in (build_encoder(320), build_encoder(320, use_abs_pos=False)):
        blocks = list(encoder_distortion(encoder, torch.zeros(1, 3, 320, 320), methods))
        assert all(np.isfinite(list(block.discrepancy.values())).all() for block in blocks)
    assert blocks[0].discrepancy["flat"] == pytest.approx(0, abs=ROUNDING)
