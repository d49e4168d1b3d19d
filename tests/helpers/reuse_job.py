"""Run by tests in processes of its own: somebody's project trains, prunes, finetunes and reloads a network of theirs.

The first argument is the package whose Trainer and modules are used; the others are packages that this process cannot
import, each ``-NAME``, or that it imports before the callbacks, each ``+NAME``.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
import tempfile
from pathlib import Path

package, *settings = sys.argv[1:]
blocked = {s[1:] for s in settings if s[0] == "-"}


class Absent:
    """Makes an installed package look as if it were not there."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def distribution(name, installed=importlib.metadata.distribution):
    """The same for those who ask for a version."""
    if name.replace("-", "_") in blocked:
        raise importlib.metadata.PackageNotFoundError(name)
    return installed(name)


sys.meta_path.insert(0, Absent())
importlib.metadata.distribution = distribution
for first in (s[1:] for s in settings if s[0] == "+"):
    importlib.import_module(first)

import torch  # noqa: E402
from torch import nn  # noqa: E402

from yolo_slim.callbacks import ChannelPruning, GammaMonitor, GammaSparsity, WeightEMA, framework  # noqa: E402
from yolo_slim.pruning import restore_structure  # noqa: E402

torch.set_num_threads(1)
pl = importlib.import_module(package)


class Theirs(pl.LightningModule):
    """Takes its settings as one dictionary, as many projects do."""

    def __init__(self, config):
        super().__init__()
        self.save_hyperparameters(config)
        width = config["width"]
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.tail = nn.Sequential(nn.Conv2d(width, width, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, config["classes"])
        self.example_input_array = torch.rand(1, 3, 8, 8)

    def forward(self, images):
        return self.head(self.tail(self.stem(images)).mean((2, 3)))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    def on_load_checkpoint(self, checkpoint):
        restore_structure(self, checkpoint)

    def channels(self):
        return [len(m.weight) for m in self.modules() if isinstance(m, nn.BatchNorm2d)]


def trainer(folder, epochs, *callbacks):
    saver = importlib.import_module(f"{package}.callbacks").ModelCheckpoint(
        dirpath=folder, monitor="loss", save_last=True
    )
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        precision="bf16-mixed",
        gradient_clip_val=10.0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[*callbacks, saver],
    )


def main() -> None:
    """Prints what happened as JSON."""
    torch.manual_seed(0)
    data = [(torch.rand(3, 8, 8), i % 4) for i in range(16)]
    train, val = (torch.utils.data.DataLoader(data, batch_size=4) for _ in range(2))
    found = {"framework": framework.Callback.__module__.split(".")[0]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = {"width": 12, "classes": 4}
        for penalty in ("subgradient", "growing"):
            module = Theirs(config)
            sparsity = GammaSparsity(penalty=penalty, ratio=0.5, min_channels=2)
            pruning = ChannelPruning(ratio=0.5, min_channels=2, dirpath=str(folder / penalty))
            sparse = trainer(folder / penalty, 4, WeightEMA(), sparsity, GammaMonitor(), pruning)
            sparse.fit(module, train, val)
            found[penalty] = [module.channels(), sparse.precision, sparse.gradient_clip_val]

        slim = torch.load(folder / "growing" / "slim.ckpt", weights_only=True)
        found["version"] = slim["pytorch-lightning_version"] == pl.__version__
        module = Theirs.load_from_checkpoint(folder / "growing" / "slim.ckpt")
        trainer(folder / "fine", 2, WeightEMA()).fit(module, train, val)
        reloaded = Theirs.load_from_checkpoint(folder / "fine" / "last.ckpt")
        found["reloaded"] = reloaded.channels()
        images = torch.rand(2, 3, 8, 8)
        found["equal"] = torch.equal(reloaded.eval()(images), module.eval()(images))
        straight = trainer(folder / "val", 1, WeightEMA()).validate(module, val, verbose=False)
        dense_built = trainer(folder / "val", 1, WeightEMA()).validate(
            Theirs(config), val, ckpt_path=folder / "fine" / "last.ckpt", verbose=False
        )
        found["same score"] = straight == dense_built
    found["loaded"] = sorted({n.split(".")[0] for n in sys.modules} & {"lightning", "pytorch_lightning", *blocked})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
