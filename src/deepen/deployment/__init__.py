"""A trained network at work: predictor, export, server."""
