"""The version, in a file of its own: every room may say it, and the build reads it from here."""

__version__ = "0.1.0"
