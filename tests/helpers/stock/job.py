"""Trains a .pt file with SlimTrainer on two CPU processes, started by Ultralytics' own launcher.

Usage: stock_job.py MODEL DATA PROJECT [KEY=VALUE...]; prints the channels of the network that YOLO holds afterwards.
"""

from __future__ import annotations

import sys

import torch
import yaml
from ultralytics import YOLO

from tests.helpers.stock.gloo import record
from yolo_slim.detection.training.stock_trainer import SlimTrainer

if __name__ == "__main__":
    torch.set_num_threads(1)
    file, data, project, *settings = sys.argv[1:]
    given = {key: yaml.safe_load(value) for key, _, value in (setting.partition("=") for setting in settings)}
    given = {"epochs": 1, "imgsz": 64, "batch": 4, "device": "cpu", "plots": False, "exist_ok": True, **given}
    model = YOLO(file)
    model.add_callback("on_train_epoch_end", record)
    model.train(trainer=SlimTrainer, data=data, project=project, **given)
    print([m.out_channels for m in model.model.modules() if isinstance(m, torch.nn.Conv2d)])
