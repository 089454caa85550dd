"""Export a SAM with merged tokens: `python export.py --arch vit_b --rate 0.55 --fp16`."""

from structsam_export.cli.export import main

main()
