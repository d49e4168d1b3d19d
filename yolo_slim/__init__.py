"""Structured channel pruning of YOLO detectors with PyTorch Lightning."""

__version__ = "0.1.0"
