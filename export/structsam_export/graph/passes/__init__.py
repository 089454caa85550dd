"""Graph rules: each removes nodes from an ONNX graph and changes no number.

One rule per file: a function that edits a graph and returns the number of edits. `PASSES` is their order, and
`run_passes` applies them until none finds anything. Each docstring says what the rule is for. ONNX Runtime
also optimises graphs, so no single rule changes its latency (benchmarks/passes-cpu.md), but TensorRT's parser
reads the graph as it is, and the encoder of ViT-B at 1024 pixels has to stay under 750 nodes. What PyTorch's
exporter, onnx_graphsurgeon or onnx_ir already do has no rule here.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from .drop_gathers import drop_gathers
from .drop_reshapes import drop_reshapes
from .drop_scales import drop_scales
from .drop_zeros import drop_zeros
from .fold_constants import fold_constants
from .int32_indices import int32_indices
from .join_sums import join_sums
from .shapes import infer_shapes
from .smallest_first import smallest_first

__all__ = ["MAX_ROUNDS", "PASSES", "Pass", "run_passes"]

Pass = Callable[[gs.Graph], int]

# Constants first, since the other rules look for them; views last, when their shapes have become constants.
PASSES: tuple[Pass, ...] = (
    fold_constants,
    int32_indices,
    drop_zeros,
    drop_gathers,
    smallest_first,
    drop_scales,
    join_sums,
    drop_reshapes,
)

# Every edit removes something, so the rounds terminate; SAM's encoders need at most four.
MAX_ROUNDS = 16


def run_passes(
    model: onnx.ModelProto, passes: Sequence[Pass] = PASSES
) -> tuple[onnx.ModelProto, dict[str, int]]:
    """Apply graph rules until none of them finds anything, and count their edits.

    Args:
        model: not modified. It may be larger than 2 GB: weights are never serialised.
        passes: the rules, in order.

    Returns:
        The smaller model, with the same inputs, outputs, operator sets and metadata, and the number of edits
        by rule name. Metadata of single nodes (a tracer's stack traces) is dropped.

    Raises:
        ValueError: two nodes compute a tensor of the same name, so that its readers are ambiguous.
        RuntimeError: the rules still find something after `MAX_ROUNDS` rounds.
    """
    _require_single_assignment(model.graph)
    edits = {rule.__name__: 0 for rule in passes}
    with G_LOGGER.suppress():  # it warns about types that NumPy lacks; they pass through unread
        graph = gs.import_onnx(model)
        for _ in range(MAX_ROUNDS):
            if not _round(graph, passes, edits):
                break
        else:
            raise RuntimeError(f"graph rules did not settle in {MAX_ROUNDS} rounds: {edits}")
        return _export(graph, model), edits


def _require_single_assignment(graph: onnx.GraphProto) -> None:
    counts = Counter(name for node in graph.node for name in node.output if name)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise ValueError(
            f"the graph computes {', '.join(map(repr, repeated))} more than once; every tensor needs a "
            "unique name: rename the output if an inner value has its name"
        )


def _round(graph: gs.Graph, passes: Sequence[Pass], edits: dict[str, int]) -> int:
    infer_shapes(graph)
    before = sum(edits.values())
    for rule in passes:
        edits[rule.__name__] += rule(graph)
        graph.cleanup()
    return sum(edits.values()) - before


def _export(graph: gs.Graph, model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph as a model with the metadata of the original model."""
    result: onnx.ModelProto = gs.export_onnx(graph)
    result.domain, result.doc_string = model.domain, model.doc_string
    result.model_version = model.model_version
    result.metadata_props.extend(model.metadata_props)
    result.graph.metadata_props.extend(model.graph.metadata_props)
    return result
