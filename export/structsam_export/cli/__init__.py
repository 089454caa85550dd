"""Commands of the program `structsam` that need PyTorch: a file each, with a function `main`."""
