"""What an encoder merges, read from inside its graph: the slots of tokens, and the energy of features.

The graph of an export holds both under names that are no outputs of the file. A second session of ONNX
Runtime has them as outputs, so that what the page draws is what the export computes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..manifest import FILE_NAME, entry
from ..runners.base import Array
from ..runners.protobuf import fields, text, texts

# Numbers of fields in onnx.proto.
_GRAPH = 7  # of a model
_NODE = 1  # of a graph
_NODE_INPUT, _NODE_OUTPUT, _OPERATOR = 1, 2, 4  # of a node


@dataclass(frozen=True)
class Tap:
    """Where the graph holds what a block plans.

    Attributes:
        block: its index.
        windows: of its attention; 1 where it is global.
        slot: name of the plan, int32 [windows, tokens]: the slot of every token of every window.
        norm: name of the features that the plan is made from, float [h * w, C] in any shape; None if unknown.
    """

    block: int
    windows: int
    slot: str
    norm: str | None

    @property
    def names(self) -> list[str]:
        """Of the tensors in the graph."""
        return [name for name in (self.slot, self.norm) if name]


@dataclass(frozen=True)
class Plan:
    """What a block merges in one picture. All maps are [h, w], one value per token, without padding.

    Attributes:
        slot: int32, equal for tokens that share a slot.
        alone: bool, whether a token has a slot of its own: it is protected, or was not merged.
        slots: how many slots attend, in all windows together.
        tokens: how many tokens there are, padding included.
        windows: of the block; 1 for global attention.
        energy: float32, the magnitude of the features' gradient; None if they are unknown.
    """

    slot: NDArray[np.int32]
    alone: NDArray[np.bool_]
    slots: int
    tokens: int
    windows: int
    energy: NDArray[np.float32] | None


def taps(encoder: Path, manifest: Mapping[str, Any]) -> list[Tap]:
    """The taps of an encoder, one for each block that decides what merges; none where nothing merges.

    Args:
        encoder: its ONNX file.
        manifest: all that the export says of itself. Exports that are older than its ``plans`` have none.

    Raises:
        UserError: the manifest is damaged.
    """
    if not manifest.get("plans"):
        return []
    numbered = {str(index): value for index, value in enumerate(entry(manifest, "plans", list))}
    said = [entry(numbered, index, dict) for index in numbered]
    norms = _norms(encoder)
    return [
        Tap(block, entry(one, "windows", int), entry(one, "slot", str), norms.get(block))
        for one in said
        for block in [entry(one, "block", int)]
    ]


def _norms(encoder: Path) -> dict[int, str]:
    """By block the output of its first normalisation, which is told by its weight's name."""
    model, found = np.memmap(encoder, np.uint8, "r").data, {}
    for node in fields(fields(model)[_GRAPH][0])[_NODE]:
        if text(node, _OPERATOR) == "LayerNormalization":
            *path, part, _ = ["", "", "", *list(texts(node, _NODE_INPUT))[1].split(".")]
            if part == "norm1" and path[-2] == "blocks" and path[-1].isdigit():
                found[int(path[-1])] = text(node, _NODE_OUTPUT)
    return found


def plan_of(tap: Tap, made: Mapping[str, Array], height: int, width: int) -> Plan:
    """The plan of a block from the outputs of a tapped encoder.

    Args:
        tap: of the block.
        made: the outputs, by name.
        height, width: of the map of tokens.

    Raises:
        UserError: windows of the plan do not cover the map, as those of a prompt-aware encoder.
    """
    slot = made[tap.slot]
    windows, tokens = slot.shape
    side = math.isqrt(tokens)
    down, across = -(-height // side), -(-width // side)
    if side * side != tokens or windows != down * across:
        raise UserError(
            f"block {tap.block} plans {windows} windows of {tokens} tokens, expected windows that cover "
            f"{height} x {width} tokens; see 'plans' in {FILE_NAME}"
        )
    counts = [np.bincount(row) for row in slot]
    starts = np.cumsum([0, *map(len, counts[:-1])])  # windows number their slots each for itself
    alone = np.stack([count[row] == 1 for count, row in zip(counts, slot, strict=True)])

    def joined(values: NDArray[Any]) -> NDArray[Any]:
        grid = values.reshape(down, across, side, side).swapaxes(1, 2).reshape(down * side, across * side)
        return grid[:height, :width]

    return Plan(
        slot=joined(slot + starts[:, None]).astype(np.int32),
        alone=joined(alone),
        slots=sum(map(len, counts)),
        tokens=slot.size,
        windows=windows,
        energy=gradient(made[tap.norm].reshape(height, width, -1)) if tap.norm else None,
    )


def gradient(features: NDArray[Any]) -> NDArray[np.float32]:
    """The magnitude of Sobel's gradient over all channels, with replicated borders (paper section 3.3).

    Args:
        features: [h, w, C], any type of float.

    Returns:
        float32 [h, w].
    """
    padded = np.pad(features.astype(np.float32), ((1, 1), (1, 1), (0, 0)), mode="edge")
    across = padded[:-2] + 2 * padded[1:-1] + padded[2:]  # smoothed down the columns: [h, w + 2, C]
    along = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    x, y = across[:, 2:] - across[:, :-2], along[2:] - along[:-2]
    squared: NDArray[np.float32] = (x * x).sum(-1) + (y * y).sum(-1)
    return np.sqrt(squared)
