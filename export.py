"""Export a SAM with merged tokens: `python export.py ARGUMENTS` is `structsam export ARGUMENTS`."""

import sys

from structsam_runtime.cli.program import structsam

structsam(["export", *sys.argv[1:]])
