"""YOLO detectors and their data under Lightning: the only folder that imports Ultralytics."""

import os

# Ultralytics sends usage data, asks for newer versions and installs packages on its own; all of it stays off, unless
# its own variables say otherwise. It reads them when it is imported. Published weights are downloaded all the same.
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
