"""The guard of our routes, with the keys and the rate that the operator has set."""

from service.access.guard import Guard
from service.access.keyring import keyring
from service.access.keys import METRICS, OPEN, KeysError
from service.access.rates import Rates
from service.api.routes import ASSETS, SCOPES
from service.settings import Settings


def guard_of(settings: Settings) -> Guard:
    """Raises KeysError."""
    text = None if settings.keys is None else settings.keys.get_secret_value()
    ring = keyring(text, settings.keys_file)
    if settings.rate is not None and ring is None:
        raise KeysError(f"RANKER_RATE={settings.rate!r} bounds requests per key, but there are no keys; set some")
    scopes = {where: OPEN if scope == METRICS and settings.metrics_open else scope for where, scope in SCOPES.items()}
    return Guard(ring, scopes, None if settings.rate is None else Rates(settings.rate), f"{ASSETS}/")
