"""How training images are augmented, with the names of Ultralytics."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training images, with the names, meanings and defaults of Ultralytics."""

    hsv_h: float = 0.015
    """Largest change of hue, as a fraction of the colour circle, in [0, 1]."""
    hsv_s: float = 0.7
    """Largest change of saturation, as a fraction, in [0, 1]."""
    hsv_v: float = 0.4
    """Largest change of brightness, as a fraction, in [0, 1]."""
    degrees: float = 0.0
    """Largest rotation to either side, in degrees, in [0, 180]."""
    translate: float = 0.1
    """Largest shift, as a fraction of the image, in [0, 1]."""
    scale: float = 0.5
    """Largest change of size: 0.5 draws a factor from 0.5 to 1.5, in [0, 1]."""
    shear: float = 0.0
    """Largest shear to either side, in degrees, in [0, 90)."""
    perspective: float = 0.0
    """Largest perspective distortion, in [0, 1]; values up to 0.001 are usual."""
    flipud: float = 0.0
    """Probability of a flip upside down, in [0, 1]."""
    fliplr: float = 0.5
    """Probability of a flip left to right, in [0, 1]."""
    bgr: float = 0.0
    """Probability that red and blue change places, in [0, 1]."""
    mosaic: float = 1.0
    """Probability that an image is composed of four, in [0, 1]."""
    mixup: float = 0.0
    """Probability that another image shines through, in [0, 1]."""
    cutmix: float = 0.0
    """Probability that a part is replaced by one of another image, in [0, 1]."""
    copy_paste: float = 0.0
    """Share of objects pasted a second time, in [0, 1]; needs labels that are polygons."""
    multi_scale: float = 0.0
    """Largest change of the side of all images of a batch, as a fraction of ``imgsz``, in [0, 1)."""
    close_mosaic: int = 10
    """Number of last epochs without mosaic, mixup, cutmix and copy_paste; 0 keeps them to the end."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            most = {"degrees": 180, "shear": 89.9, "close_mosaic": float("inf"), "multi_scale": 0.99}.get(name, 1)
            if not 0 <= value <= most:
                raise ValueError(f"augment.{name}={value} is out of range, expected a value from 0 to {most}.")


DEFAULT_AUGMENTATION = Augmentation()


UNCHANGED = Augmentation(hsv_h=0, hsv_s=0, hsv_v=0, translate=0, scale=0, fliplr=0, mosaic=0)
