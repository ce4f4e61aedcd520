"""A real bundle small enough to check by hand: its gradient step is written out in ONNX ops and, below, in numpy.

The network: 4×4 patches → linear (a stride-4 convolution) → normalisation by the support set's statistics, which the
gradient takes as constants → ReLU → mean over patches → linear head.
"""

import json
from pathlib import Path

import numpy as np
import onnx
import safetensors.numpy
from onnx import TensorProto, numpy_helper
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from PIL import Image

from gems_edge.device import Learner
from gems_edge.device.bundle import read_bundle
from gems_edge.device.selftest import make_selftest
from gems_edge.files import sha256_bytes

SIZE, PATCH, FEATURES, RATE, EPSILON = 16, 4, 8, 0.5, 1e-5
CONV, MEAN, VAR = "backbone.conv.weight", "backbone.norm.mean", "backbone.norm.var"
CARRIED = "rule.rate"
HEAD = ("head.weight", "head.bias")
MEMORY = {
    "image_bytes": 1024,
    "predict": {"nodes": 40, "images": [1, 16], "arena_bytes": [5_000, 80_000]},
    "adapt": {"nodes": 400, "images": [3], "arena_bytes": [300_000]},
}
SPLIT_MEMORY = {"feature_bytes": 4 * FEATURES * (SIZE // PATCH) ** 2, "trunk": MEMORY["predict"]}
PARTS = {"maml": (CONV, *HEAD), "anil": HEAD, "boil": (CONV,)}


def write_bundle(
    path: Path, *, channels=1, ways=3, head="shared", method="maml", normalization="support", steps=5, seed=0,
    decay=None, split=False,
) -> Path:  # fmt: skip
    """`decay`: the rate is carried from step to step, times `decay` each. `split`: all below the mean is a trunk, for
    which nothing of it may adapt or need the whole support set (method anil, normalization group)."""
    path.mkdir()
    generator = np.random.default_rng(seed)
    rows = 1 if head == "shared" else ways
    weights = {
        CONV: generator.normal(0, 0.5, (FEATURES, channels, PATCH, PATCH)),
        "head.weight": generator.normal(0, 0.3, (rows, FEATURES)),
        "head.bias": np.zeros(rows),
        MEAN: np.zeros(FEATURES),
        VAR: np.ones(FEATURES),
    }
    if decay is not None:
        weights[CARRIED] = np.full(1, RATE)
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    adapted = PARTS[method]
    statistics = (MEAN, VAR) if normalization == "support" else ()
    if not statistics:
        del weights[MEAN], weights[VAR]
    start = dict(weights)
    for name in HEAD:
        start[name] = np.repeat(weights[name], ways, axis=0) if head == "shared" else weights[name]
    files = {
        "predict.onnx": predict_model(start, statistics).SerializeToString(),
        "adapt.onnx": adapt_model(start, adapted, statistics, decay, split).SerializeToString(),
        "weights.safetensors": safetensors.numpy.save(weights),
    }
    cost = {
        "macs": SIZE * SIZE * channels * FEATURES,
        "bytes": 40_000,
        "peak_bytes": 9_000,
        "constant_bytes": 1_000,
        "work": {"conv": SIZE * SIZE * channels * FEATURES, "ops": 4},
        "ops": [],
    }
    manifest = {
        "format": "gems-edge-bundle", "format_version": 1, "name": path.stem, "ways": ways, "shots": 1, "head": head,
        "image": {"size": SIZE, "channels": channels, "inverted": False}, "normalization": normalization,
        "backbone": {"name": "handmade", "widths": [FEATURES], "feature_size": FEATURES},
        "rule": {"name": method, "inner_lr": RATE, "steps": steps},
        "tensors": {
            "adapted": list(adapted),
            "constant": [name for name in (CONV, *HEAD) if name not in adapted],
            "statistics": list(statistics),
        },
        "cost": {
            "predict": cost | {"dims": {"images": 1, "classes": ways}},
            "adapt_step": cost | {"dims": {"images": ways, "classes": ways}},
            "adapt_peak": {"fixed_bytes": 10_000, "bytes_per_image": 20_000},
            "memory": MEMORY,
        },
        "macs": {"before": 4 * cost["macs"], "after": cost["macs"]}, "params": {"before": 900, "after": 200},
    }  # fmt: skip
    if decay is not None:
        manifest["tensors"]["carried"] = [CARRIED]
    if split:
        files["trunk.onnx"] = trunk_model(start).SerializeToString()
        manifest["format_version"] = 3
        manifest["trunk"] = {"cut": "head", "features": [FEATURES, SIZE // PATCH, SIZE // PATCH]}
        manifest["cost"] |= {"trunk": manifest["cost"]["predict"], "memory": MEMORY | SPLIT_MEMORY}
    write_files(path, files, manifest)
    return path


def write_tested(path: Path, **options) -> Path:
    """As write_bundle, with a self-test as an export writes it."""
    replace_file(write_bundle(path, **options), "selftest.safetensors", make_selftest(read_bundle(path)))
    return path


def write_files(path: Path, files: dict[str, bytes], manifest: dict) -> None:
    """Write `files`, and the manifest with their sizes and hashes."""
    for name, content in files.items():
        (path / name).write_bytes(content)
    listed = manifest.get("files", {}) | {n: {"bytes": len(c), "sha256": sha256_bytes(c)} for n, c in files.items()}
    write_manifest(path, json.dumps(manifest | {"files": listed}))


def write_manifest(path: Path, text: str) -> None:
    """`text` as the manifest, with the checksum of that."""
    (path / "manifest.json").write_text(text)
    (path / "manifest.sha256").write_text(f"{sha256_bytes(text.encode())}  manifest.json\n")


def edit_manifest(path: Path, change) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    write_manifest(path, json.dumps(manifest))


def replace_file(path: Path, name: str, content: bytes) -> None:
    """Put another file into the bundle and make the manifest agree: what a hash cannot notice."""
    write_files(path, {name: content}, json.loads((path / "manifest.json").read_text()))


def predict_model(weights: dict, statistics: tuple[str, ...]) -> onnx.ModelProto:
    channels = weights[CONV].shape[1]
    nodes = [make_node("Conv", ["images", CONV], ["y"], strides=[PATCH, PATCH])]
    constants = {"flat": np.array([0, -1])}
    if statistics:
        constants |= {"epsilon": np.float32(EPSILON), "one": np.float32(1), "map": np.array([1, FEATURES, 1, 1])}
        nodes += [
            make_node("Add", [VAR, "epsilon"], ["v"]),
            make_node("Sqrt", ["v"], ["sd"]),
            make_node("Div", ["one", "sd"], ["scale"]),
            make_node("Mul", [MEAN, "scale"], ["ms"]),
            make_node("Neg", ["ms"], ["shift"]),
            make_node("Reshape", ["scale", "map"], ["scale4"]),
            make_node("Reshape", ["shift", "map"], ["shift4"]),
            make_node("Mul", ["y", "scale4"], ["n"]),
            make_node("Add", ["n", "shift4"], ["z"]),
        ]
    nodes += [
        make_node("Relu", ["z" if statistics else "y"], ["r"]),
        make_node("GlobalAveragePool", ["r"], ["p"]),
        make_node("Reshape", ["p", "flat"], ["f"]),
        *linear("f"),
    ]
    inputs = [
        _value("images", ["images", channels, SIZE, SIZE]),
        _value(HEAD[0], ["classes", FEATURES]),
        _value(HEAD[1], ["classes"]),
    ]
    initial = {name: weights[name] for name in (CONV, *HEAD, *statistics)} | constants
    return _model("predict", nodes, inputs, [_value("logits", ["images", "classes"])], initial)


def linear(features: str) -> list[onnx.NodeProto]:
    """The head, from features to "logits"."""
    return [
        make_node("Transpose", [HEAD[0]], ["columns"], perm=[1, 0]),
        make_node("MatMul", [features, "columns"], ["products"]),
        make_node("Add", ["products", HEAD[1]], ["logits"]),
    ]


def trunk_model(weights: dict) -> onnx.ModelProto:
    """images → maps behind the ReLU."""
    nodes = [
        make_node("Conv", ["images", CONV], ["y"], strides=[PATCH, PATCH]),
        make_node("Relu", ["y"], ["features"]),
    ]
    image = _value("images", ["images", weights[CONV].shape[1], SIZE, SIZE])
    maps = _value("features", ["images", FEATURES, SIZE // PATCH, SIZE // PATCH])
    return _model("trunk", nodes, [image], [maps], {CONV: weights[CONV]})


def adapt_model(
    weights: dict, adapted: tuple[str, ...], statistics: tuple[str, ...], decay=None, split=False
) -> onnx.ModelProto:
    channels, side = weights[CONV].shape[1], SIZE // PATCH
    constants = {
        "cut": np.array([-1, channels, side, PATCH, side, PATCH]),
        "rows": np.array([-1, channels * PATCH * PATCH]),
        "matrix": np.array([FEATURES, -1]),
        "kernel": np.array([FEATURES, channels, PATCH, PATCH]),
        "maps": np.array([-1, side * side, FEATURES]),
        "axis0": np.array([0]),
        "axis1": np.array([1]),
        "places": np.array([2, 3]),
        "epsilon": np.float32(EPSILON),
        "rate": np.float32(RATE),
        "zero": np.float32(0),
        "patches": np.float32(side * side),
    }
    n, fed = make_node, "features" if split else "images"
    nodes = [
        n("Reshape", ["images", "cut"], ["cut6"]),
        n("Transpose", ["cut6"], ["cut6t"], perm=[0, 2, 4, 1, 3, 5]),
        n("Reshape", ["cut6t", "rows"], ["x"]),
        n("Reshape", [CONV, "matrix"], ["w"]),
        n("Transpose", ["w"], ["wt"], perm=[1, 0]),
        n("MatMul", ["x", "wt"], ["y"]),
    ]
    if statistics:
        nodes += [
            n("ReduceMean", ["y", "axis0"], [MEAN], keepdims=0),
            n("Sub", ["y", MEAN], ["c"]),
            n("Mul", ["c", "c"], ["cc"]),
            n("ReduceMean", ["cc", "axis0"], [VAR], keepdims=0),
            n("Add", [VAR, "epsilon"], ["v"]),
            n("Sqrt", ["v"], ["sd"]),
            n("Div", ["c", "sd"], ["z"]),
        ]
    z = "z" if statistics else "y"
    nodes += [
        n("Relu", [z], ["r"]),
        n("Reshape", ["r", "maps"], ["r3"]),
        n("ReduceMean", ["r3", "axis1"], ["f"], keepdims=0),
    ]
    if split:
        nodes = [n("ReduceMean", [fed, "places"], ["f"], keepdims=0)]
    nodes += [
        *linear("f"),
        n("LogSoftmax", ["logits"], ["log"], axis=1),
        n("Mul", ["targets", "log"], ["tl"]),
        n("ReduceSum", ["tl", "axis1"], ["per"], keepdims=0),
        n("Neg", ["per"], ["ce"]),
        n("ReduceMean", ["ce"], ["loss"], keepdims=0),
        n("Exp", ["log"], ["q"]),
        n("Sub", ["q", "targets"], ["e"]),
        n("Shape", [fed], ["count1"], end=1),
        n("Cast", ["count1"], ["count"], to=TensorProto.FLOAT),
        n("Div", ["e", "count"], ["dl"]),
    ]
    if HEAD[0] in adapted:
        nodes += [n("Transpose", ["dl"], ["dlt"], perm=[1, 0]), n("MatMul", ["dlt", "f"], ["d.head.weight"])]
        nodes += [n("ReduceSum", ["dl", "axis0"], ["d.head.bias"], keepdims=0)]
    if CONV in adapted:
        nodes += [
            n("MatMul", ["dl", HEAD[0]], ["df"]),
            n("Div", ["df", "patches"], ["dfp"]),
            n("Unsqueeze", ["dfp", "axis1"], ["df3"]),
            n("Greater", ["r3", "zero"], ["on"]),
            n("Where", ["on", "df3", "zero"], ["dz3"]),
            n("Reshape", ["dz3", "matrixT"], ["dz"]),
            *([n("Div", ["dz", "sd"], ["dy"])] if statistics else [n("Identity", ["dz"], ["dy"])]),
            n("Transpose", ["dy"], ["dyt"], perm=[1, 0]),
            n("MatMul", ["dyt", "x"], ["dw"]),
            n("Reshape", ["dw", "kernel"], [f"d.{CONV}"]),
        ]
        constants["matrixT"] = np.array([-1, FEATURES])
    rate = "rate" if decay is None else CARRIED
    for name in adapted:
        nodes += [n("Mul", [rate, f"d.{name}"], [f"s.{name}"]), n("Sub", [name, f"s.{name}"], [f"updated.{name}"])]
    shapes = {HEAD[0]: ["classes", FEATURES], HEAD[1]: ["classes"], CONV: list(weights[CONV].shape)}
    shape = ["images", FEATURES, side, side] if split else ["images", channels, SIZE, SIZE]
    inputs = [_value(fed, shape), _value("targets", ["images", "classes"])]
    inputs += [_value(name, shapes[name]) for name in dict.fromkeys((*adapted, *HEAD))]
    outputs = [_value("loss", []), *(_value(f"updated.{name}", shapes[name]) for name in adapted)]
    outputs += [_value(name, [FEATURES]) for name in statistics]
    if decay is not None:  # an input with a default, which nobody needs to feed
        nodes += [n("Mul", [CARRIED, "decay"], [f"next.{CARRIED}"])]
        inputs += [_value(CARRIED, [1]), _value("decay", [])]
        outputs += [_value(f"next.{CARRIED}", [1])]
        constants["decay"] = np.float32(decay)
    initial = {name: weights[name] for name in (CONV, *HEAD) if name not in adapted} | constants
    return _model("adapt", nodes, inputs, outputs, initial)


def _value(name, shape):
    return make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _model(name, nodes, inputs, outputs, initial) -> onnx.ModelProto:
    used = {name for node in nodes for name in node.input}
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in initial.items() if name in used]
    model = make_model(
        make_graph(nodes, name, inputs, outputs, tensors), opset_imports=[make_opsetid("", 20)], ir_version=10
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def reference(
    weights: dict, images: np.ndarray, index: np.ndarray, steps: int, adapted, decay=1.0
) -> tuple[dict, list[float]]:
    """The same in float64 numpy. images [N, S, S, C] uint8 → weights and statistics after, losses before each step."""
    weights = {name: value.astype(np.float64) for name, value in weights.items()}
    classes = weights["head.bias"].shape[0]
    targets, losses = np.eye(classes)[index], []
    for step in range(steps):
        f, z, x, sd, (mean, var) = _features(weights, images)
        logits = f @ weights["head.weight"].T + weights["head.bias"]
        log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        losses.append(-(targets * log).sum(1).mean())
        dl = (np.exp(log) - targets) / len(images)
        df = dl @ weights["head.weight"]
        dz = (z > 0) * df[:, None, :] / z.shape[1]
        gradients = {"head.weight": dl.T @ f, "head.bias": dl.sum(0)}
        gradients[CONV] = np.einsum("ntf,ntk->fk", dz / sd, x).reshape(weights[CONV].shape)
        weights |= {name: weights[name] - RATE * decay**step * gradients[name] for name in adapted}
    mean, var = _features(weights, images)[4]
    return weights | {MEAN: mean, VAR: var}, losses


def reference_probabilities(weights: dict, images: np.ndarray) -> np.ndarray:
    f = reference_features(weights, images)
    exponentials = np.exp(f @ weights["head.weight"].T + weights["head.bias"])
    return exponentials / exponentials.sum(1, keepdims=True)


def reference_features(weights: dict, images: np.ndarray) -> np.ndarray:
    """What the head reads of images that are not the support set, [N, FEATURES]."""
    y = _patches(images) @ weights[CONV].reshape(FEATURES, -1).T
    return np.maximum((y - weights[MEAN]) / np.sqrt(weights[VAR] + EPSILON), 0).mean(1)


def _features(weights, images):
    x = _patches(images)
    y = x @ weights[CONV].reshape(FEATURES, -1).T
    mean, var = y.mean((0, 1)), y.var((0, 1))
    sd = np.sqrt(var + EPSILON)
    z = (y - mean) / sd
    return np.maximum(z, 0).mean(1), z, x, sd, (mean, var)


def _patches(images):
    side, channels = SIZE // PATCH, images.shape[3]
    x = images.transpose(0, 3, 1, 2) / 255
    return (
        x.reshape(-1, channels, side, PATCH, side, PATCH).transpose(0, 2, 4, 1, 3, 5).reshape(len(x), side * side, -1)
    )


def pictures(classes: int, shots: int, *, channels=1, seed=0) -> tuple[np.ndarray, list[str]]:
    """Textures that differ by class: uint8 [classes·shots, S, S, C] and labels "kind 0" …"""
    generator = np.random.default_rng(seed)
    patterns = np.random.default_rng(99).integers(0, 256, (classes, PATCH, PATCH, channels))
    images, labels = [], []
    for label in range(classes):
        for _ in range(shots):
            clean = np.tile(patterns[label], (SIZE // PATCH, SIZE // PATCH, 1))
            images.append((clean + generator.normal(0, 12, clean.shape)).clip(0, 255).astype(np.uint8))
            labels.append(f"kind {label}")
    return np.stack(images), labels


def write_pictures(directory: Path, images: np.ndarray, labels: list[str]) -> Path:
    """DIR/CLASS/NUMBER.png"""
    for number, (image, label) in enumerate(zip(images, labels)):
        (directory / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze()).save(directory / label / f"{number:03}.png")
    return directory


def taught(path, classes, shots=2, **options):
    learner = Learner.load(write_bundle(path, **options), threads=1)
    images, labels = pictures(classes, shots, channels=options.get("channels", 1))
    return learner, learner.adapt(images, labels), images, labels
