"""Which settings each block gets: for a checkpoint, some pictures, and a budget."""
