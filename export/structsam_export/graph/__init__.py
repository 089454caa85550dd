"""The ONNX side of the export, from the PyTorch module to a graph that an engine can be built from.

    precision -> trace -> passes -> lint

`precision` prepares the module; `trace` exports it; `passes` make the graph smaller and change no number;
`lint` reports what TensorRT does not support before a build starts.
"""
