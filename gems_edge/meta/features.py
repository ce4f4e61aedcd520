"""Features of a trunk, computed once per image and kept: in memory, and in a file for the next command."""

import hashlib
import io
import itertools
import math
import os
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from gems_edge.data.mixture import Mixture
from gems_edge.data.tensors import Episodes, episode_tensors, fast_layout
from gems_edge.errors import MachineError, UserError
from gems_edge.files import cache_directory, opened, write_atomic
from gems_edge.meta.augment import Augmentation, of_view
from gems_edge.meta.meta_model import Halves
from gems_edge.meta.precision import matrix_precision
from gems_edge.meta.processes import Processes
from gems_edge.process_memory import available_mb
from gems_edge.progress import Phase, no_display

# Images that go through a trunk at a time.
BATCH = 32
# The share of the memory that is free which features may take; what does not fit stays in its file, mapped.
MEMORY_SHARE = 0.5
# Bytes of all feature files that are kept; of more, those that were not used for longest are deleted.
KEPT_BYTES = 8_000_000_000
# Bytes of a disk that features never take.
_SPARED = 100_000_000
# Seconds after which a file that a killed process began is deleted.
_LEFT_ALONE = 86_400
_BLOCK = 1 << 20
# Part of a file's key: what else decides what is in it.
_FORMAT = "gems-edge features 3"


@dataclass(frozen=True)
class EpisodeFeatures(Episodes):
    """Features in place of images: of every image of a mixture that has some, the row of some part."""

    parts: tuple[np.ndarray, ...]  # float16 [M, h, w, c] (below the head: [M, F])
    part: np.ndarray  # int64 [N]: of each image, −1: it has none
    row: np.ndarray  # int64 [N]
    where: torch.device
    views: Mapping[int, tuple[np.ndarray, ...]] = field(default_factory=dict)  # of an augmented part, beside the images

    @property
    def device(self) -> torch.device:
        return self.where

    def taken(self, numbers: np.ndarray, dtype: torch.dtype, random: np.random.Generator | None = None) -> torch.Tensor:
        """Features [n, c, h, w] (or [n, F]). All are of one set and split, as an episode's images are."""
        (part,) = set(self.part[numbers].tolist())
        assert part >= 0, "features of these images were not asked for"
        found, rows = self.parts[part], self.row[numbers]
        if random is None or part not in self.views:
            taken = found[rows]
        else:
            views = (found, *self.views[part])
            taken = np.stack([views[view][row] for view, row in zip(random.integers(len(views), size=len(rows)), rows)])
        features = torch.from_numpy(taken).to(self.where).to(dtype)
        return features.permute(0, 3, 1, 2) if features.ndim == 4 else features


def episodes_of(
    halves: Halves,
    images: Mixture,
    splits: Iterable[str],
    processes: Processes,
    phase: Phase = no_display,
    sets: Collection[int] | None = None,
    augmentation: Augmentation | None = None,
) -> Episodes:
    """What `halves.learned` reads: the images themselves or, where there is a trunk, features of those in `splits`.

    `sets`: the numbers of those in the mixture that episodes will be drawn from; None: all. `augmentation`: of the
    split "train", for episodes that are given random numbers.
    Features are computed once for a trunk and an image set, and found again by what they depend on. Raises UserError
    for features that half precision cannot hold, MachineError for more than memory and disk have room for.
    """
    if halves.parts is None:
        return replace(episode_tensors(images, processes.device), augment=augmentation)
    trunk = _FeatureFiles(halves, processes.device, phase)
    part, row = np.full(len(images.images), -1), np.zeros(len(images.images), int)
    parts: list[np.ndarray] = []
    views: dict[int, tuple[np.ndarray, ...]] = {}
    start = 0
    for number, each in enumerate(images.sets):
        for split in splits if sets is None or number in sets else ():
            numbers = np.flatnonzero(np.isin(each.label, each.of_split(split)))
            part[start + numbers], row[start + numbers] = len(parts), np.arange(len(numbers))
            chosen = _Chosen(each.images, numbers)
            if augmentation is not None and split == "train":
                further = [replace(chosen, view=n, augmentation=augmentation) for n in range(1, augmentation.views)]
                views[len(parts)] = tuple(processes.first_of_node(partial(trunk.features, each)) for each in further)
            parts.append(processes.first_of_node(partial(trunk.features, chosen)))
        start += len(each.images)
    return EpisodeFeatures(tuple(parts), part, row, processes.device, views)


@dataclass(frozen=True)
class _Chosen:
    """Some images of a set, or a view of them."""

    images: np.ndarray  # uint8 [N, H, W, C]
    numbers: np.ndarray  # int64 [M]
    view: int = 0  # 0: the images themselves
    augmentation: Augmentation | None = None  # of another view

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def label(self) -> str:
        return f"features of view {self.view + 1}" if self.view else "features"

    def key(self, of_trunk: "hashlib._Hash") -> str:
        """Of the file that has a trunk's features of these images."""
        key = of_trunk.copy()
        if self.augmentation is not None:
            key.update(f"view {self.view} {self.augmentation.text}".encode())
        for pixels in self._pixels():
            key.update(np.ascontiguousarray(pixels).data)
        return key.hexdigest()

    def batches(self) -> Iterator[torch.Tensor]:
        """float32 [n, C, H, W] in 0…1."""
        random = of_view(self.view)
        for pixels in self._pixels():
            images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32) * (1 / 255)
            yield images if self.augmentation is None else self.augmentation(images, random)

    def _pixels(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self), BATCH):
            yield self.images[self.numbers[start : start + BATCH]]


class _FeatureFiles:
    """The files of one trunk in the cache; features that are in none are computed."""

    def __init__(self, halves: Halves, device: torch.device, phase: Phase):
        assert halves.parts is not None
        self.trunk, self.cut, self.device, self.phase = halves.parts.trunk, halves.parts.cut, device, phase
        self.trunk.network.to(device)
        self.weights = {name: tensor.to(device) for name, tensor in halves.below.items()}
        channels, *sides = halves.parts.top.input_shape
        self.shape = (*sides, channels)  # of an image's features, channels last
        self.key = _key(halves)
        self.directory = cache_directory() / "features"

    def features(self, chosen: _Chosen) -> np.ndarray:
        """float16 [M, h, w, c] (or [M, F]), in memory or mapped."""
        shape = (len(chosen), *self.shape)
        path = self.directory / f"{chosen.key(self.key)}.npy"
        found = _mapped(path, shape)
        if found is None:
            return self._computed(chosen, shape, path)
        return np.array(found) if _fits(found.nbytes) else found

    def _computed(self, chosen: _Chosen, shape: tuple[int, ...], path: Path) -> np.ndarray:
        size = 2 * math.prod(shape)
        room = self._has_room(size)
        if _fits(size):
            features, start = np.empty(shape, np.float16), 0
            for batch in self._batches(chosen):
                features[start : start + len(batch)] = batch
                start += len(batch)
            if room:
                with suppress(OSError):  # they are computed anew the next time
                    write_atomic(path, _sealed(shape, [features.data.cast("B")]))
            return features
        if not room:
            raise MachineError(
                f"the features of {len(chosen)} images take {size / 1e9:.1f} GB, more than memory and the disk of "
                f"{self.directory} have room for; free some, set GEMS_EDGE_CACHE to another disk, or use a smaller "
                f"--image-size{', fewer --views' if chosen.view else ''} or a higher --learn-from"
            )
        write_atomic(path, _sealed(shape, (batch.tobytes() for batch in self._batches(chosen))))
        found = _mapped(path, shape)
        assert found is not None, "it was written just now"
        return found

    def _batches(self, chosen: _Chosen) -> Iterator[np.ndarray]:
        done = 0
        with self.phase(chosen.label, len(chosen)) as count:
            for images in chosen.batches():
                yield self._batch(images)
                done += len(images)
                if count:
                    count(done)

    def _batch(self, images: torch.Tensor) -> np.ndarray:
        """Features of images: float16 [n, h, w, c] (or [n, F]), in float32 until then."""
        with torch.no_grad(), matrix_precision("fp32"):
            features = self.trunk(self.weights, fast_layout(images.to(self.device)))
        if features.ndim == 4:
            features = features.permute(0, 2, 3, 1)
        half: np.ndarray = features.half().contiguous().cpu().numpy()
        if not np.isfinite(half).all():
            raise UserError(
                f"the features below {self.cut.name} are beyond half precision ({features.abs().max():.3g}); "
                "choose another --learn-from"
            )
        return half

    def _has_room(self, size: int) -> bool:
        """Whether the disk has room for a file of so many bytes, once old ones are gone."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            _trim(self.directory, size)
            return shutil.disk_usage(self.directory).free > size + _SPARED
        except OSError:
            return False


def trunk_key(halves: Halves) -> str:
    """Alike where two trunks give the same features of the same images."""
    return _key(halves).hexdigest()


def _key(halves: Halves) -> "hashlib._Hash":
    """A hash of all that features depend on but the images."""
    assert halves.parts is not None
    cut, code = halves.parts.cut.name, halves.parts.trunk.network.code
    alike = replace(halves.whole.model.spec, head="shared", metric="cosine", ways=2, learn_from=cut)
    key = hashlib.sha256(f"{_FORMAT}\n{alike}\n{code}".encode())
    for name in sorted(halves.below):
        tensor = halves.below[name].detach().cpu().contiguous()
        key.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        key.update(tensor.numpy().data)
    return key


def _fits(size: int) -> bool:
    available = available_mb()
    return available is None or size <= MEMORY_SHARE * 1e6 * available


def _header(shape: tuple[int, ...]) -> bytes:
    """Of a .npy file of float16."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f2", "fortran_order": False, "shape": shape})
    return header.getvalue()


def _sealed(shape: tuple[int, ...], parts: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """The parts of a .npy file of features, and behind them their SHA-256."""
    digest = hashlib.sha256()
    for part in itertools.chain([_header(shape)], parts):
        digest.update(part)
        yield part
    yield digest.digest()


def _mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The features in a file, or None where there are none of this shape, or not as they were written."""
    header = _header(shape)
    size = len(header) + 2 * math.prod(shape)
    try:
        with opened(path) as file:
            if os.fstat(file.fileno()).st_size != size + hashlib.sha256().digest_size:
                return None
            digest = hashlib.sha256()
            for start in range(0, size, _BLOCK):
                digest.update(file.read(min(_BLOCK, size - start)))
            if file.read() != digest.digest():
                return None
            found = np.memmap(file, np.float16, "r", len(header), shape)
    except (OSError, UserError):
        return None
    with suppress(OSError):  # of a cache that others own
        os.utime(path)  # used now
    return found


def _trim(directory: Path, size: int) -> None:
    """Delete what was not used for longest until `size` more bytes are within KEPT_BYTES, and what was left half
    written."""
    now = time.time()
    for used, _, path in _files(directory, ".*.tmp"):
        if now - used > _LEFT_ALONE:
            path.unlink(missing_ok=True)
    for _, own, path in sorted(_files(directory, "*.npy"), reverse=True):
        size += own
        if size > KEPT_BYTES:
            path.unlink(missing_ok=True)


def _files(directory: Path, pattern: str) -> Iterator[tuple[float, int, Path]]:
    """When each was last used, its bytes, and it; those that others delete meanwhile are passed over."""
    for path in directory.glob(pattern):
        with suppress(FileNotFoundError):
            found = path.stat()
            yield found.st_mtime, found.st_size, path
