"""What hostile files hold: calls of functions that run things, and names of detectors used in other ways."""

from __future__ import annotations

from typing import Any

from tests.helpers.hostile.pickles import Call, Name, Raw, Stored, layer, tensor

MODEL = "ultralytics.nn.tasks.DetectionModel"
MKDIR = "__import__('os').mkdir('ran')"
OS = Call(Name("builtins", "__import__"), "os")
#: Name that is wanted -> what the file holds.
GADGETS = {
    "os.system": Call(Name("os", "system"), "mkdir ran"),
    "posix.system": Call(Name("posix", "system"), "mkdir ran"),
    "nt.system": Call(Name("nt", "system"), "mkdir ran"),
    "os.mkdir": Call(Name("os", "mkdir"), "ran"),
    "subprocess.Popen": Call(Name("subprocess", "Popen"), ["mkdir", "ran"]),
    "builtins.eval": Call(Name("builtins", "eval"), MKDIR),
    "builtins.exec": Call(Name("__builtin__", "exec"), MKDIR),
    "builtins.open": Call(Name("builtins", "open"), "ran", "w"),
    "builtins.__import__": Call(Call(Name("builtins", "getattr"), OS, "mkdir"), "ran"),
    "builtins.map": Call(Name("builtins", "list"), Call(Name("builtins", "map"), Name("os", "mkdir"), ["ran"])),
    "builtins.compile": Call(Name("builtins", "compile"), MKDIR, "x", "eval"),
    "importlib.import_module": Call(Name("importlib", "import_module"), "decoy_of_yolo_slim"),
    "decoy_of_yolo_slim.function": Call(Name("decoy_of_yolo_slim", "function")),
    "runpy._run_code": Call(Name("runpy", "_run_code"), MKDIR, {}),
    "pip.main": Call(Name("pip", "main"), ["install", "x"]),
    "webbrowser.open": Call(Name("webbrowser", "open"), "http://127.0.0.1"),
    "functools.partial": Call(Call(Name("functools", "partial"), Name("os", "mkdir"), "ran")),
    "operator.attrgetter": Call(Call(Name("operator", "attrgetter"), "system"), OS),
    "operator.methodcaller": Call(Call(Name("operator", "methodcaller"), "mkdir", "ran"), OS),
    "types.CodeType": Call(Name("types", "CodeType"), 0),
    "types.FunctionType": Call(
        Name("types", "FunctionType"), Call(Name("builtins", "compile"), MKDIR, "x", "eval"), {}
    ),
    "marshal.loads": Call(Name("marshal", "loads"), "x"),
    "pickle.loads": Call(Name("pickle", "loads"), "x"),
    "torch.load": Call(Name("torch", "load"), "x"),
    "torch.hub.load": Call(Name("torch.hub", "load"), "a/b", "c"),
    "torch.hub._load_local": Call(Name("torch.hub", "_load_local"), ".", "c"),
    "torch.jit.load": Call(Name("torch.jit", "load"), "x"),
    "torch.jit._script.unpackage_script_module": Call(Name("torch.jit._script", "unpackage_script_module"), None, None),
    "torch.storage._load_from_bytes": Call(Name("torch.storage", "_load_from_bytes"), "x"),
    "torch.utils.cpp_extension.load_inline": Call(Name("torch.utils.cpp_extension", "load_inline"), "x", "y"),
    "torch._utils._rebuild_sparse_tensor": Call(Name("torch._utils", "_rebuild_sparse_tensor"), None, ()),
    "torch._utils._rebuild_qtensor": Call(Name("torch._utils", "_rebuild_qtensor"), 0),
    "torch._utils._rebuild_meta_tensor_no_storage": Call(Name("torch._utils", "_rebuild_meta_tensor_no_storage"), 0),
    "torch._utils._rebuild_wrapper_subclass": Call(Name("torch._utils", "_rebuild_wrapper_subclass"), 0),
    "torch._utils._rebuild_device_tensor_from_numpy": Call(Name("torch._utils", "_rebuild_device_tensor_from_numpy")),
    "torch._utils._rebuild_parameter_with_state": Call(Name("torch._utils", "_rebuild_parameter_with_state"), 0),
    "torch._tensor._rebuild_from_type_v2": Call(Name("torch._tensor", "_rebuild_from_type_v2"), 0),
    "torch.FloatTensor": Call(Name("torch", "FloatTensor"), 10**12),
    "torch.nn.modules.container.os.mkdir": Call(Name("torch.nn.modules.container", "os.mkdir"), "ran"),
    "torch.nn.modules.module.torch": Call(Name("torch.nn.modules.module", "torch"), "x"),
    "torch.nn.modules.module.Module.__init__.__globals__": Call(
        Name("torch.nn.modules.module", "Module.__init__.__globals__"), "x"
    ),
    "torch.nn.modules.module.register_module_forward_hook": Call(
        Name("torch.nn.modules.module", "register_module_forward_hook"), Name("os", "mkdir")
    ),
    "ultralytics.nn.tasks.torch_safe_load": Call(Name("ultralytics.nn.tasks", "torch_safe_load"), "x.pt"),
    "ultralytics.nn.tasks.load_checkpoint": Call(Name("ultralytics.nn.tasks", "load_checkpoint"), "x.pt"),
    "ultralytics.nn.tasks.parse_model": Call(Name("ultralytics.nn.tasks", "parse_model"), {"activation": MKDIR}, 3),
    "ultralytics.nn.modules.block.os": Call(Name("ultralytics.nn.modules.block", "os"), "x"),
    "ultralytics.utils.downloads.safe_download": Call(Name("ultralytics.utils.downloads", "safe_download"), "http://x"),
    "ultralytics.utils.checks.check_requirements": Call(Name("ultralytics.utils.checks", "check_requirements"), "x"),
    "ultralytics.YOLO": Call(Name("ultralytics", "YOLO"), "x.pt"),
    "numpy.load": Call(Name("numpy", "load"), "x"),
    "numpy.testing._private.utils.runstring": Call(Name("numpy.testing._private.utils", "runstring"), MKDIR, {}),
    "collections.Counter": Call(Name("collections", "Counter"), [1]),
    "copyreg._reconstructor": Call(
        Name("copyreg", "_reconstructor"), Name("os", "x"), Name("builtins", "object"), None
    ),
}

# Allowed names in ways that detectors do not use them

EVIL_YAML = {
    "nc": 1,
    "activation": MKDIR,
    "backbone": [[-1, 1, "Conv", [8, 3, 2]]],
    "head": [[[0], 1, "Detect", ["nc"]]],
}
MISUSES = {
    "network called": Call(Name("ultralytics.nn.tasks", "DetectionModel"), EVIL_YAML),
    "network made of a file": Call(Name("ultralytics.nn.tasks", "DetectionModel"), "/etc/passwd"),
    "evil description": layer(MODEL, yaml=EVIL_YAML, names={0: "a"}, _modules={}),
    "another class": layer(MODEL, __class__=Name(MODEL.rpartition(".")[0], "DetectionModel"), yaml=EVIL_YAML),
    "methods": layer(MODEL, __setstate__=1, forward=2, __dict__={"yaml": EVIL_YAML}, __getattr__=Name("typing", "Any")),
    "class with a state": Call(Name("ultralytics.nn.tasks", "DetectionModel"), state={"a": 1}),
    "hooks": layer(MODEL, _forward_hooks={0: Name("builtins", "getattr")}),
    "state that is a list": Call(Name("ultralytics.nn.tasks", "DetectionModel"), state=[1], new=True),
    "state for slots": Call(Name("ultralytics.nn.tasks", "DetectionModel"), state=({}, {"wanted": "x"}), new=True),
    "getattr": Call(Name("builtins", "getattr"), Name("ultralytics.nn.tasks", "DetectionModel"), "__init__"),
    "dict with attributes": Call(Name("collections", "OrderedDict"), state={"keys": 1, "__class__": 2}),
    "class with attributes": Raw(b"ccollections\nOrderedDict\nN}X\x04\x00\x00\x00keysK\x01s\x86b"),
    "class as a dict": Raw(b"ccollections\nOrderedDict\nX\x04\x00\x00\x00keysK\x01s"),
    "default dict of a class": Call(Name("collections", "defaultdict"), Name("builtins", "getattr")),
    "parameter of an object": Call(Name("torch._utils", "_rebuild_parameter"), layer(MODEL), True, {}),
    "tensor of an object": tensor(layer(MODEL, dtype=1, _untyped_storage=2)),  # type: ignore[arg-type]
    "tensor of a dict": tensor(Call(Name("collections", "OrderedDict"), state={"dtype": 1})),  # type: ignore[arg-type]
    "tensor of two types": tensor(Stored("0", 4), 0, (4,), (1,), {"backend": "x"}),
    "modules that hold themselves": Raw(
        b"cultralytics.nn.tasks\nDetectionModel\n)\x81q\x01}(X\x08\x00\x00\x00_modules}X\x05\x00\x00\x00modelh\x01su"
        b"X\x04\x00\x00\x00yaml}sb"
    ),
}


def names_in(what: Any) -> set[str]:
    """All names that a gadget wants; files are refused by the first one that is not allowed."""
    if isinstance(what, Name):
        return {f"{what.module}.{what.name}".replace("__builtin__", "builtins")}
    parts = (what.function, *what.arguments) if isinstance(what, Call) else what if isinstance(what, list) else ()
    return set().union(*(names_in(part) for part in parts))
