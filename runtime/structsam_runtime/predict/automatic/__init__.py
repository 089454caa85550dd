"""Everything mode: all masks of a picture, without a prompt."""
