"""Image sets by name, as the user writes them after --data: "glyphs", "folder:PATH", "packed:FILE.npz" (no numpy)."""

from pathlib import Path

from gems_edge.errors import UserError

# One entry per image set.
Specs = tuple[str, ...]


def split_specs(text: str) -> Specs:
    """The image sets that the user named with commas between them. An existing path with commas stays whole."""
    kind, _, path = text.partition(":")
    if kind in ("folder", "packed") and path and Path(path).expanduser().exists():
        return (text,)
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise UserError(f"--data {text!r} names an image set that is empty; write NAME,NAME without gaps")
    return parts


def specs_text(specs: Specs) -> str:
    """The inverse of `split_specs`, for documents and messages."""
    return ",".join(specs)


def distribution_name(spec: str) -> str:
    """What logs and tables call an image set: its name, the folder's, or the packed file's without its ending."""
    kind, _, path = spec.partition(":")
    return Path(path).expanduser().absolute().name.removesuffix(".npz") if path else kind


def absolute(spec: str) -> str:
    """One image set's `spec` so that it means the same from any directory."""
    kind, _, path = spec.partition(":")
    return f"{kind}:{Path(path).expanduser().absolute()}" if path else spec


def located(specs: Specs, root: Path | None) -> Specs:
    """Every spec so that it means the same from any directory; NAME is ROOT/NAME.npz where that file is."""

    def locate(spec: str) -> str:
        file = None if root is None or ":" in spec else Path(root) / f"{spec}.npz"
        return absolute(f"packed:{file}" if file and file.is_file() else spec)

    return tuple(locate(spec) for spec in specs)


def own_specs(specs: Specs, trained: Specs) -> Specs:
    """`specs` where a bare name that one of the image sets `trained` has means that set."""
    known = {distribution_name(spec): spec for spec in trained}
    return tuple(spec if ":" in spec else known.get(spec, spec) for spec in specs)
