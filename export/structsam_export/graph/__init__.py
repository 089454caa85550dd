"""The ONNX side of the export: what happens to a graph between the tracer and an engine.

    trace -> passes -> precision -> lint

`passes` makes the graph smaller and changes no number; `lint` says what TensorRT will refuse before it is
asked.
"""
