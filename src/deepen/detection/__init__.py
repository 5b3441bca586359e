"""Detection: networks that say what is where, and their training, on the same loop."""
