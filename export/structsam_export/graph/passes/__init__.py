"""Graph rules: each takes something out of an ONNX graph and leaves every number as it was.

One rule per file, a function from a graph to the number of edits it made in it. `PASSES` is their order and
`run_passes` applies them until none finds anything. Each says what it is for: in the time of ONNX Runtime,
which cleans graphs too, none shows alone (benchmarks/passes-cpu.md), but TensorRT's parser sees a graph as it
is, and an encoder like ViT-B at 1024 pixels has to stay under 750 nodes. What PyTorch's exporter,
onnx_graphsurgeon or onnx_ir do as well has no rule of its own.
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

# Constants first, since they decide what the others see; views last, when their shapes have become constants.
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

# Every edit takes something away, so the rounds end by themselves; SAM's encoders need four at most.
MAX_ROUNDS = 16


def run_passes(
    model: onnx.ModelProto, passes: Sequence[Pass] = PASSES
) -> tuple[onnx.ModelProto, dict[str, int]]:
    """Apply graph rules until none of them finds anything, and count what each did.

    Args:
        model: left as it is. May hold more than 2 GB: weights are never serialised.
        passes: the rules, in order.

    Returns:
        The smaller model, with the same inputs, outputs, operator sets and metadata, and the number of edits
        by rule name. Metadata of single nodes (a tracer's stack traces) is dropped.

    Raises:
        ValueError: two nodes compute a tensor of the same name, so that readers of it are not told apart.
    """
    _require_single_assignment(model.graph)
    edits = {rule.__name__: 0 for rule in passes}
    with G_LOGGER.suppress():  # it reports types that numpy has not, which pass through unread
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
            f"the graph computes {', '.join(map(repr, repeated))} more than once; every tensor needs a name "
            "of its own: a tracer repeats an output's name if a value inside has that name: rename it"
        )


def _round(graph: gs.Graph, passes: Sequence[Pass], edits: dict[str, int]) -> int:
    infer_shapes(graph)
    before = sum(edits.values())
    for rule in passes:
        edits[rule.__name__] += rule(graph)
        graph.cleanup()
    return sum(edits.values()) - before


def _export(graph: gs.Graph, model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph as a model with everything around it that the original had."""
    result: onnx.ModelProto = gs.export_onnx(graph)
    result.domain, result.doc_string = model.domain, model.doc_string
    result.model_version = model.model_version
    result.metadata_props.extend(model.metadata_props)
    result.graph.metadata_props.extend(model.graph.metadata_props)
    return result
