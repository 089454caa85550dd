"""The program `structsam`."""
