"""The networks of the published latency table as ONNX graphs: shapes only, every weight is declared and none is stored.

`build(name)` gives the graph that benchncnn (or the row's own source) ran: caffe's ResNet-50 strides in the first 1×1
convolution, its GoogLeNet has 5×5 branches and LRN, MobileNetV3 is the 5.1 M one. MACs and weights are held against
those of ncnn's .param files in `COUNTED` by tests/predict/test_work.py. onnx is needed, torch is not.
"""

from collections.abc import Callable, Sequence

import onnx
from published_layers import Net, inverted

# Millions of MACs and of weights of ncnn's .param files.
COUNTED = {
    "SqueezeNet-1.1": (418.5, 1.235),
    "MobileNetV1-1.0": (568.7, 4.22),
    "MobileNetV2-1.0": (313.6, 3.49),
    "MobileNetV3-Large-1.0": (245.6, 5.13),
    "ShuffleNetV1-g3-1.0": (127.1, 1.80),
    "ShuffleNetV2-1.0": (144.9, 2.27),
    "MnasNet-1.0": (314.4, 4.36),
    "ProxylessNAS": (336.5, 4.07),
    "EfficientNet-B0": (385.8, 5.27),
    "RegNetY-400MF": (401.8, 4.33),
    "GoogLeNet": (1582.7, 7.00),
    "ResNet-18": (1826.9, 11.69),
    "CaffeNet(AlexNet)": (724.4, 60.97),
    "VGG-16": (15470, 138.36),
    "ResNet-50": (3858, 25.53),
}


def squeezenet(pixels: int, version: str = "1.1") -> onnx.ModelProto:
    net = Net(pixels)
    x = net.conv("images", *((64, 3) if version == "1.1" else (96, 7)), 2, pad=0, act="Relu")
    fires = [(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)]
    for index, (narrow, wide) in enumerate(fires):
        if index in ((0, 2, 4) if version == "1.1" else (0, 3, 7)):
            x = net.pool(x, 3, 2)
        x = net.conv(x, narrow, act="Relu")
        x = net.concat(net.conv(x, wide, act="Relu"), net.conv(x, wide, 3, act="Relu"))
    pad = 1 if version == "1.1" else 0  # caffe's file pads the last 1×1 convolution
    return net.model(net.mean(net.conv(x, 1000, pad=pad, act="Relu")))


def mobilenet_v1(pixels: int, width: float = 1.0) -> onnx.ModelProto:
    net = Net(pixels)
    scaled = [int(width * c) for c in (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)]
    x = net.conv("images", scaled[0], 3, 2, act="Relu")
    for index, outputs in enumerate(scaled[1:]):
        x = net.depthwise(x, 3, 2 if index in (1, 3, 5, 11) else 1, act="Relu")
        x = net.conv(x, outputs, act="Relu")
    return net.model(net.linear(net.mean(x), 1000))


def mobilenet_v2(pixels: int) -> onnx.ModelProto:
    net = Net(pixels)
    x = net.conv("images", 32, 3, 2, act="Clip")
    rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expand, outputs, repeats, stride in rows:
        for index in range(repeats):
            if expand == 1:  # caffe's file expands 32 to 32 channels
                x = net.conv(x, 32, act="Clip")
            x = inverted(net, x, expand * net.channels(x), outputs, 3, 1 if index else stride, "Clip")
    return net.model(net.linear(net.mean(net.conv(x, 1280, act="Clip")), 1000))


def _mobilenet_v3(pixels: int, rows: Sequence[tuple], last: int, features: int) -> onnx.ModelProto:
    """rows: kernel, expanded, outputs, squeeze?, activation, stride."""
    net = Net(pixels)
    x = net.conv("images", 16, 3, 2, act="HardSwish")
    for kernel, wide, outputs, squeezed, act, stride in rows:
        narrow = wide // 4 if squeezed else 0
        x = inverted(net, x, wide, outputs, kernel, stride, act, narrow=narrow, gate="HardSigmoid", late=True)
    x = net.mean(net.conv(x, last, act="HardSwish"))
    return net.model(net.linear(net.linear(x, features, "HardSwish"), 1000))


def mobilenet_v3_large(pixels: int) -> onnx.ModelProto:
    r, h = "Relu", "HardSwish"
    rows = [(3, 16, 16, 0, r, 1), (3, 64, 24, 0, r, 2), (3, 72, 24, 0, r, 1), (5, 72, 40, 1, r, 2)]
    rows += [(5, 120, 40, 1, r, 1)] * 2 + [(3, 240, 80, 0, h, 2), (3, 200, 80, 0, h, 1)]
    rows += [(3, 184, 80, 0, h, 1)] * 2 + [(3, 480, 112, 1, h, 1), (3, 672, 112, 1, h, 1)]
    rows += [(5, 672, 160, 1, h, 1), (5, 672, 160, 1, h, 2), (5, 960, 160, 1, h, 1)]
    return _mobilenet_v3(pixels, rows, 960, 1280)


def mobilenet_v3_small(pixels: int) -> onnx.ModelProto:
    r, h = "Relu", "HardSwish"
    rows = [(3, 16, 16, 1, r, 2), (3, 72, 24, 0, r, 2), (3, 88, 24, 0, r, 1), (5, 96, 40, 1, h, 2)]
    rows += [(5, 240, 40, 1, h, 1)] * 2 + [(5, 120, 48, 1, h, 1), (5, 144, 48, 1, h, 1)]
    rows += [(5, 288, 96, 1, h, 2)] + [(5, 576, 96, 1, h, 1)] * 2
    return _mobilenet_v3(pixels, rows, 576, 1024)


def shufflenet_v1(pixels: int) -> onnx.ModelProto:
    net, groups = Net(pixels), 3
    x = net.pool(net.conv("images", 24, 3, 2, act="Relu"), 3, 2)
    for stage, (outputs, repeats) in enumerate([(240, 4), (480, 8), (960, 4)]):
        for index in range(repeats):
            stride = 1 if index else 2
            first = 1 if stage == 0 and index == 0 else groups
            made = outputs - (net.channels(x) if stride == 2 else 0)  # a strided unit appends to its pooled input
            y = net.conv(x, made // 4, groups=first, act="Relu")
            y = net.shuffle(y, groups) if first > 1 else y
            y = net.conv(net.depthwise(y, 3, stride), made, groups=groups)
            skip = net.pool(x, 3, 2, kind="AveragePool") if stride == 2 else x
            x = net.act(net.concat(skip, y) if stride == 2 else net.add(x, y), "Relu")
    return net.model(net.linear(net.mean(x), 1000))


def shufflenet_v2(pixels: int, widths: Sequence[int] = (116, 232, 464), last: int = 1024) -> onnx.ModelProto:
    net = Net(pixels)
    x = net.pool(net.conv("images", 24, 3, 2, act="Relu"), 3, 2)
    for outputs, repeats in zip(widths, (4, 8, 4)):
        half = outputs // 2
        for index in range(repeats):
            if index:
                left, y, stride = net.slice(x, 0, half), net.slice(x, half, outputs), 1
            else:
                left, y, stride = net.conv(net.depthwise(x, 3, 2), half, act="Relu"), x, 2
            y = net.conv(net.depthwise(net.conv(y, half, act="Relu"), 3, stride), half, act="Relu")
            x = net.shuffle(net.concat(left, y), 2)
    return net.model(net.linear(net.mean(net.conv(x, last, act="Relu")), 1000))


def mnasnet(pixels: int) -> onnx.ModelProto:
    net = Net(pixels)
    x = net.depthwise(net.conv("images", 32, 3, 2, act="Relu"), 3, act="Relu")
    x = net.conv(x, 16)
    rows = [
        (3, 24, 3, 3, 2),
        (3, 40, 5, 3, 2),
        (6, 80, 5, 3, 2),
        (6, 96, 3, 2, 1),
        (6, 192, 5, 4, 2),
        (6, 320, 3, 1, 1),
    ]
    for expand, outputs, kernel, repeats, stride in rows:
        for index in range(repeats):
            x = inverted(net, x, expand * net.channels(x), outputs, kernel, 1 if index else stride, "Relu")
    return net.model(net.linear(net.mean(net.conv(x, 1280, act="Relu")), 1000))


def proxylessnas(pixels: int) -> onnx.ModelProto:
    net = Net(pixels)
    x = net.conv("images", 32, 3, 2, act="Clip")
    x = net.conv(net.depthwise(x, 3, act="Clip"), 32 if pixels == 224 else 16)
    rows = [(48, 32, 5, 2), (96, 32, 3, 1), (96, 40, 7, 2), (120, 40, 3, 1), (120, 40, 5, 1), (120, 40, 5, 1)]
    rows += [(240, 80, 7, 2)] + [(240, 80, 5, 1)] * 3 + [(480, 96, 5, 1)] + [(288, 96, 5, 1)] * 3
    rows += [(576, 192, 7, 2), (1152, 192, 7, 1), (576, 192, 7, 1), (576, 192, 7, 1), (1152, 320, 7, 1)]
    for wide, outputs, kernel, stride in rows:
        x = inverted(net, x, wide, outputs, kernel, stride, "Clip")
    return net.model(net.linear(net.mean(net.conv(x, 1280, act="Clip")), 1000))


def efficientnet_b0(pixels: int) -> onnx.ModelProto:
    net = Net(pixels)
    x = net.conv("images", 32, 3, 2, act="Swish")
    rows = [(1, 16, 3, 1, 1), (6, 24, 3, 2, 2), (6, 40, 5, 2, 2), (6, 80, 3, 3, 2), (6, 112, 5, 3, 1)]
    rows += [(6, 192, 5, 4, 2), (6, 320, 3, 1, 1)]
    for expand, outputs, kernel, repeats, stride in rows:
        for index in range(repeats):
            inputs = net.channels(x)
            x = inverted(net, x, expand * inputs, outputs, kernel, 1 if index else stride, "Swish",
                         narrow=inputs // 4, inner="Swish")  # fmt: skip
    return net.model(net.linear(net.mean(net.conv(x, 1280, act="Swish")), 1000))


def regnet_y_400mf(pixels: int) -> onnx.ModelProto:
    net = Net(pixels)
    x = net.conv("images", 32, 3, 2, act="Relu")
    for outputs, repeats in [(48, 1), (104, 3), (208, 6), (440, 6)]:
        for index in range(repeats):
            stride, inputs = (1 if index else 2), net.channels(x)
            skip = x if index else net.conv(x, outputs, 1, stride)
            y = net.conv(net.conv(x, outputs, act="Relu"), outputs, 3, stride, groups=outputs // 8, act="Relu")
            x = net.act(net.add(net.conv(net.squeeze(y, inputs // 4), outputs), skip), "Relu")
    return net.model(net.linear(net.mean(x), 1000))


def blazeface(pixels: int) -> onnx.ModelProto:
    net = Net(pixels)
    x = net.conv("images", 24, 5, 2, pad=2, act="Relu")
    rows = [(24, 1), (28, 1), (32, 2), (36, 1), (42, 1), (48, 2), (56, 1), (64, 1), (72, 1), (80, 1), (88, 1), (96, 2)]
    for outputs, stride in [*rows, *[(96, 1)] * 4]:
        skip = x if stride == 1 else net.pool(x, 2, 2)
        if more := outputs - net.channels(x):
            skip = net.pad_channels(skip, more)
        x = net.act(net.add(net.conv(net.depthwise(x, 3, stride), outputs), skip), "Relu")
    return net.model(x)


def googlenet(pixels: int) -> onnx.ModelProto:
    net = Net(pixels)
    x = net.op("LRN", [(p := net.pool(net.conv("images", 64, 7, 2, act="Relu"), 3, 2))], net.shapes[p], size=5)
    x = net.conv(net.conv(x, 64, act="Relu"), 192, 3, act="Relu")
    x = net.pool(net.op("LRN", [x], net.shapes[x], size=5), 3, 2)
    rows = [(64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64), (192, 96, 208, 16, 48, 64)]
    rows += [(160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64), (112, 144, 288, 32, 64, 64)]
    rows += [(256, 160, 320, 32, 128, 128), (256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)]
    for index, (one, three_in, three, five_in, five, pooled) in enumerate(rows):
        if index in (2, 7):
            x = net.pool(x, 3, 2)
        branches = [net.conv(x, one, act="Relu"), net.conv(net.conv(x, three_in, act="Relu"), three, 3, act="Relu")]
        branches += [net.conv(net.conv(x, five_in, act="Relu"), five, 5, act="Relu")]
        branches += [net.conv(net.pool(x, 3, 1, pad=1), pooled, act="Relu")]
        x = net.concat(*branches)
    return net.model(net.linear(net.mean(x), 1000))


def resnet18(pixels: int) -> onnx.ModelProto:
    net = Net(pixels)
    x = net.pool(net.conv("images", 64, 7, 2, act="Relu"), 3, 2)
    for outputs in (64, 128, 256, 512):
        for index in range(2):
            stride = 2 if index == 0 and outputs > 64 else 1
            skip = x if index else net.conv(x, outputs, 1, stride)
            y = net.conv(net.conv(x, outputs, 3, stride, act="Relu"), outputs, 3)
            x = net.act(net.add(y, skip), "Relu")
    return net.model(net.linear(net.mean(x), 1000))


def bottlenecks(pixels: int, repeats: Sequence[int] = (3, 4, 6, 3), *, widen: int = 1, groups: int = 1, base: int = 64,
                stride_in_3x3: bool = False) -> onnx.ModelProto:  # fmt: skip
    """ResNet-50 and kin: inner width 64·widen (or groups·base/…), outputs 256, 512, …"""
    net = Net(pixels)
    x = net.pool(net.conv("images", 64, 7, 2, act="Relu"), 3, 2)
    for stage, count in enumerate(repeats):
        inner, outputs = base * widen * 2**stage, 256 * 2**stage
        for index in range(count):
            stride = 2 if index == 0 and stage else 1
            skip = x if index else net.conv(x, outputs, 1, stride)
            y = net.conv(x, inner, 1, 1 if stride_in_3x3 else stride, act="Relu")
            y = net.conv(y, inner, 3, stride if stride_in_3x3 else 1, groups=groups, act="Relu")
            x = net.act(net.add(net.conv(y, outputs), skip), "Relu")
    return net.model(net.linear(net.mean(x), 1000))


def caffenet(pixels: int) -> onnx.ModelProto:
    net = Net(pixels)
    x = net.pool(net.conv("images", 96, 11, 4, pad=0, act="Relu"), 3, 2)
    x = net.conv(net.op("LRN", [x], net.shapes[x], size=5), 256, 5, groups=2, act="Relu")
    x = net.pool(x, 3, 2)
    x = net.conv(net.op("LRN", [x], net.shapes[x], size=5), 384, 3, act="Relu")
    x = net.conv(net.conv(x, 384, 3, groups=2, act="Relu"), 256, 3, groups=2, act="Relu")
    x = net.linear(net.linear(net.pool(x, 3, 2), 4096, "Relu"), 4096, "Relu")
    return net.model(net.linear(x, 1000))


def vgg16(pixels: int) -> onnx.ModelProto:
    net, x = Net(pixels), "images"
    for outputs, repeats in [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]:
        for _ in range(repeats):
            x = net.conv(x, outputs, 3, act="Relu")
        x = net.pool(x, 2, 2)
    return net.model(net.linear(net.linear(net.linear(x, 4096, "Relu"), 4096, "Relu"), 1000))


def yolo11(pixels: int, width: float) -> onnx.ModelProto:
    """YOLO11 n (width 0.25) or s (0.5) up to the raw maps of its six heads; MACs as in ncnn's yolo11n.param."""
    net = Net(pixels)

    def conv(x, outputs, kernel=1, stride=1, groups=1):
        return net.conv(x, outputs, kernel, stride, groups=groups, act="Swish")

    def wide(channels):
        return int(width * channels)

    def bottleneck(x, inner):
        return net.add(x, conv(conv(x, inner, 3), net.channels(x), 3))

    def c3k2(x, outputs, nested, share=0.5):
        half = int(share * outputs)
        y = conv(x, 2 * half)
        left, right = net.slice(y, 0, half), net.slice(y, half, 2 * half)
        if nested:
            inner = half // 2
            deep = conv(right, inner)
            for _ in range(2):
                deep = bottleneck(deep, inner)
            made = conv(net.concat(deep, conv(right, inner)), half)
        else:
            made = bottleneck(right, half // 2)
        return conv(net.concat(left, right, made), outputs)

    def attention(x):
        _, channels, height, side = net.shapes[x]
        heads, places = channels // 64, height * side
        qkv = net.conv(x, 2 * channels)
        shape = (heads, 128, places)
        qkv = net.op("Reshape", [qkv, net.numbers(*shape)], shape)
        cuts = [(0, 32), (32, 64), (64, 128)]
        q, k, v = (
            net.op("Slice", [qkv, net.numbers(a), net.numbers(b), net.numbers(1)], (heads, b - a, places))
            for a, b in cuts
        )
        q = net.op("Transpose", [q], (heads, places, 32), perm=[0, 2, 1])
        square = (heads, places, places)
        weights = net.op("Softmax", [net.op("MatMul", [q, k], square)], square)
        mixed = net.op("MatMul", [v, net.op("Transpose", [weights], square, perm=[0, 2, 1])], (heads, 64, places))
        mixed, v = (net.op("Reshape", [t, net.numbers(*net.shapes[x])], net.shapes[x]) for t in (mixed, v))
        return net.conv(net.add(mixed, net.depthwise(v, 3)), channels)

    def up(x):
        _, channels, height, side = net.shapes[x]
        shape = (1, channels, 2 * height, 2 * side)
        return net.op("Resize", [x, "", "", net.numbers(*shape)], shape, mode="nearest")

    x = conv(conv("images", wide(64), 3, 2), wide(128), 3, 2)
    x = conv(c3k2(x, wide(256), False, 0.25), wide(256), 3, 2)
    p3 = c3k2(x, wide(512), False, 0.25)
    p4 = c3k2(conv(p3, wide(512), 3, 2), wide(512), True)
    x = c3k2(conv(p4, wide(1024), 3, 2), wide(1024), True)
    pooled = [conv(x, wide(512))]
    for _ in range(3):
        pooled.append(net.pool(pooled[-1], 5, 1, pad=2))
    x = conv(net.concat(*pooled), wide(1024))
    y = conv(x, wide(1024))
    left, right = net.slice(y, 0, wide(512)), net.slice(y, wide(512), wide(1024))
    right = net.add(right, attention(right))
    right = net.add(right, net.conv(conv(right, wide(1024)), wide(512)))
    p5 = conv(net.concat(left, right), wide(1024))
    p4 = c3k2(net.concat(up(p5), p4), wide(512), False)
    p3 = c3k2(net.concat(up(p4), p3), wide(256), False)
    p4 = c3k2(net.concat(conv(p3, wide(256), 3, 2), p4), wide(512), False)
    p5 = c3k2(net.concat(conv(p4, wide(512), 3, 2), p5), wide(1024), True)
    heads = []
    for x in (p3, p4, p5):
        heads.append(net.conv(conv(conv(x, 64, 3), 64, 3), 64))
        for _ in range(2):
            x = conv(conv(x, net.channels(x), 3, groups=net.channels(x)), max(80, wide(256)))
        heads.append(net.conv(x, 80))
    return net.model(*heads)


NETWORKS: dict[str, Callable[[int], onnx.ModelProto]] = {
    "SqueezeNet-1.1": squeezenet,
    "SqueezeNet-1.0": lambda pixels: squeezenet(pixels, "1.0"),
    "MobileNetV1-1.0": mobilenet_v1,
    "MobileNetV2-1.0": mobilenet_v2,
    "MobileNetV3-Large-1.0": mobilenet_v3_large,
    "MobileNetV3-Small-1.0": mobilenet_v3_small,
    "ShuffleNetV1-g3-1.0": shufflenet_v1,
    "ShuffleNetV2-0.5": lambda pixels: shufflenet_v2(pixels, (48, 96, 192)),
    "ShuffleNetV2-1.0": shufflenet_v2,
    "ShuffleNetV2-1.5": lambda pixels: shufflenet_v2(pixels, (176, 352, 704)),
    "ShuffleNetV2-2.0": lambda pixels: shufflenet_v2(pixels, (244, 488, 976), 2048),
    "MnasNet-1.0": mnasnet,
    "ProxylessNAS": proxylessnas,
    "EfficientNet-B0": efficientnet_b0,
    "RegNetY-400MF": regnet_y_400mf,
    "BlazeFace": blazeface,
    "GoogLeNet": googlenet,
    "ResNet-18": resnet18,
    "ResNet-50": bottlenecks,
    "WideResNet-50-2": lambda pixels: bottlenecks(pixels, widen=2, stride_in_3x3=True),
    "ResNeXt-101-32x8d": lambda pixels: bottlenecks(pixels, (3, 4, 23, 3), base=256, groups=32, stride_in_3x3=True),
    "CaffeNet(AlexNet)": caffenet,
    "VGG-16": vgg16,
    "YOLO11n": lambda pixels: yolo11(pixels, 0.25),
    "YOLO11s": lambda pixels: yolo11(pixels, 0.5),
}


def build(name: str, pixels: int = 224) -> onnx.ModelProto:
    """The network of that name in the table, for one image of `pixels` a side. KeyError for one that is not here."""
    return NETWORKS[name](pixels)
