"""A picture and prompts in, masks out."""
