"""The HTML report: sections made from runs, bundles, episodes and measurements, rendered as one page."""
