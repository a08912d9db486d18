"""The artefact: what training writes and the service opens. No torch; of the project it knows model.features alone."""

from model.bundle.layout import BundleError as BundleError
from model.bundle.reading import Bundle as Bundle
