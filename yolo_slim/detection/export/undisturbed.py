"""Ultralytics' exporter and runtimes without installations, telemetry and notices."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ultralytics.utils import LOGGER, checks


@contextmanager
def undisturbed() -> Iterator[None]:
    """Inside, no package is installed, nothing is sent, and only errors are printed.

    Ultralytics runs pip for a package that it misses unless ``YOLO_AUTOINSTALL`` forbids it; here it does so only if
    that variable asks for it. OpenVINO reports each import and conversion to its maker if the package
    ``openvino_telemetry`` can be imported; here it cannot, and OpenVINO takes the stub that it has for that case.
    """
    modules: dict[str, object] = sys.modules  # type: ignore[assignment]  # None is how an import is forbidden
    missing = object()
    before = modules.get("openvino_telemetry", missing), checks.AUTOINSTALL, LOGGER.level, logging.root.manager.disable
    modules["openvino_telemetry"] = None
    checks.AUTOINSTALL = os.environ.get("YOLO_AUTOINSTALL", "").lower() in ("1", "true", "yes", "on")
    LOGGER.setLevel(logging.CRITICAL)
    logging.disable(max(logging.WARNING, before[3]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing: that sizes become constants is wanted
            yield
    finally:
        if before[0] is missing:
            del modules["openvino_telemetry"]
        else:
            modules["openvino_telemetry"] = before[0]
        checks.AUTOINSTALL = before[1]
        LOGGER.setLevel(before[2])
        logging.disable(before[3])
