"""Commands of the program `structsam` that need PyTorch: one file each, with a function `main`."""
