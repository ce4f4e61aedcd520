"""How many images a board gives its predict graph, or its trunk, at a time."""

# As many as keep the activations in a small board's cache. More brings nothing: on one core 84×84 images take 0.54 ms
# each singly and 0.61 ms in sixteens, 28×28 images 0.11 ms and 0.09 ms.
_BATCH_BYTES = 1 << 20
_BATCH_MOST = 16


def images_per_call(peak_bytes: int) -> int:
    """Images per call of a graph whose activations take `peak_bytes` for one."""
    return max(1, min(_BATCH_MOST, _BATCH_BYTES // max(1, peak_bytes)))
