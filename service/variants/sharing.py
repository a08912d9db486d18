"""Models that read the same files read them from the same memory.

Networks trained on the same data have the same vocabularies, and mostly the same catalogue and counts. Each bundle has
them as files of its own, so two that answer in turns would push each other's out of the processor's caches, and the
page cache would hold both.
"""

from dataclasses import replace

from model.bundle.reading import Bundle
from model.features.counts import Counts
from service.scoring.served import Served


def sharing(served: Served, other: Served) -> Served:
    """The same by the encoder and the catalogue of `other`, as far as their files are alike; else itself."""
    if _encodings(served.bundle) != _encodings(other.bundle):
        return served
    catalog, encoder = served.catalog.shared(other.catalog), served.encoder
    counts = encoder.counts
    if isinstance(counts, Counts) and isinstance(other.encoder.counts, Counts):
        counts = counts.shared(other.encoder.counts)
    if counts is not encoder.counts or encoder.vocabularies is not other.encoder.vocabularies:
        encoder = other.encoder.with_counts(counts)
    if catalog is served.catalog and encoder is served.encoder:
        return served
    return replace(served, catalog=catalog, encoder=encoder)


def _encodings(bundle: Bundle) -> dict[str, str]:
    """What says how a bundle encodes: files, and the hash of each."""
    files = bundle.manifest["files"].items()
    return {name: facts["sha256"] for name, facts in files if name == "features.toml" or name.startswith("vocab/")}
