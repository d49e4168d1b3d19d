"""The version of this package; nothing is imported to find it out."""

__version__ = "0.1.0"
