"""A torch module of the layer set becomes a network of ours: traced once, checked, and written in our layers.

Adopting keeps the names of all tensors. BatchNorm2d and GroupNorm become `Normalization`, Conv2d our `Convolution`,
dropout disappears. Where a normalisation reads nothing but a convolution, the two run as one; a max-pool behind them,
or behind their ReLU, runs with them, too.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from gems_edge.errors import UserError
from gems_edge.models import layer_set
from gems_edge.models.code_places import line_in, line_of
from gems_edge.models.convolution import Convolution
from gems_edge.models.layer_set import ADVICE, Refusal
from gems_edge.models.normalization import Normalization
from gems_edge.models.tensor_names import BODY


def adopt(network: nn.Module, name: str) -> fx.GraphModule:
    """`network`, from images [N, C, H, W] to features [N, F], in our layers: (images, NormPass) → features.

    Tensors keep their names, and their values. `name` is what messages call it. UserError for what is outside the layer
    set, by its name and place.
    """
    return _Adoption(network, name).adopted()


class _Tracer(fx.Tracer):
    record_stack_traces = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if type(m).__name__ in layer_set.DROPPED or super().is_leaf_module(m, module_qualified_name):
            return True
        return any(isinstance(m, kind) and type(m).forward is kind.forward for kind in layer_set.WITH_TENSORS)


class _Adoption:
    def __init__(self, network: nn.Module, name: str):
        self.network, self.name = network, name
        self.graph = fx.Graph()
        self.written: dict[fx.Node, Any] = {}  # node of the trace → what it became
        self.root = nn.Module()
        self.statistics: fx.Node | None = None

    def adopted(self) -> fx.GraphModule:
        for node in self._trace().nodes:
            try:
                self._write(node)
            except Refusal as refusal:
                raise self._refused(node, str(refusal)) from None
        network = fx.GraphModule(self.root, self.graph, "Backbone")
        network.graph.eliminate_dead_code()
        network.delete_all_unused_submodules()
        _fuse(network.graph, network)
        network.graph.lint()
        network.recompile()
        return network

    def _trace(self) -> fx.Graph:
        for path, module in self.network.named_modules():
            if isinstance(module, layer_set.WRAPPERS):
                place = f"the layer {path}" if path else "the network"
                raise UserError(f"{self.name}: {place} is wrapped in {type(module).__name__}; use the module inside")
        try:
            graph = _Tracer().trace(self.network)
        except Exception as error:
            if isinstance(error, fx.proxy.TraceError) or _wants_number_of_tensor(error):
                raise UserError(
                    f"{self.name}: {line_of(error)} decides by the data ({error}), which a graph for a board cannot; "
                    "write the network without if, for and numbers that depend on tensors"
                ) from None
            raise UserError(
                f"{self.name}: {line_of(error)} cannot be traced ({type(error).__name__}: {error}); {ADVICE}"
            ) from None
        self._check_calls(graph)
        return graph

    def _check_calls(self, graph: fx.Graph) -> None:
        """A layer that runs twice would have one set of statistics for two maps; nor may two layers share a tensor."""
        places: dict[int, str] = {}
        for node in graph.nodes:
            if node.op != "call_module":
                continue
            path, layer = str(node.target), self.network.get_submodule(str(node.target))
            shared = next((tensor for tensor in layer.parameters() if id(tensor) in places), None)
            if shared is not None:
                other = places[id(shared)]
                raise UserError(
                    f"{self.name}: the layer {path} "
                    + (f"runs twice{_again(node)}" if path == other else f"shares its tensors with {other}")
                    + "; a network has every layer once: make a layer for each place"
                )
            places |= {id(tensor): path for tensor in layer.parameters()}

    def _write(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self._write_input(node)
        elif node.op == "output":
            self._write_output(node)
        elif node.op == "call_module":
            self.written[node] = self._module(node, self.network.get_submodule(str(node.target)))
        elif node.op == "call_method":
            self.written[node] = self._method(node)
        elif node.op == "call_function":
            self.written[node] = self._function(node)
        else:
            raise Refusal(f"the tensor {node.target} is used without a layer; {ADVICE}")

    def _write_input(self, node: fx.Node) -> None:
        if self.written:
            raise UserError(f"{self.name}: forward takes {node.target} beside the images; a network takes images alone")
        self.written[node] = self.graph.placeholder("images")
        self.statistics = self.graph.placeholder("statistics")

    def _write_output(self, node: fx.Node) -> None:
        features = node.args[0]
        if not isinstance(features, fx.Node):
            raise UserError(
                f"{self.name}: forward returns {type(features).__name__}, not features [N, F]; return one tensor, the "
                "input of the classifier"
            )
        self.graph.output(self.written[features])

    def _arguments(self, node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return fx.map_arg((node.args, dict(node.kwargs)), lambda argument: self.written[argument])

    def _module(self, node: fx.Node, layer: nn.Module) -> fx.Node:
        (input, *_), _ = self._arguments(node)
        path = str(node.target)
        layer_set.check_tensors(layer)
        if isinstance(layer, nn.Conv2d):
            return self._convolution(path, layer, input)
        if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm):
            return self._normalization(path, layer, input)
        if isinstance(layer, nn.Linear):
            _add(self.root, path, layer)
            return self.graph.call_module(path, (input,))
        if type(layer).__name__ in layer_set.DROPPED:
            return self._checked(layer_set.same, input)
        entry = layer_set.MODULES.get(type(layer))
        if entry is None:
            raise Refusal(layer_set.advice(type(layer).__name__))
        write, settings = entry
        return self._checked(write, input, **{name: getattr(layer, name) for name in settings})

    def _convolution(self, path: str, layer: nn.Conv2d, input: fx.Node) -> fx.Node:
        padding, before = layer_set.plain_convolution(layer)
        _add(self.root, path, _convolution_like(layer, padding))
        return self.graph.call_module(path, (layer_set.padded(self.graph, input, before),))

    def _normalization(self, path: str, layer: nn.BatchNorm2d | nn.GroupNorm, input: fx.Node) -> fx.Node:
        layer_set.checked_norm(layer)
        _add(self.root, path, _normalization_like(layer, f"{BODY}{path}"))
        return self.graph.call_module(path, (input, self.statistics))

    def _method(self, node: fx.Node) -> Any:
        arguments, named = self._arguments(node)
        if node.target == "size":
            return _Size()
        write = layer_set.METHODS.get(str(node.target))
        if write is None:
            raise Refusal(layer_set.advice(str(node.target)))
        return self._checked(write, *arguments, **named)

    def _function(self, node: fx.Node) -> Any:
        arguments, named = self._arguments(node)
        if node.target is getattr and arguments[1] == "shape":
            return _Size()
        if any(isinstance(value, _Size) for value in arguments) and not any(isinstance(v, fx.Node) for v in arguments):
            return _Size()
        write = layer_set.FUNCTIONS.get(node.target)  # type: ignore[arg-type]  # a callable, of this op
        if write is None:
            raise Refusal(layer_set.advice(getattr(node.target, "__name__", "")))
        return self._checked(write, *arguments, **named)

    def _checked(self, write: layer_set.Writer, *arguments: Any, **named: Any) -> fx.Node:
        named.pop("training", None)  # of dropout
        if write is not layer_set.view and any(isinstance(v, _Size) for v in (*arguments, *named.values())):
            raise Refusal("it uses a tensor's size; use numbers, and AdaptiveAvgPool2d(1) for a pool of the whole map")
        try:
            return write(self.graph, *arguments, **named)
        except TypeError as error:
            raise Refusal(f"its arguments ({error}); {ADVICE}") from None

    def _refused(self, node: fx.Node, why: str) -> UserError:
        if node.op == "call_module":
            layer = self.network.get_submodule(str(node.target))
            what, place = type(layer).__name__, f"the layer {node.target}"
        else:
            target = node.target
            what = target if isinstance(target, str) else getattr(target, "__name__", str(target))
            place = _place(node)
        return UserError(f"{self.name}: {what} ({place}) is outside the layer set: {why}")


class _Size:
    """A size of a tensor, which may only stand in front of a flattening view."""


def _again(node: fx.Node) -> str:
    """Where a layer runs once more, as far as the trace knows."""
    line = line_in(node.stack_trace or "")
    return f" (again in {line})" if line else ""


def _place(node: fx.Node) -> str:
    """Where a node of a trace was written: the file and line, as far as the trace knows."""
    path = next(reversed((node.meta.get("nn_module_stack") or {"": ("", None)}).values()))[0]
    layer = f"the layer {path}" if path else ""
    return ", ".join(filter(None, (layer, line_in(node.stack_trace or "")))) or "the network's forward"


def _add(root: nn.Module, path: str, layer: nn.Module) -> None:
    """Put a layer at its path, in modules that hold nothing else."""
    *parents, name = path.split(".")
    for parent in parents:
        if not hasattr(root, parent):
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    root.add_module(name, layer)


def _convolution_like(layer: nn.Conv2d, padding: tuple[int, int]) -> Convolution:
    with torch.device("meta"):
        like = Convolution(
            layer.in_channels, layer.out_channels, layer_set.pair(layer.kernel_size), layer_set.pair(layer.stride),
            padding, groups=layer.groups, bias=layer.bias is not None,
        )  # fmt: skip
    like.weight, like.bias = layer.weight, layer.bias
    return like


def _normalization_like(layer: nn.BatchNorm2d | nn.GroupNorm, name: str) -> Normalization:
    if isinstance(layer, nn.GroupNorm):
        like = Normalization(layer.num_channels, name, layer.num_groups, layer.eps)
    else:
        like = Normalization(layer.num_features, name, epsilon=layer.eps)
        if layer.running_mean is not None and layer.running_var is not None:
            like.running_mean, like.running_var = layer.running_mean, layer.running_var
    like.weight, like.bias = layer.weight, layer.bias
    return like


# What runs as one


def _wants_number_of_tensor(error: Exception) -> bool:
    """Whether Python asked for a number (float, int, range) where there is a traced tensor."""
    return isinstance(error, TypeError) and "Proxy" in str(error)


def _fuse(graph: fx.Graph, root: nn.Module) -> None:
    """A convolution and its normalisation as one call, with the max-pool behind them (or behind their ReLU) inside."""
    for node in list(graph.nodes):
        if node.op == "call_module" and isinstance(root.get_submodule(node.target), Normalization):
            if _take_convolution(graph, root, node):
                _take_pool(graph, node)


def _take_convolution(graph: fx.Graph, root: nn.Module, norm: fx.Node) -> bool:
    conv = norm.args[0]
    if not isinstance(conv, fx.Node) or conv.op != "call_module" or len(conv.users) != 1:
        return False
    path = str(conv.target)
    if not isinstance(root.get_submodule(path), Convolution):
        return False
    with graph.inserting_before(norm):
        layer = graph.create_node("get_attr", path)
    norm.args = (conv.args[0], norm.args[1], layer)
    graph.erase_node(conv)
    return True


def _take_pool(graph: fx.Graph, norm: fx.Node) -> None:
    """A max-pool behind the normalisation, at once or behind a ReLU, which keeps the order of values, too."""
    first = _only_user(norm)
    second = None if first is None else _only_user(first)
    pool = first if _calls(first, F.max_pool2d) else second if _calls(first, F.relu) else None
    if pool is None or not _calls(pool, F.max_pool2d):
        return
    norm.args = (*norm.args, pool.args[1:4])
    pool.replace_all_uses_with(pool.args[0])  # type: ignore[arg-type]  # the pool's input is a node
    graph.erase_node(pool)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _calls(node: fx.Node | None, function: Any) -> bool:
    return node is not None and node.op == "call_function" and node.target is function
