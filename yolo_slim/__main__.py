"""``python -m yolo_slim``, the same as ``train.py`` and the command ``yolo-slim``."""

from yolo_slim.commands import main

if __name__ == "__main__":
    main()
