"""YOLO detectors and their data under Lightning: the only folder that imports Ultralytics."""
