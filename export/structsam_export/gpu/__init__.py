"""Check and time encoders and kernels on one GPU, with PyTorch alone; `scripts/gpu.py` is the command."""
