"""The built-in data set: drawn shapes on textured backgrounds, generated from a seed in seconds.

Nothing is downloaded. The folder has the ordinary Ultralytics layout, so every tool that reads a data YAML reads it:
``images/{train,val}``, ``labels/{train,val}`` and ``data.yaml``. Classes differ by outline only: colour, fill, size and
rotation say nothing about them. Lines and blobs that belong to no class lie between and over the objects.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import cv2
import numpy as np
import yaml

CLASSES = ("circle", "triangle", "rectangle", "star", "cross")
DISTRACTORS = ("line", "blob")
MIN_VISIBLE = 0.55
"""An object shows at least this share of its area: what would hide more of it is not drawn."""
VERSION = 1
"""Changes when the same settings give other images, so that an older folder is not taken for a new one."""


def generate_shapes(root: str | Path, train: int = 400, val: int = 100, imgsz: int = 160, seed: int = 0) -> Path:
    """Writes the data set, or reuses the one that is there if it was generated with the same settings.

    The same settings give the same bytes. The set is written beside ``root`` and renamed when complete.

    Args:
        root: Folder of the data set: a new or empty one, or one that this function made.
        train: Number of training images, at least 1.
        val: Number of validation images, at least 1.
        imgsz: Height and width of every image in pixels, at least 32.
        seed: Seed of everything that is random, not negative.

    Returns:
        Path of the data YAML.

    Raises:
        ValueError: If a setting is out of range or ``root`` holds anything else. Nothing is overwritten.
    """
    for name, value, least in (("train", train, 1), ("val", val, 1), ("imgsz", imgsz, 32), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"shapes: {name}={value} is out of range, expected an integer of at least {least}.")
    root = Path(root)
    settings = {"version": VERSION, "train": train, "val": val, "imgsz": imgsz, "seed": seed}
    if _is_complete(root, settings):
        return root / "data.yaml"
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as folder:
        staging = Path(folder) / "set"
        for split, (name, count) in enumerate((("train", train), ("val", val))):
            _write_split(staging, name, count, imgsz, seed=(seed, split))
        description = {"train": "images/train", "val": "images/val", "names": dict(enumerate(CLASSES))}
        (staging / "data.yaml").write_text(yaml.safe_dump({**description, "generated": settings}, sort_keys=False))
        try:
            os.rename(staging, root)
        except OSError:
            # Another process may have been faster.
            if not _is_complete(root, settings):
                raise
    return root / "data.yaml"


def _is_complete(root: Path, settings: dict[str, int]) -> bool:
    """Says whether ``root`` holds the set, False if nothing is there; raises if it holds anything else."""
    if root.is_dir() and not any(root.iterdir()) or not root.exists():
        return False
    present = None
    if (root / "data.yaml").is_file():
        description = yaml.safe_load((root / "data.yaml").read_text())
        present = description.get("generated") if isinstance(description, dict) else None
    counts = {split: len(list(root.glob(f"images/{split}/*.jpg"))) for split in ("train", "val")}
    if present == settings and all(counts[split] == settings[split] for split in counts):
        return True
    holds = "something else" if present is None else f"the set of {present} with {counts} images"
    raise ValueError(
        f"{root} holds {holds}, expected the complete shapes set of {settings} or nothing: "
        "give another folder, or delete this one to have it generated anew."
    )


def _write_split(root: Path, name: str, count: int, imgsz: int, seed: tuple[int, int]) -> None:
    images, labels = root / "images" / name, root / "labels" / name
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for i in range(count):
        image, rows = draw(np.random.default_rng((*seed, i)), imgsz)
        if not cv2.imwrite(str(images / f"{i:05d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 92]):
            raise OSError(f"{images / f'{i:05d}.jpg'} could not be written: check the free disk space.")
        lines = [f"{c} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for c, x, y, w, h in rows]
        (labels / f"{i:05d}.txt").write_text("".join(lines))


def draw(rng: np.random.Generator, imgsz: int) -> tuple[np.ndarray, list[tuple[int, float, float, float, float]]]:
    """Draws one image.

    Args:
        rng: Source of everything that is random.
        imgsz: Height and width in pixels.

    Returns:
        The image, (imgsz, imgsz, 3) uint8 BGR, and its labels: class, then x centre, y centre, width and height of
        the visible part, as fractions of the image.
    """
    canvas = _background(rng, imgsz)  # (H, W, 3) float32, 0 to 255
    owner = np.full((imgsz, imgsz), -1)  # which object each pixel belongs to, -1 for none
    objects: list[tuple[int, float]] = []  # class, area in pixels if nothing hid it
    for kind in _kinds(rng):
        outline = _place(kind, rng, imgsz)
        alpha = _fill(outline, imgsz)
        is_object = kind in CLASSES
        after = np.where(alpha > 0.5, len(objects) if is_object else -1, owner)
        added = [(CLASSES.index(kind), float(cv2.contourArea(outline.astype(np.float32))))] if is_object else []
        if any((after == i).sum() < MIN_VISIBLE * area for i, (_, area) in enumerate(objects + added)):
            continue
        canvas = _paint(canvas, alpha, rng)
        owner, objects = after, objects + added
    return _expose(canvas, rng), [(c, *_box(owner == i)) for i, (c, _) in enumerate(objects)]


def _kinds(rng: np.random.Generator) -> list[str]:
    """Returns what to draw, from the bottom to the top."""
    return [str(rng.choice(DISTRACTORS if rng.random() < 0.35 else CLASSES)) for _ in range(rng.integers(1, 11))]


def _box(visible: np.ndarray) -> tuple[float, float, float, float]:
    """Returns x centre, y centre, width, height of the True pixels of a square (H, W) array, as fractions of it."""
    size = len(visible)
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    (x1, x2), (y1, y2) = ((int(i[0]) / size, (int(i[-1]) + 1) / size) for i in (columns, rows))
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def _outline(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Returns the corners of a shape around the origin, (N, 2), about one unit in radius."""
    if kind in ("rectangle", "line"):
        length, width = (0.85, rng.uniform(0.4, 0.8)) if kind == "rectangle" else (3.0, rng.uniform(0.04, 0.12))
        return np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [length, width]
    if kind == "cross":
        a = rng.uniform(0.22, 0.36)
        half = np.array([[a, a], [a, 1], [-a, 1], [-a, a], [-1, a], [-1, -a]])
        return np.concatenate([half, -half])
    radii = {
        "circle": np.ones(40),
        "triangle": np.ones(3),
        "star": np.tile([1, rng.uniform(0.4, 0.5)], 5),
        "blob": np.interp(np.arange(40), np.arange(0, 40, 5), rng.uniform(0.4, 1.2, 8), period=40),
    }[kind]
    angle = np.arange(len(radii)) * 2 * np.pi / len(radii)
    return np.stack([np.cos(angle), np.sin(angle)], 1) * radii[:, None]


def _place(kind: str, rng: np.random.Generator, imgsz: int) -> np.ndarray:
    """Returns the corners of a shape in pixels, (N, 2): squeezed a little, turned, scaled and put somewhere."""
    radius = imgsz * np.exp(rng.uniform(np.log(0.065), np.log(0.24)))
    cos, sin = np.cos(angle := rng.uniform(0, 2 * np.pi)), np.sin(angle)
    squeezed = _outline(kind, rng) * [1, rng.uniform(0.75, 1)]
    return squeezed @ np.array([[cos, sin], [-sin, cos]]) * radius + rng.uniform(0, imgsz, 2)


def _fill(outline: np.ndarray, imgsz: int) -> np.ndarray:
    """Returns the share of each pixel that the outline covers, (H, W) float32 in [0, 1], edges smoothed."""
    fine = 8  # drawn so many times larger, because OpenCV's lines add half a pixel to every side
    mask = np.zeros((imgsz * fine, imgsz * fine), np.uint8)
    cv2.fillPoly(mask, [np.round(outline * fine - 0.5).astype(np.int32)], 255)
    return cv2.resize(mask, (imgsz, imgsz), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _ramp(rng: np.random.Generator, imgsz: int) -> np.ndarray:
    """Returns a gradient in a random direction, (H, W) float32 in [-1, 1]."""
    y, x = np.mgrid[-1 : 1 : imgsz * 1j, -1 : 1 : imgsz * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    return ((x * np.cos(angle) + y * np.sin(angle)) / np.sqrt(2)).astype(np.float32)


def _clouds(rng: np.random.Generator, imgsz: int, cells: int) -> np.ndarray:
    """Returns smooth noise, (H, W) float32 in [0, 1], with about ``cells`` bumps across the image."""
    return cv2.resize(rng.random((cells, cells), np.float32), (imgsz, imgsz), interpolation=cv2.INTER_LINEAR)


def _pattern(kind: str, rng: np.random.Generator, imgsz: int) -> np.ndarray:
    """Returns how two colours are mixed at each pixel, (H, W, 1) float32 in [0, 1]."""
    if kind == "ramp":
        mix = (_ramp(rng, imgsz) + 1) / 2
    elif kind == "stripes":
        mix = np.sin(_ramp(rng, imgsz) * rng.uniform(10, 60)) / 2 + 0.5
    elif kind == "checks":
        waves = rng.uniform(6, 30)
        mix = (np.sin(_ramp(rng, imgsz) * waves) * np.sin(_ramp(rng, imgsz) * waves) > 0).astype(np.float32)
    else:
        mix = 0.5 * _clouds(rng, imgsz, 5) + 0.3 * _clouds(rng, imgsz, 15) + 0.2 * _clouds(rng, imgsz, 45)
    return np.asarray(mix, np.float32)[..., None]


def _colour(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(10, 245, 3).astype(np.float32)


def _background(rng: np.random.Generator, imgsz: int) -> np.ndarray:
    """Returns a textured background, (H, W, 3) float32, 0 to 255."""
    first = _colour(rng)
    second = first + rng.uniform(-70, 70, 3).astype(np.float32)
    mix = _pattern(str(rng.choice(["ramp", "stripes", "checks", "clouds"])), rng, imgsz)
    return first * (1 - mix) + second * mix


def _paint(canvas: np.ndarray, alpha: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the canvas with the covered pixels in two mixed colours that differ from what was below."""
    below = canvas[alpha > 0.5].mean(0) if (alpha > 0.5).any() else canvas.mean((0, 1))
    while np.linalg.norm((first := _colour(rng)) - below) < 80:
        continue
    second = first + rng.uniform(-40, 40, 3).astype(np.float32)
    mix = _pattern(str(rng.choice(["ramp", "stripes", "clouds"])), rng, len(canvas))
    cover = alpha[..., None]
    return canvas * (1 - cover) + (first * (1 - mix) + second * mix) * cover


def _expose(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns what a camera would see, (H, W, 3) uint8: uneven light, blur, sensor noise."""
    size = len(canvas)
    light = rng.uniform(0.6, 1.1) * (1 + rng.uniform(0, 0.5) * _ramp(rng, size))
    blur = rng.uniform(0.1, 1.4) * size / 160
    seen = cv2.GaussianBlur(canvas * light[..., None], (0, 0), blur)
    noise = rng.normal(0, rng.uniform(2, 16), canvas.shape)
    return np.clip(seen + noise, 0, 255).astype(np.uint8)


def main() -> None:
    """Generates the data set from the command line: ``python -m yolo_slim.detection.data.shapes ROOT``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", help="folder of the data set")
    for name, default in (("train", 400), ("val", 100), ("imgsz", 160), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    print(generate_shapes(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
