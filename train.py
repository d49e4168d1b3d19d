"""Command line of yolo_slim: ``python train.py --help``."""

from yolo_slim.commands import main

if __name__ == "__main__":
    main()
