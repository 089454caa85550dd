"""Subcommands of `structsam` that need PyTorch: one file each."""
