"""Which images networks take."""

from __future__ import annotations

from yolo_slim.wording import brief

#: Images have sides of a multiple of this, the coarsest of a detector's feature maps, in pixels.
STRIDE = 32


#: The largest side of an image; one such image in float32 has 800 MB.
LARGEST_IMGSZ = 8192


def expect_imgsz(imgsz: int) -> None:
    """Refuses an image side that no network takes.

    Raises:
        ValueError: If it is no positive multiple of 32, or above 8192.
    """
    if not takes_imgsz(imgsz):
        raise ValueError(
            f"imgsz={brief(imgsz)}: expected a positive multiple of {STRIDE} up to {LARGEST_IMGSZ}, such as 640"
        )


def takes_imgsz(imgsz: object) -> bool:
    """Whether networks take images of this side, in pixels."""
    return type(imgsz) is int and STRIDE <= imgsz <= LARGEST_IMGSZ and imgsz % STRIDE == 0


#: Image size of files that do not say any, in pixels: Ultralytics' default.
DEFAULT_IMGSZ = 640
