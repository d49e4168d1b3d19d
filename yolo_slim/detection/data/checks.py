"""Bad data found before training starts: what was given, what was expected, what to do, in one line.

Ultralytics leaves out images and labels that it cannot use, with a warning; here each of them is an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import check_det_dataset, img2label_paths
from ultralytics.nn.autobackend import check_class_names
from ultralytics.utils import remove_colorstr
from ultralytics.utils.checks import check_file

from yolo_slim.detection.data.guards import guarded, known_messages, refuse_script, verify
from yolo_slim.detection.network.classes import MAX_CLASSES
from yolo_slim.documents import read_yaml
from yolo_slim.wording import brief, printable

#: How Ultralytics says that labels occur twice.
_DOUBLED = re.compile(r"(\d+) duplicate labels removed")


def find_data_yaml(data: str) -> Path:
    """Finds a data YAML: a path, or the name of one that Ultralytics ships, such as ``coco128.yaml``.

    Raises:
        ValueError: If ``data`` does not end in .yaml or .yml.
        FileNotFoundError: If there is no such file.
    """
    if Path(data).suffix.lower() not in (".yaml", ".yml"):
        raise ValueError(f"data={data!r} is not a data YAML: give a file or a name ending in .yaml, or 'shapes'.")
    try:
        file = Path(check_file(data))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"data={data!r} was not found in {Path.cwd()} or among the data sets of Ultralytics "
            f"({_one_line(error)}): correct the path, or use 'shapes' for the built-in set."
        ) from error
    if not file.is_file():
        what = "is a folder, expected a file: give the data YAML inside it" if file.is_dir() else "is no ordinary file"
        raise FileNotFoundError(f"data={data!r} {what}.")
    return file


def read_data_yaml(file: Path) -> dict[str, Any]:
    """Reads a data YAML without touching the images.

    Returns:
        What the file holds, with ``names`` as {class index: name}, made up as Ultralytics does if only ``nc`` is given.

    Raises:
        ValueError: If the file is empty, malformed, or lacks what a detection data set needs.
    """
    try:
        info = read_yaml(file, texts=("names",))
    except ValueError as error:
        raise ValueError(f"{file} is not valid YAML ({_one_line(error)}): correct the file.") from error
    if info is None:
        raise ValueError(f"{file} is empty, expected the keys train, val and names.")
    if not isinstance(info, dict):
        raise ValueError(f"{file} holds a {type(info).__name__}, expected a mapping with train, val and names.")
    if "validation" in info:
        info.setdefault("val", info["validation"])
    for split in ("train", "val"):
        paths = info.get(split)
        several = isinstance(paths, list) and all(isinstance(path, str) for path in paths)
        if not paths or not (isinstance(paths, str) or several):
            raise ValueError(
                f"{file} has {split}: {brief(paths)}, expected a folder of images, a list file, or several."
            )
    if not isinstance(info.get("path", ""), str):
        raise ValueError(f"{file} has path: {brief(info['path'])}, expected the folder that train and val are in.")
    if info.get("channels", 3) != 3:
        raise ValueError(
            f"{file} has channels: {brief(info['channels'])}, expected 3: images are read as colour images."
        )
    info["names"] = _names(file, info)
    return info


def _names(file: Path, info: dict[str, Any]) -> dict[int, str]:
    names, nc = info.get("names"), info.get("nc")
    if names is None and nc is None:
        raise ValueError(f"{file} has neither names nor nc, expected names: one for each class.")
    if nc is not None and (type(nc) is not int or not 1 <= nc <= MAX_CLASSES):
        raise ValueError(f"{file} has nc: {brief(nc)}, expected the number of classes, from 1 to {MAX_CLASSES}.")
    if names is None:
        return {i: f"class_{i}" for i in range(nc or 0)}
    if not isinstance(names, list | dict) or not names:
        raise ValueError(f"{file} has names: {brief(names)}, expected a list, or a mapping from class index to name.")
    if len(names) > MAX_CLASSES:
        raise ValueError(f"{file} has {len(names)} names, expected at most {MAX_CLASSES}.")
    listed = list(names.values()) if isinstance(names, dict) else names
    if strange := [name for name in listed if not isinstance(name, str) or not name.strip() or len(name) > 200]:
        raise ValueError(
            f"{file} has the name {brief(strange[0])}, expected a text of up to 200 letters for each class."
        )
    if isinstance(names, dict) and {str(key) for key in names} != {str(i) for i in range(len(names))}:
        raise ValueError(
            f"{file} has names for the classes {brief(sorted(map(str, names)))}, expected 0 to {len(names) - 1}."
        )
    if nc is not None and nc != len(names):
        raise ValueError(f"{file} has nc: {nc} and {len(names)} names: remove nc, or correct one of them.")
    return check_class_names(names)


def resolve(file: Path, download: bool) -> dict[str, Any]:
    """Resolves the paths of a data YAML that ``read_data_yaml`` accepts, by Ultralytics' rules.

    Args:
        file: The data YAML.
        download: Fetch a data set that is not there, if the YAML says from where.

    Returns:
        What the file holds, with absolute paths and ``names`` as a dict.

    Raises:
        FileNotFoundError: If the validation images are not there and could not be fetched.
        ValueError: If they would have to be fetched by a program in the file.
    """
    try:
        with guarded():
            return _resolved(file, download)
    except OSError as error:
        raise FileNotFoundError(
            f"{file}: {_one_line(error).rstrip('.')}. Correct path, train and val in the file, or fetch the images."
        ) from error


def _resolved(file: Path, download: bool) -> dict[str, Any]:
    try:
        return check_det_dataset(str(file), autodownload=False)
    except OSError:
        info = read_data_yaml(file)
        if not (download and info.get("download")):
            raise
        refuse_script(file, info)
        return check_det_dataset(str(file), autodownload=True)


def build_checked(build: Callable[[], Any], file: Path, split: str) -> YOLODataset:
    """Builds a data set and refuses it if an image or a label of it cannot be used.

    Args:
        build: Makes the data set; Ultralytics reads every label on the way, or its cache of them if nothing changed.
        file: The data YAML, for the messages.
        split: Key of the images in it: train, val or test.

    Raises:
        FileNotFoundError: If a folder of images is missing or has none.
        ValueError: If an image or a label is malformed, or nothing is labelled.
    """
    try:
        with guarded():
            dataset = build()
    except FileNotFoundError as error:
        cause = (
            _one_line(error.__cause__ or error)
            .removeprefix("train: ")
            .removeprefix("val: ")
            .partition(". Supported formats")[0]
        )
        raise FileNotFoundError(f"{file}, {split}: {cause}. Correct path or {split} in the file.") from error
    except RuntimeError as error:
        if "No valid images" not in str(error):
            raise
        first = next((line for line in str(error).splitlines() if "image/label: " in line), str(error))
        raise ValueError(
            f"{file}: none of the {split} images can be used. The first: {_reason(first)}. Expected readable images "
            "and lines of 'class x_center y_center width height': correct them, or the paths and names in the file."
        ) from error
    except ValueError as error:
        if "No labels found" not in str(error):
            raise
        raise ValueError(_no_labels(file, split)) from error
    _refuse_unusable(dataset, file, split)
    if not any(len(label["cls"]) for label in dataset.labels):
        raise ValueError(_no_labels(file, split))
    return dataset


def _refuse_unusable(dataset: YOLODataset, file: Path, split: str) -> None:
    """Raises if Ultralytics left out images: it keeps the labels of what it can use and drops the rest."""
    dropped = len(dataset.label_files) - len(dataset.im_files)
    if not dropped:
        return
    kept = set(dataset.im_files)
    with guarded():
        image = next(path for path in dataset.get_img_files(dataset.img_path) if path not in kept)
    label = img2label_paths([image])[0]
    nc = len(dataset.data["names"])
    reason = _reason(verify((image, label, "", False, nc, 0, 0, dataset.single_cls))[-1])
    raise ValueError(
        f"{file}: {dropped} of {len(dataset.label_files)} {split} images cannot be used. The first is {image}, labels "
        f"in {label}: {reason}. Expected a readable image and lines of 'class x_center y_center width height', class "
        f"from 0 to {nc - 1}, the others in [0, 1]: correct or remove them."
    )


def counted(dataset: YOLODataset) -> str:
    """One line on a data set: images, objects, and what may be other than meant."""
    missing = [not os.path.isfile(path) for path in img2label_paths([*dataset.im_files])]
    objects = [len(label["cls"]) for label in dataset.labels]
    empty = sum(not count and not absent for count, absent in zip(objects, missing, strict=True))
    doubled = sum(int(counts[0]) for counts in map(_DOUBLED.findall, known_messages(dataset)) if counts)
    notes = {"without a label file": sum(missing), "with an empty one": empty, "duplicate labels dropped": doubled}
    remarks = "".join(f", {count} {what}" for what, count in notes.items() if count)
    return f"{len(objects)} images, {sum(objects)} objects{remarks}"


def _reason(message: str) -> str:
    reason = _one_line(message).rpartition("image/label: ")[2]
    # Ultralytics takes any file that is no image for one that this package might read.
    return "cannot identify image file" if "pi_heif" in reason else reason


def _no_labels(file: Path, split: str) -> str:
    return (
        f"{file}: no object is labelled in the {split} images, expected one text file for each image in a folder "
        "'labels' beside the folder 'images'."
    )


def _one_line(error: object) -> str:
    return printable(" ".join(remove_colorstr(str(error)).split()))
