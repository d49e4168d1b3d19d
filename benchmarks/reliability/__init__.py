"""What the program survives: kills, full disks, two starts at once, signals, bad files and bad input."""

import os

os.environ.setdefault("YOLO_VERBOSE", "false")  # as the command line does, before anything imports Ultralytics
