"""Detection data under Lightning: any Ultralytics data YAML, or the built-in shapes."""

from __future__ import annotations

import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader, Dataset, Sampler
from ultralytics.cfg import get_cfg
from ultralytics.data.build import build_yolo_dataset, seed_worker
from ultralytics.data.dataset import YOLODataset
from ultralytics.utils import DEFAULT_CFG, IterableSimpleNamespace

from yolo_slim.detection.data import checks as data_checks
from yolo_slim.detection.data import shapes
from yolo_slim.detection.data.augmentation import DEFAULT_AUGMENTATION, Augmentation
from yolo_slim.detection.data.epochs import EpochSampler, LateLoader, SeededDataset, WholeBatches, affordable_workers
from yolo_slim.detection.data.images import collate_labelled, in_precision, prediction_loader, rescaled
from yolo_slim.detection.network.limits import DEFAULT_IMGSZ, LARGEST_IMGSZ, STRIDE, takes_imgsz
from yolo_slim.wording import brief

SHAPES_ROOT = Path("datasets/shapes")
SPLITS = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}


class YOLODataModule(LightningDataModule):
    """Images and labels of a YOLO data set.

    The order and the augmentation of epoch e depend on the seed and e alone, whatever ran before and with however many
    workers. The seed is the one of ``seed_everything``, 0 if there is none. Bad images and labels are refused in
    ``setup``.

    Args:
        data: Path of an Ultralytics data YAML, or the name of one it ships, such as ``coco128.yaml``, which is
            downloaded where the YAML says from where. ``shapes`` generates the built-in set in ``datasets/shapes``.
            Only ``predict`` with a ``source`` works without.
        imgsz: Height and width of the images given to the model, in pixels, a multiple of 32; by default those that the
            weights were trained with, else 640.
        batch: Images in a batch, for each process.
        workers: Processes that load images, for each training process, and no more than there are cores for; 0 loads
            them in the training process itself.
        cache: Keep decoded images in memory (``ram``) or beside the images (``disk``).
        single_cls: Treat all classes as one.
        classes: Indices of the classes whose labels count; by default all.
        fraction: Share of the training images that is used, in (0, 1].
        augment: Augmentation of training images.
        rect: Give validation and test images the least height and width that a batch of about the same shape needs, as
            ``yolo val`` does, in place of squares.
        source: Image, folder of images or list file for ``predict``; by default the validation images.
    """

    def __init__(
        self,
        data: str | None = None,
        imgsz: int | None = None,
        batch: int = 16,
        workers: int = 8,
        cache: Literal["none", "ram", "disk"] = "none",
        single_cls: bool = False,
        classes: list[int] | None = None,
        fraction: float = 1.0,
        augment: Augmentation = DEFAULT_AUGMENTATION,
        rect: bool = False,
        source: str | None = None,
    ) -> None:
        super().__init__()
        if imgsz is not None and not takes_imgsz(imgsz):
            near = min(max(STRIDE, round(imgsz / STRIDE) * STRIDE), LARGEST_IMGSZ)
            raise ValueError(
                f"data.imgsz={brief(imgsz)} is not a positive multiple of {STRIDE} up to {LARGEST_IMGSZ}: use for "
                f"example {near}."
            )
        if batch < 1 or workers < 0:
            raise ValueError(f"data.batch={batch} and data.workers={workers}: expected at least 1 and at least 0.")
        if cache not in ("none", "ram", "disk"):
            raise ValueError(f"data.cache={cache!r} is unknown, expected 'none', 'ram' or 'disk'.")
        if not 0 < fraction <= 1:
            raise ValueError(f"data.fraction={fraction} is out of range, expected a share above 0 and up to 1.")
        if data is None and source is None:
            raise ValueError("there is no data: give --data.data with a data YAML, or 'shapes' for the built-in set.")
        self.data, self._imgsz, self.batch, self.workers = data, imgsz, batch, workers
        self.cache, self.single_cls, self.augment, self.source = cache, single_cls, augment, source
        self.classes, self.fraction, self.rect = classes, fraction, rect
        self.datasets: dict[str, YOLODataset] = {}
        self._train: SeededDataset | None = None
        self.announces = True  # the images of each split, once per fit

    def fresh(self, **changes: Any) -> YOLODataModule:
        """Returns another data module with the same arguments, but for the given ones; nothing of a Trainer is kept."""
        arguments: dict[str, Any] = {"data": self.data, "imgsz": self._imgsz, "batch": self.batch}
        arguments |= {"workers": self.workers, "cache": self.cache, "single_cls": self.single_cls}
        arguments |= {"classes": self.classes, "fraction": self.fraction}
        arguments |= {"augment": self.augment, "rect": self.rect, "source": self.source}
        return YOLODataModule(**arguments | changes)

    @property
    def asked_imgsz(self) -> int | None:
        """Side of the images that it was made with, in pixels; None for that of the weights."""
        return self._imgsz

    @property
    def imgsz(self) -> int:
        """Side of the images in pixels."""
        module = getattr(self.trainer, "lightning_module", None)
        return self._imgsz or (DEFAULT_IMGSZ if module is None else module.hparams.get("imgsz", DEFAULT_IMGSZ))

    @property
    def names(self) -> dict[int, str] | None:
        """Class names by index, read from the data YAML without touching the images; None without data."""
        if self.data is None:
            return None
        if self.single_cls:
            return {0: "item"}
        if self.data == "shapes":
            return dict(enumerate(shapes.CLASSES))
        return data_checks.read_data_yaml(self._file)["names"]

    @property
    def _file(self) -> Path:
        if self.data is None:
            raise ValueError("there is no data: give --data.data with a data YAML, or 'shapes' for the built-in set.")
        return SHAPES_ROOT / "data.yaml" if self.data == "shapes" else data_checks.find_data_yaml(self.data)

    def prepare_data(self) -> None:
        """Generates or downloads what is not there, on one process; reads all labels once so that they are cached."""
        if self.data is None:
            return
        if self.data == "shapes":
            shapes.generate_shapes(SHAPES_ROOT)
        data_checks.read_data_yaml(self._file)
        data_checks.resolve(self._file, download=True)
        if self.trainer is not None and self.trainer.state.fn is not None:
            self._build(str(self.trainer.state.fn.value), cache="none")

    def setup(self, stage: str) -> None:
        """Builds the data sets of a stage: train and val for ``fit``, val for ``validate``, test for ``test``.

        Raises:
            FileNotFoundError: If the YAML or the images are missing.
            ValueError: If the YAML, an image or a label is malformed.
        """
        self.datasets = self._build(stage, self.cache)
        for split, dataset in self.datasets.items() if self.announces else ():
            rank_zero_info(f"{split}: {data_checks.counted(dataset)}")
        if stage == "fit":
            seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
            self._train = SeededDataset(self.datasets["train"], seed, self._settings(self.cache))

    def _build(self, stage: str, cache: str) -> dict[str, YOLODataset]:
        if stage not in SPLITS:
            return {}
        data_checks.read_data_yaml(self._file)
        info = data_checks.resolve(self._file, download=False)
        names = self.names or {}
        info["names"], info["nc"] = names, len(names)
        if unknown := [index for index in self.classes or () if index not in names]:
            raise ValueError(
                f"data.classes={self.classes}: the data has no class {unknown[0]}, expected some of {names}."
            )
        datasets = {}
        for split in SPLITS[stage]:
            key = split
            if not info.get(split):
                rank_zero_warn(f"{self._file} has no {split} images: the val images are used instead.")
                key = "val"
            mode = "train" if split == "train" else "val"
            arguments = (self._settings(cache), info[key], self.batch, info, mode)
            build = partial(build_yolo_dataset, *arguments, rect=self.rect and mode == "val")
            datasets[split] = data_checks.build_checked(build, self._file, key)
        return datasets

    def _settings(self, cache: str) -> IterableSimpleNamespace:
        """Returns Ultralytics' settings with ours in them."""
        ours = {"task": "detect", "imgsz": self.imgsz, "single_cls": self.single_cls, "rect": False}
        ours |= {"classes": self.classes, "fraction": self.fraction}
        # With the default, images would depend on whether an optional package, albumentations, is installed.
        ours |= {"cache": False if cache == "none" else cache, "augmentations": [], **asdict(self.augment)}
        return IterableSimpleNamespace(**vars(get_cfg(DEFAULT_CFG, ours)))

    def train_dataloader(self) -> DataLoader:
        """Returns batches of augmented images in an order that each epoch draws anew."""
        assert self._train is not None, "setup('fit') was not called"
        world_size, rank = self._processes
        seed = self._train.seed
        sampler = EpochSampler(self._train, world_size, rank, shuffle=True, seed=seed)
        coarsest = self._coarsest
        alone = self.imgsz <= coarsest and (len(sampler) % self.batch == 1 or self.batch == 1)
        if alone and (self.batch == 1 or len(sampler) == 1):
            raise ValueError(
                f"data.batch={self.batch}, {len(sampler)} images of data.imgsz={self.imgsz}: BatchNorm needs more than "
                f"one value a channel, which an image of {coarsest} pixels does not have; use larger images or batches."
            )
        if alone:
            rank_zero_info(f"The last batch of each epoch is left out: one image of {self.imgsz} pixels is not enough.")
        return self._loader(self._train, sampler, drop_last=alone)

    @property
    def _coarsest(self) -> int:
        """Pixels of an image per position of the coarsest feature map."""
        net = getattr(getattr(self.trainer, "lightning_module", None), "net", None)
        return STRIDE if net is None else int(net.stride.max())

    def val_dataloader(self) -> DataLoader:
        """Returns batches of validation images, every image once."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader:
        """Returns batches of test images, every image once."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader:
        """Returns batches of the images of ``source``, by default of the validation images."""
        source = self.source or data_checks.resolve(self._file, download=False)["val"]
        return prediction_loader(source, self.imgsz, self.batch, self._loading_processes)

    def _evaluation_loader(self, split: str) -> DataLoader:
        dataset = self.datasets[split]
        world_size, rank = self._processes
        shares, of = (len(dataset.batch_shapes), "batches of ") if dataset.rect else (len(dataset), "")
        if shares < world_size:
            raise ValueError(f"{shares} {of}{split} images do not suffice for {world_size} processes: use fewer.")
        # Lightning's own sampler repeats images to make shares equal, and the scores would depend on their number.
        sampler: Sampler | None = None
        if world_size > 1 and dataset.rect:
            sampler = WholeBatches(dataset, world_size, rank, self.batch)
        elif world_size > 1:
            sampler = UnrepeatedDistributedSampler(dataset, world_size, rank, shuffle=False)
        return self._loader(dataset, sampler)

    @property
    def _processes(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer is not None else (1, 0)

    @property
    def _loading_processes(self) -> int:
        return affordable_workers(self.workers, 1 if self.trainer is None else self.trainer.num_devices)

    def _loader(self, dataset: Dataset, sampler: Sampler | None, drop_last: bool = False) -> DataLoader:
        workers = self._loading_processes
        return LateLoader(
            dataset,
            batch_size=self.batch,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=collate_labelled,
            worker_init_fn=seed_worker,
            pin_memory=torch.cuda.is_available(),
        )

    def on_epoch_start(self, epoch: int, max_epochs: int) -> None:
        """Tells the training images which epoch begins; call it in ``on_train_epoch_start``.

        Args:
            epoch: Index of the epoch, from 0.
            max_epochs: Number of epochs of the fit, negative if it has no end.
        """
        assert self._train is not None, "setup('fit') was not called"
        self._train.epoch = epoch
        if max_epochs >= 0 and self.augment.close_mosaic and epoch >= max_epochs - self.augment.close_mosaic:
            self.close_mosaic()

    def close_mosaic(self) -> None:
        """Trains without mosaic, mixup, cutmix and copy_paste from the next epoch to the end of this fit."""
        assert self._train is not None, "setup('fit') was not called"
        if not self._train.mosaic_closed:
            rank_zero_info("Mosaic, mixup, cutmix and copy_paste are off from here on.")
            self._train.close_mosaic()

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Turns the images, (N, 3, imgsz, imgsz) uint8, into [0, 1] on the device, in the precision of the module."""
        module = getattr(self.trainer, "lightning_module", None)
        parameters = () if module is None else module.parameters()
        ready = in_precision(batch, next((p.dtype for p in parameters), torch.float32))
        if self.augment.multi_scale and self.trainer is not None and self.trainer.training:
            assert self._train is not None, "setup('fit') was not called"
            index = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
            seed = (self._train.seed, self._train.epoch, index, self.trainer.global_rank)
            ready["img"] = rescaled(ready["img"], self.imgsz, self.augment.multi_scale, self._coarsest, seed)
        return ready
