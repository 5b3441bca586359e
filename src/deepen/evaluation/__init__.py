"""Metrics and the protocols that they are measured under."""
