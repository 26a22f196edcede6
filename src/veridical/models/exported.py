"""Networks as `torch.export.save` writes them: `file.pt2`.

A program is a list of operators on named tensors. Here it becomes a module again: the tensors lie where the
original network had them, and each operator is called, as the function of torch that it stands for, inside
the module that it came from. Names, hooks, weights and the operations that are recorded are therefore those
of the original network.
"""

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from veridical.checks import find_logits
from veridical.models.aten import Function, function_of
from veridical.models.preprocessing import Preprocessing, preprocessing_of

NOTES = "veridical.json"
"""The file inside the archive that may say more: {"preprocessing": {...}, "classes": [...]}."""

EXPORT_AGAIN = (
    "torch.export.export(model.eval(), (images,), dynamic_shapes=({0: torch.export.Dim.AUTO},)) with two "
    "images or more"
)


@dataclass(frozen=True)
class _Value:
    """A value that the program computes, or its input, by name."""

    name: str


@dataclass(frozen=True)
class _Stored:
    """A tensor of the network, by its dotted name."""

    name: str


@dataclass(frozen=True)
class _Step:
    """One call: its result's name, where it takes place, what is called, and which values end with it."""

    name: str
    module: str
    function: Function
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    last: tuple[str, ...]


class _Place(nn.Module):
    """A module of the original network: holds its tensors, and calls its operations."""

    def forward(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the function returns."""
        return function(*args, **kwargs)


class ExportedNetwork(nn.Module):
    """An exported program as a module of named modules that calls functions of torch.

    Args:
        program: with one input, the images.

    Raises:
        ValueError: another number of inputs, an operator that no function stands for, or a program exported
            in training mode.
    """

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        """Read the program; nothing runs yet."""
        super().__init__()
        graph_module = program.module(check_guards=False)
        self._input = _only_input(graph_module.graph)
        self._place_tensors(graph_module)
        self._steps = tuple(self._read(graph_module))
        outputs = next(node for node in graph_module.graph.nodes if node.op == "output").args[0]
        self._outputs = [_reference(one) for one in outputs]
        self._structure = program.call_spec.out_spec
        self._logits: int | None = None

    def forward(self, images: Tensor) -> Any:
        """What the program returns; only its logits once `find_output` has found them."""
        values: dict[str, Any] = {self._input: images}
        for step in self._steps:
            where = self.get_submodule(step.module) if step.module else None
            args, kwargs = self._filled(step.args, values), self._filled(step.kwargs, values)
            call = step.function(*args, **kwargs) if where is None else where(step.function, args, kwargs)
            values[step.name] = call
            for name in step.last:
                del values[name]
        results = self._filled(self._outputs, values)
        if self._logits is not None:
            return results[self._logits]
        return pytree.tree_unflatten(results, self._structure)

    def find_output(self, images: Tensor) -> None:
        """From now on return the logits alone, where `find_logits` finds them in what the program returns."""
        with torch.no_grad():
            output = self(images)
        found = find_logits(output)
        leaves = pytree.tree_leaves(output)
        places = [place for place, leaf in enumerate(leaves) if leaf is found]
        if not places:
            raise ValueError(
                f"expected a program that returns logits, got {type(output).__name__}; export a module that "
                "returns them alone"
            )
        self._logits, self._structure = places[0], None

    def _place_tensors(self, graph_module: torch.fx.GraphModule) -> None:
        for name, parameter in graph_module.named_parameters(remove_duplicate=False):
            holder, own = self._holder(name)
            holder.register_parameter(own, parameter)
        buffers = dict(graph_module.named_buffers(remove_duplicate=False))
        kept = graph_module.state_dict(keep_vars=True)
        for name, buffer in buffers.items():
            holder, own = self._holder(name)
            holder.register_buffer(own, buffer, persistent=name in kept)
        for node in graph_module.graph.nodes:
            if node.op == "get_attr" and node.target not in buffers and node.target not in kept:
                holder, own = self._holder(node.target)
                holder.register_buffer(own, _constant(graph_module, node.target), persistent=False)

    def _holder(self, name: str) -> tuple[nn.Module, str]:
        """The module that a tensor belongs to, made where it is missing, and its name there."""
        path, _, own = name.rpartition(".")
        return self._module(path), own

    def _module(self, path: str) -> nn.Module:
        module: nn.Module = self
        for part in path.split(".") if path else ():
            if part not in module._modules:
                module.add_module(part, _Place())
            module = module.get_submodule(part)
        return module

    def _read(self, graph_module: torch.fx.GraphModule) -> Iterator[_Step]:
        nodes = list(graph_module.graph.nodes)
        last = _last_uses(nodes)
        for node in nodes:
            if node.op == "call_module" or (node.op == "call_function" and _trains(node)):
                raise ValueError(
                    f"expected a program exported in evaluation mode, got {node.target} at {node.name}; "
                    f"export it again: {EXPORT_AGAIN}"
                )
            if node.op == "call_function":
                args = torch.fx.node.map_arg(node.args, _reference)
                kwargs = torch.fx.node.map_arg(node.kwargs, _reference)
                path = _module_path(node)
                self._module(path)
                yield _Step(
                    node.name, path, function_of(node.target), tuple(args), dict(kwargs), last.get(node, ())
                )

    def _filled(self, item: Any, values: dict[str, Any]) -> Any:
        """Arguments with values and tensors in the place of their names."""
        if isinstance(item, _Value):
            return values[item.name]
        if isinstance(item, _Stored):
            holder, _, own = item.name.rpartition(".")
            return getattr(self.get_submodule(holder), own)
        if isinstance(item, list | tuple) and not isinstance(item, torch.Size):
            return type(item)(self._filled(part, values) for part in item)
        if isinstance(item, dict):
            return {key: self._filled(part, values) for key, part in item.items()}
        return item


def build_exported(path: Path) -> tuple[nn.Module, Preprocessing, tuple[str, ...] | None]:
    """The network in a file that `torch.export.save` wrote.

    The file may say how photographs are prepared and what the classes are called:
    `torch.export.save(program, file, extra_files={"veridical.json": json.dumps({"preprocessing": {...},
    "classes": [...]})})`. Without that, photographs are cut to the size that the program was exported with
    and normalized as for ImageNet.

    Args:
        path: of the file. One that holds pickled code is refused before it is read.

    Returns:
        Module, preprocessing, labels or None.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no exported program, or one that this package cannot run on batches of images.
    """
    if not path.is_file():
        raise FileNotFoundError(f"expected an exported program, got {path}; there is no such file")
    refuse_pickles(path)
    extra = {NOTES: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torch's own internals
        try:
            program = torch.export.load(path, extra_files=extra)
        except Exception as error:
            raise ValueError(
                f"expected a program of torch.export.save, got {path} ({type(error).__name__}: {error}); "
                "load a state dict with --weights beside the specification of its architecture"
            ) from error
        network = ExportedNetwork(program)
    shape = _input_shape(program)
    preprocessing, classes = _notes(extra[NOTES], shape, path.name)
    example = torch.rand(2, *_example_shape(shape, preprocessing), generator=torch.Generator().manual_seed(0))
    _check_batches(network, example, shape[0])
    network.find_output(example)
    return network, preprocessing, classes


def refuse_pickles(path: Path) -> None:
    """Refuse an archive that would run code when it is loaded.

    Raises:
        ValueError: it is no archive, or holds pickled objects other than tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                _refuse_pickle(name, archive.read(name) if name.endswith((".pt", "_config.json")) else b"")
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"expected a program of torch.export.save, got {path} ({error}); save it again"
        ) from error


def _refuse_pickle(name: str, content: bytes) -> None:
    pickled = name.endswith("_config.json") and any(
        entry.get("use_pickle") for entry in json.loads(content).get("config", {}).values()
    )
    if name.endswith(".pt") and content:
        try:
            torch.load(io.BytesIO(content), weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError):
            pickled = True
    if pickled:
        raise ValueError(
            f"expected a program of plain tensors, got pickled objects in {name}, which could run code; "
            "export a network whose weights are plain tensors"
        )


def _only_input(graph: torch.fx.Graph) -> str:
    names = [node.name for node in graph.nodes if node.op == "placeholder"]
    if len(names) != 1:
        raise ValueError(
            f"expected a program with one input, the images, got {len(names)} ({', '.join(names)}); "
            "export a module that takes images alone"
        )
    return str(names[0])


def _input_shape(program: torch.export.ExportedProgram) -> tuple[int | None, ...]:
    """The shape of the images; None where the program takes several sizes."""
    name = program.graph_signature.user_inputs[0]
    node = next(node for node in program.graph.nodes if node.name == name)
    shape = node.meta["val"].shape
    if len(shape) != 4:
        raise ValueError(
            f"expected a program that takes images (N, C, H, W), got an input of shape {tuple(shape)}; "
            "export the classifier itself"
        )
    return tuple(size if isinstance(size, int) else None for size in shape)


def _notes(
    text: str | bytes, shape: tuple[int | None, ...], file: str
) -> tuple[Preprocessing, tuple[str, ...] | None]:
    """What the file says about images and classes; else what follows from the input's shape."""
    try:
        notes = json.loads(text) if text else {}
    except ValueError as error:
        raise ValueError(f"expected JSON as {NOTES} in {file}, got {error}; save it again") from error
    labels = notes.get("classes") if isinstance(notes, dict) else None
    classes = tuple(map(str, labels)) if isinstance(labels, list) else None
    if isinstance(notes, dict) and "preprocessing" in notes:
        return preprocessing_of(notes["preprocessing"], f"{file}, {NOTES}"), classes
    return _default_preprocessing(shape), classes


def _default_preprocessing(shape: tuple[int | None, ...]) -> Preprocessing:
    channels = shape[1] or 3
    fixed = (shape[2], shape[3]) if shape[2] and shape[3] else None
    size: Any = (
        {} if fixed is None else {"resize": fixed if fixed[0] != fixed[1] else fixed[0], "crop": fixed}
    )
    if channels == 3:
        return Preprocessing(**size, source="size of the exported program; default (ImageNet)")
    zeros, ones = (0.0,) * channels, (1.0,) * channels
    source = "size of the exported program; values in [0, 1]"
    return Preprocessing(**size, mean=zeros, std=ones, channels=channels, source=source)


def _example_shape(shape: tuple[int | None, ...], preprocessing: Preprocessing) -> tuple[int, int, int]:
    height, width = preprocessing.input_size or (224, 224)
    return shape[1] or preprocessing.channels, shape[2] or height, shape[3] or width


def _check_batches(network: ExportedNetwork, images: Tensor, batch: int | None) -> None:
    """Check that a program exported with a fixed number of images serves any number."""
    if batch is None:
        return
    try:
        with torch.no_grad():
            whole = find_logits(network(images))
            parts = [find_logits(network(image[None])) for image in images]
            equal = torch.allclose(whole, torch.cat(parts), atol=1e-4, rtol=1e-3)  # type: ignore[arg-type]
    except (RuntimeError, ValueError, TypeError, IndexError):
        equal = False
    if not equal:
        raise ValueError(
            f"expected a program that takes any number of images, got one exported for {batch}; export it "
            f"again: {EXPORT_AGAIN}"
        )


def _module_path(node: torch.fx.Node) -> str:
    """The dotted name of the module that an operator came from; "" where the file does not say."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    if path.startswith("_empty_nn_module_stack"):
        return ""
    return path.split("@")[0].removeprefix("L['self'].").removeprefix("L__self___")


def _trains(node: torch.fx.Node) -> bool:
    """Whether an operator behaves as in training."""
    name = str(node.target)
    if name.startswith("aten.dropout") and len(node.args) > 2:
        return bool(node.args[2])
    if name.startswith("aten.batch_norm.") and len(node.args) > 5:
        return bool(node.args[5])
    return name.startswith(("aten._native_batch_norm_legit_functional", "aten.native_dropout"))


def _reference(node: torch.fx.Node) -> Any:
    if not isinstance(node, torch.fx.Node):
        return node
    return _Stored(str(node.target)) if node.op == "get_attr" else _Value(node.name)


def _last_uses(nodes: list[torch.fx.Node]) -> dict[torch.fx.Node, tuple[str, ...]]:
    """For each call the values that no later one reads."""
    seen: set[torch.fx.Node] = set()
    last: dict[torch.fx.Node, tuple[str, ...]] = {}
    for node in reversed(nodes):
        ends = [one for one in node.all_input_nodes if one not in seen and one.op != "get_attr"]
        seen.update(node.all_input_nodes)
        last[node] = tuple(one.name for one in ends)
    return last


def _constant(graph_module: torch.fx.GraphModule, name: str) -> Tensor:
    holder, _, own = name.rpartition(".")
    value = getattr(graph_module.get_submodule(holder), own)
    if not isinstance(value, Tensor):
        raise ValueError(
            f"expected a program of tensors, got {type(value).__name__} {name}; export without control flow"
        )
    return value.detach()
