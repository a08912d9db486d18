"""Models that read the same files read them from the same memory.

Networks trained on the same data have the same vocabularies, and mostly the same catalogue and counts. Each bundle has
them as files of its own, so two that answer in turns would push each other's out of the processor's caches, and the
page cache would hold both.
"""

from dataclasses import replace

from model.bundle.reading import Bundle
from model.features.counts import Counts
from model.features.encode import Encoder
from service.scoring.served import Served


def sharing(served: Served, other: Served) -> Served:
    """The same by the encoder and the catalogue of `other`, as far as their files are alike, else by its own.

    Itself, where it is so already. Nothing keeps what it shared with another before.
    """
    catalog, encoder = served.bundle.catalog, served.bundle.encoder
    if _encodings(served.bundle) == _encodings(other.bundle):
        catalog, counts = catalog.shared(other.catalog), encoder.counts
        if isinstance(counts, Counts) and isinstance(other.encoder.counts, Counts):
            counts = counts.shared(other.encoder.counts)
        encoder = other.encoder.with_counts(counts)
    if catalog.shares(served.catalog) and _reads_as(encoder, served.encoder):
        return served
    return replace(served, catalog=catalog, encoder=encoder.ready_for(catalog))


def _reads_as(one: Encoder, other: Encoder) -> bool:
    counts = isinstance(one.counts, Counts) and one.counts.shares(other.counts) or one.counts is other.counts
    return one.vocabularies is other.vocabularies and counts


def _encodings(bundle: Bundle) -> dict[str, str]:
    """What says how a bundle encodes: files, and the hash of each."""
    files = bundle.manifest["files"].items()
    return {name: facts["sha256"] for name, facts in files if name == "features.toml" or name.startswith("vocab/")}
