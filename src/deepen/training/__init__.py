"""Recipe, loop, checkpoint."""
