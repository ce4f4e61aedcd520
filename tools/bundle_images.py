"""What a bundle is measured on."""

from gems_edge.data.mixture import Mixture, load_mixture
from gems_edge.data.specs import Specs, split_specs
from gems_edge.device.bundle import Bundle


def images_for(bundle: Bundle, data: Specs | None) -> Mixture:
    """`data`, or the image sets that the bundle was trained on, in the size and channels of its images."""
    specs = data or split_specs(bundle.manifest["provenance"]["data"])
    return load_mixture(specs, image_size=bundle.image_size, channels=bundle.channels)
