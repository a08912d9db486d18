"""The guard of our routes, with the keys and the rate that the operator has set."""

import os

from service.access.guard import Guard
from service.access.keyring import KNOWN, ring_of
from service.access.rates import Rates
from service.api.routes import ASSETS, SCOPES
from service.settings import Settings


def guard_of(settings: Settings) -> Guard:
    """Raises KeysError."""
    text = None if settings.keys is None else settings.keys.get_secret_value()
    ring = ring_of(text, settings.keys_file, os.environ.get(KNOWN), settings.rate)
    rates = None if settings.rate is None else Rates(settings.rate)
    return Guard(ring, SCOPES, settings.metrics_open, rates, f"{ASSETS}/", preflights=bool(settings.cors_origins))
