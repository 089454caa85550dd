"""The program `structsam`, and its commands that need no PyTorch: a file each, with a function `main`."""
