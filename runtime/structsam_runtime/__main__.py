"""`python -m structsam_runtime` is `structsam`."""

from .cli.program import structsam

if __name__ == "__main__":
    structsam()
