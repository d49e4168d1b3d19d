"""Times of layers that a machine has measured before, in a file of the user's cache folder."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, MutableMapping
from contextlib import suppress
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import torch

from yolo_slim.files import write_whole
from yolo_slim.pruning.measure.runtimes import Latency

#: The package whose version decides how fast a runtime is.
PACKAGES = {"torch": "torch", "onnxruntime": "onnxruntime", "openvino": "openvino", "tensorrt": "onnxruntime-gpu"}


class TimesCache(MutableMapping[str, float]):
    """Milliseconds by what was timed.

    What cannot be read counts as empty; what cannot be written is measured anew the next time.

    Args:
        path: The file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._times = self._read()
        self._new = False

    @classmethod
    def of_machine(cls, latency: Latency) -> TimesCache:
        """The one of this machine, the runtime, its version and its threads; in ``$XDG_CACHE_HOME/yolo_slim``."""
        package = PACKAGES[latency.runtime]
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            version = "unknown"
        threads = latency.threads or torch.get_num_threads()
        about = [latency.runtime, version, str(threads), _processor(), platform.machine(), str(os.cpu_count())]
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "yolo_slim"
        return cls(folder / f"layer-times-{latency.runtime}-{sha256('|'.join(about).encode()).hexdigest()[:12]}.json")

    def save(self) -> None:
        """Writes what is new, beside what another process has written since."""
        if self.path is None or not self._new:
            return
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, json.dumps({**self._read(), **self._times}, indent=0, sort_keys=True))
        self._new = False

    def _read(self) -> dict[str, float]:
        try:
            found = json.loads(self.path.read_text()) if self.path is not None else {}
            times = {str(key): float(value) for key, value in found.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}
        return {key: value for key, value in times.items() if 0 < value < float("inf")}

    def __getitem__(self, key: str) -> float:
        return self._times[key]

    def __setitem__(self, key: str, value: float) -> None:
        self._times[key] = value
        self._new = True

    def __delitem__(self, key: str) -> None:
        del self._times[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._times)

    def __len__(self) -> int:
        return len(self._times)


def _processor() -> str:
    """The name of what computes."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
