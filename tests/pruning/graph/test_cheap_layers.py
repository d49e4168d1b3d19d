from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from yolo_slim.pruning.graph.axes import Call
from yolo_slim.pruning.graph.cheap_layers import first_channel_repeated

X = torch.rand(2, 6, 9, 8)
CALLS = [
    (F.conv2d, (X, torch.rand(4, 6, 3, 3)), {}),
    (F.conv2d, (X, torch.rand(4, 6, 3, 3), torch.rand(4), 2, 1), {}),
    (F.conv2d, (X, torch.rand(4, 6, 3, 2)), {"stride": (2, 1), "dilation": 2, "padding": "valid"}),
    (F.conv2d, (X, torch.rand(4, 6, 3, 3), None, 1, "same", 2), {}),
    (F.conv2d, (X, torch.rand(12, 1, 3, 3), None, 1, 1, 1, 6), {}),
    (F.conv2d, (X, torch.rand(8, 3, 1, 1)), {"groups": 2, "bias": torch.rand(8)}),
    (F.conv2d, (X[0], torch.rand(4, 6, 3, 3)), {}),
    (F.conv1d, (X[0], torch.rand(5, 9, 3)), {"padding": 1}),
    (F.conv3d, (X[None], torch.rand(5, 2, 3, 3, 3)), {}),
    (F.conv_transpose2d, (X, torch.rand(6, 4, 3, 3)), {}),
    (F.conv_transpose2d, (X, torch.rand(6, 4, 3, 3), torch.rand(4), 2, 1, 1), {}),
    (F.conv_transpose2d, (X, torch.rand(6, 2, 3, 3), None, 2, 1, 1, 3, 2), {}),
    (F.conv_transpose2d, (X[0], torch.rand(6, 1, 3, 3)), {"groups": 6}),
    (F.linear, (X, torch.rand(7, 8), torch.rand(7)), {}),
    (F.linear, (X[0, 0, 0], torch.rand(7, 8)), {}),
]


@pytest.mark.parametrize(("function", "args", "kwargs"), CALLS)
def test_it_looks_like_the_result_of_the_function(function, args, kwargs):
    expected = function(*args, **kwargs)
    found = first_channel_repeated(function, Call(function.__name__, args, kwargs, None))
    assert (found.shape, found.dtype, found.device) == (expected.shape, expected.dtype, expected.device)
    assert found.isfinite().all()
    found.add_(1)  # operations in place must not meet overlapping memory


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (F.conv2d, (X, torch.rand(4, 5, 3, 3))),
        (F.conv2d, (X[0, 0], torch.rand(4, 5, 3, 3))),
        (F.conv_transpose2d, (X, torch.rand(5, 4, 3, 3))),
        (F.linear, (X, torch.rand(7, 6))),
        (F.linear, (X.double(), torch.rand(7, 8))),
    ],
)
def test_arguments_that_do_not_fit_are_left_to_the_function(function, args):
    with pytest.raises(RuntimeError):
        function(*args)
    assert first_channel_repeated(function, Call(function.__name__, args, {}, None)) is None
