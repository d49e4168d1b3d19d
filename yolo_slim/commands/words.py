"""Short ways to say what keys say: words without a key, one name over all verbs, and Ultralytics' ``key=value``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from yolo_slim.commands.config_files import before_options, key_of, options_of
from yolo_slim.commands.run_folders import baseline_of, data_of, last_model
from yolo_slim.documents import read_yaml
from yolo_slim.wording import brief

Kind = Literal["weights", "model", "data", "source"]

#: What a kind of word is for each verb; of the verbs that are not here no word is taken.
WORDS: dict[str, dict[Kind, str]] = {
    "fit": {"weights": "model.weights", "model": "model.model", "data": "data.data"},
    "validate": {"weights": "ckpt_path", "data": "data.data"},
    "test": {"weights": "ckpt_path", "data": "data.data"},
    "predict": {"weights": "ckpt_path", "source": "data.source"},
    "slim": {"weights": "model.weights", "model": "model.model", "data": "data.data"},
    "prune": {"weights": "model.weights", "data": "data.data"},
    "sensitivity": {"weights": "model.weights", "data": "data.data"},
    "export": {"weights": "model.weights", "data": "data.data"},
}
#: Verbs that take the data of the run that a model comes from, where none are given.
OF_THE_RUN = ("validate", "test", "prune", "sensitivity", "export", "slim")
_LIGHTNING = ("fit", "validate", "test", "predict")
_PRUNING = {"slim": "prune.selection.", "prune": "selection."}
_PHASES = ("baseline", "sparse", "finetune")
_DATA = ("batch", "workers", "cache", "fraction", "classes", "single_cls", "rect")
_HYP = (
    *("optimizer", "lr0", "lrf", "momentum", "weight_decay", "warmup_epochs", "warmup_momentum", "warmup_bias_lr"),
    *("nbs", "cos_lr", "box", "cls", "dfl", "freeze", "cls_pw"),
)
_AUGMENT = (
    *("hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "perspective", "flipud", "fliplr", "bgr"),
    *("mosaic", "mixup", "cutmix", "copy_paste", "close_mosaic", "multi_scale"),
)
_NMS = ("conf", "iou", "max_det", "agnostic_nms")


def spelled_out(arguments: Sequence[str]) -> list[str]:
    """The same arguments with every word and short key spelled out.

    Words stand between the verb and the first key: a checkpoint, a ``.pt`` file or a run folder, a model YAML, a data
    YAML, and for ``predict`` images. ``key=value`` there, and keys such as ``--epochs``, are the keys of ours that
    mean the same.

    Args:
        arguments: The verb, and its words, keys and values.

    Raises:
        ValueError: If a word can be nothing that the verb takes, or is given twice.

    Example:
        >>> spelled_out(["fit", "epochs=3", "--batch", "8"])
        ['fit', '--trainer.max_epochs', '3', '--data.batch', '8']
    """
    verb, *words = before_options(arguments)
    given = options_of(arguments)
    if verb == "compare":
        return _compared(words, given)
    spelled: list[list[str]] = []
    found: dict[Kind, str] = {}
    for word in words:
        key, is_pair, value = word.partition("=")
        if is_pair and not Path(word).exists():
            if not key or not value:
                raise ValueError(f"{verb} got {brief(word)}: expected KEY=VALUE")
            spelled += _long(verb, key, value) or [[f"--{key}", value]]
        else:
            _take(verb, word, found)
    for option in _without_pairs(verb, given):
        key, _, value = option[0].lstrip("-").partition("=")
        values = [value, *option[1:]] if "=" in option[0] else option[1:]
        longer = _long(verb, key, *values) if option[0].startswith("--") else None
        spelled += [option] if longer is None else longer
    keys = {key_of(option) for option in spelled}
    spelled = [*_of_words(verb, found, keys), *spelled]
    return [verb, *(word for option in spelled for word in option)]


def _compared(words: Sequence[str], given: Sequence[list[str]]) -> list[str]:
    """Of ``compare`` the words are files, which stay words; run folders stand for their last models."""
    files = [str(last_model(Path(word)) or word) if Path(word).is_dir() else word for word in words]
    known = next((data for file in files if (data := data_of(Path(file)))), None)
    options = [
        [f"--data.{option[0][2:]}", *option[1:]] if key_of(option) in ("data", "batch") else option for option in given
    ]
    if known and "data.data" not in map(key_of, options):
        options.append(["--data.data", known])
    return ["compare", *files, *(word for option in options for word in option)]


def _without_pairs(verb: str, options: Sequence[list[str]]) -> list[list[str]]:
    """Options with every ``key=value`` behind the value of another key as a key of its own."""
    split: list[list[str]] = []
    for option in options:
        first = 1 if "=" in option[0] else 2
        split.append(option[:first])
        for word in option[first:]:
            key, pair, value = word.partition("=")
            if pair and (key in ("device", "data", "model", "weights") or key in _keys(verb)):
                split.append([f"--{key}", value])
            else:
                split[-1].append(word)
    return split


def _take(verb: str, word: str, found: dict[Kind, str]) -> None:
    """Notes which of the verb's keys a word is."""
    takes = WORDS.get(verb)
    if takes is None:
        raise ValueError(f"{verb} takes no word {brief(word)}: give a key, see --help")
    kind = _kind(word, verb)
    if kind not in takes:
        expected = {"weights": "a checkpoint", "model": "a model YAML", "data": "a data YAML", "source": "images"}
        taken = ", ".join(expected[kind] for kind in takes)
        raise ValueError(f"{brief(word)} looks like {expected[kind]}, and {verb} takes {taken}")
    if kind in found:
        raise ValueError(f"{verb} got {brief(found[kind])} and {brief(word)}: expected one")
    found[kind] = word


def _kind(word: str, verb: str) -> Kind:
    path = Path(word)
    if path.suffix in (".pt", ".ckpt"):
        return "weights"
    if path.is_dir() and (last_model(path) is not None or verb != "predict"):
        return "weights"
    if word == "shapes" and verb != "predict":
        return "data"
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            return "model" if path.stem.lower().startswith(("yolo", "rtdetr")) and path.name == word else "data"
        content = read_yaml(path)
        return "model" if isinstance(content, dict) and "backbone" in content else "data"
    return "source" if verb == "predict" else "data"


def _of_words(verb: str, found: dict[Kind, str], keys: set[str]) -> list[list[str]]:
    """The keys that words stand for, with those that follow from them."""
    options: list[list[str]] = []
    for kind, word in found.items():
        if kind != "weights":
            options.append([f"--{WORDS[verb][kind]}", word])
        else:
            key, value = _weights(verb, word)
            options.append([key, value])
            beside = Path(word) / "model" if Path(word).is_dir() else Path(value)
            known = data_of(beside) or data_of(Path(value)) if verb in OF_THE_RUN and "data" not in found else None
            if known and "data.data" not in keys:
                options.append(["--data.data", known])
            if verb == "slim" and "baseline.enabled" not in keys and _is_trained(value):
                options.append(["--baseline.enabled", "false"])
    if verb == "slim" and found and not keys & {"c", "config"}:
        options.insert(0, ["-c", "slim.yaml"])
        if not keys & {"epochs", "finetune.epochs", "sparse.epochs"}:
            options.append(["--epochs", "auto"])
    return options


def _weights(verb: str, word: str) -> tuple[str, str]:
    """The key that a checkpoint, a ``.pt`` file or a run folder is given by, and the file."""
    file, key = Path(word), WORDS[verb]["weights"]
    if file.is_dir():
        model = baseline_of(file) if verb == "slim" else last_model(file)
        if model is None:
            raise ValueError(f"{word} is a folder without a checkpoint: give a run folder, a .ckpt or a .pt file")
        file = model
    return f"--{'model.weights' if key == 'ckpt_path' and file.suffix == '.pt' else key}", str(file)


def _is_trained(file: str) -> bool:
    """Whether a file's network can do without a baseline; what cannot be opened is left to the verb to say."""
    from yolo_slim.detection import has_fresh_head, load_network

    try:
        return not has_fresh_head(load_network(file))
    except (ValueError, OSError):
        return True


def _long(verb: str, name: str, *values: str) -> list[list[str]] | None:
    """What a short key is spelled out; None if it is none, or one of the verb's own."""
    name = name.replace("-", "_")
    if name == "device" and verb in (*_LIGHTNING, "slim"):
        return _device(values[0] if values else "")
    if name in ("data", "model", "weights") and len(values) == 1 and verb in WORDS:
        return _named(verb, name, values[0])
    key = _keys(verb).get(name)
    if key is None:
        return None
    return [[f"--{long}", *values] for long in (key if isinstance(key, tuple) else (key,))]


def _named(verb: str, name: str, value: str) -> list[list[str]] | None:
    """``data=``, ``model=`` and ``weights=``; a YAML file of settings below ``data`` or ``model`` stays what it is."""
    takes = WORDS[verb]
    if name == "data" and "data" in takes and _kind(value, verb) == "data" and not _has_settings(value):
        return [[f"--{takes['data']}", value]]
    if name != "data" and _kind(value, verb) == "weights":
        return [list(_weights(verb, value))]
    if name == "model" and "model" in takes and _kind(value, verb) == "model":
        return [[f"--{takes['model']}", value]]
    return None


def _has_settings(value: str) -> bool:
    path = Path(value)
    content = read_yaml(path) if path.is_file() else None
    return isinstance(content, dict) and not {"names", "train", "val", "nc"} & content.keys()


def _device(value: str) -> list[list[str]]:
    if value in ("cpu", "mps", "auto"):
        return [["--trainer.accelerator", value]]
    numbers = value.strip("[]")
    if not numbers.replace(",", "").isdigit():
        raise ValueError(f"device={brief(value)}: expected cpu, mps, or numbers of GPUs such as 0 or 0,1")
    return [["--trainer.accelerator", "gpu"], ["--trainer.devices", f"[{numbers}]"]]


def _keys(verb: str) -> dict[str, str | tuple[str, ...]]:
    """Short key -> key of a verb, or keys."""
    keys: dict[str, str | tuple[str, ...]] = {}
    if verb in (*_LIGHTNING, "slim"):
        keys |= {name: f"data.{name}" for name in ("imgsz", *_DATA)} | {"source": "data.source"}
        keys |= {name: f"data.augment.{name}" for name in _AUGMENT}
    if verb in _LIGHTNING:
        keys |= {name: f"model.hyp.{name}" for name in _HYP} | {name: f"model.nms.{name}" for name in _NMS}
        keys |= {"epochs": "trainer.max_epochs", "seed": "seed_everything", "resume": "ckpt_path"}
    if verb == "slim":
        keys |= {name: tuple(f"{phase}.hyp.{name}" for phase in _PHASES) for name in _HYP}
    if verb in ("prune", "sensitivity"):
        keys |= {"batch": "data.batch"}
    if verb in _PRUNING:
        limits = ("ratio", "max_flops", "max_params", "max_latency", "max_latency_ms", "round_to")
        keys |= {name: f"{_PRUNING[verb]}{name}" for name in limits}
    return keys
