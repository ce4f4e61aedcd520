"""A bundle's product, its release, and the key that signs it: what an export is asked for, checked before it begins."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from gems_edge.device import openssh
from gems_edge.device.manifest import PRODUCT_ID
from gems_edge.errors import UserError
from gems_edge.export.bundle import check_target
from gems_edge.export.source import ExportOptions


def check_output(path: Path, options: ExportOptions) -> None:
    """UserError for something that an export must not replace, for a name that no product can have, and for a key that
    cannot sign: it signs something now, so that no export is lost for it."""
    check_target(path)
    product_entry(path, options)
    if options.sign:
        openssh.sign(b"gems-edge", options.sign, f"{openssh.NAMESPACE}-trial")


def product_entry(path: Path, options: ExportOptions) -> dict[str, Any]:
    """The manifest's "product", where it is signed or one is asked for. Without a release the time is one: it counts up
    by itself."""
    if not (options.sign or options.product or options.release):
        return {}
    product = options.product or path.name.removesuffix(".gems")
    if not PRODUCT_ID.fullmatch(product):
        raise UserError(
            f"{product!r} cannot be a product's name: up to 64 letters of ASCII, digits, '.', '_' and '-'; name one "
            "with --product"
        )
    return {"product": {"id": product, "release": options.release or int(datetime.now(UTC).strftime("%Y%m%d%H%M"))}}


def signing(options: ExportOptions) -> Callable[[bytes], bytes] | None:
    """What makes the signature of a manifest's bytes; None where none is asked for."""
    return partial(openssh.sign, key=options.sign) if options.sign else None
