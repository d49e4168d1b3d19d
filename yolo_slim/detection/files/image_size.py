"""Which image side a verb works with: the one that is given, or the one that the weights have been trained with."""

from __future__ import annotations

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from yolo_slim.detection.files.checkpoints import DEFAULT_IMGSZ, read_weights
from yolo_slim.detection.network.build import expect_imgsz
from yolo_slim.wording import printable


def choose_imgsz(given: int | None, file: str | None) -> int:
    """The side of the images in pixels.

    Args:
        given: What the user asks for; None for that of the file.
        file: The checkpoint or ``.pt`` file that a verb works with, if any.

    Returns:
        ``given``, else what the file has been trained with, else 640. Where the first two differ, it is said.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the side is none that a network takes, or the file is no detector.
    """
    if given is not None:
        expect_imgsz(given)
    known = read_weights(file)[1] if file else None
    if given is not None and known is not None and given != known:
        rank_zero_info(
            f"Images of {given} pixels are used, as asked for; {printable(str(file))} is for {known} pixels."
        )
    return given or known or DEFAULT_IMGSZ
