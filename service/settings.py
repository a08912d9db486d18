"""What the operator may set: one frozen object, read once from `RANKER_*` variables, each field with its reason."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from model.cores import cores
from service import listed

DEMO_BUNDLE = Path(__file__).parent / "demo" / "bundle"
DEMO_USERS = Path(__file__).parent / "demo" / "users.jsonl"
MOST_KEPT = 1000  # behaviours of a kind of a user


class SettingsError(ValueError):
    """A setting that cannot be used; the message names the variable, what it holds and what is allowed."""


class Settings(BaseSettings):
    """The service's settings; `RANKER_HISTORY_KEEP=50` sets `history_keep`."""

    model_config = SettingsConfigDict(env_prefix="RANKER_", frozen=True, extra="ignore")

    host: str = Field(
        "127.0.0.1",
        description="Address to listen on. Other than loopback needs keys: RANKER_KEYS_FILE or RANKER_KEYS.",
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one and logs it.")
    workers: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that answer. One per core pays once scoring fills a core; metrics cover all processes.",
    )
    keys_file: Path | None = Field(
        None,
        description="File of API keys, a line each: NAME SCOPES SECRET (docs/operations.md). Read again within two "
        "seconds of a change; a broken one is refused, and the keys before still hold.",
    )
    keys: SecretStr | None = Field(
        None, description="Such lines with `;` between, in the stead of a file: NAME SCOPES SECRET; NAME SCOPES SECRET"
    )
    metrics_open: bool = Field(
        False,
        description="Whether /metrics answers without a key; else, where there are keys, one with the scope metrics.",
    )
    unsafe_no_keys: bool = Field(
        False,
        description="Serve without keys on addresses that other machines can reach. For where something before the "
        "service knows who may ask.",
    )
    rate: str | None = Field(
        None,
        description="Requests per key, such as 100/second or 5000/minute; more are refused (429). Each worker counts "
        "for itself in fixed windows, so several let through up to that many each. A batch is one. Unset: no bound.",
    )
    bundle: Path = Field(
        DEMO_BUNDLE,
        description="A bundle, or the folder whose `current` points to one. Unset: the demo bundle in the package.",
    )
    bundle_poll_s: float = Field(
        5,
        ge=0,
        le=86400,
        description="Seconds between two looks at what RANKER_BUNDLE leads to; another bundle there is checked and "
        "goes live while serving (docs/bundles.md). 0: only at SIGHUP and POST /admin/model.",
    )
    catalog_poll_s: float = Field(
        5,
        ge=0,
        le=86400,
        description="Seconds between two looks at the bundle's catalogue and counts; a newer file is taken over while "
        "serving. 0 never looks.",
    )
    redis_url: str | None = Field(
        None,
        description="The store: redis://, unix://, redis+sentinel:// or redis+cluster://, by TLS rediss://, "
        "rediss+sentinel:// or rediss+cluster://. Unset: an embedded store, lost at exit, not for production, with the "
        "demo's users for the demo bundle, or those of --data DIR.",
    )
    history_keep: int = Field(
        100,
        ge=1,
        le=MOST_KEPT,
        description="Newest behaviours kept of each action on each type of object (clicks on items, buys of items), "
        "for each user, and impressions of the day where a model counts them. At least T, the network's history "
        "length, or the service does not start. 100 of a kind take some 3 kB of the store, 1000 some 110 kB "
        "(docs/store.md).",
    )
    history_ttl_s: int = Field(
        90 * 24 * 3600,
        ge=1,
        description="Seconds after the last write until a user is forgotten: bounds the store's memory.",
    )
    history_timeout_ms: int = Field(
        50, ge=1, le=60_000, description="Past this time we rank without history (`degraded`) rather than answer late."
    )
    history_connections: int = Field(
        64,
        ge=1,
        le=10_000,
        description="Store connections per worker, and per node of a cluster; one serves one request at a time.",
    )
    history_cache_users: int = Field(
        500,
        ge=0,
        le=1_000_000,
        description="Users per worker whose last read is remembered for when the store fails (`history:cached`). Each "
        "behaviour takes some 0.3 kB and is one more object for the garbage collector. 0: none.",
    )
    history_cache_s: float = Field(
        60,
        ge=0,
        le=86_400,
        description="Seconds for which it is remembered: a user's clicks since are missing in it. 0: not at all.",
    )
    score_threads: int = Field(
        default_factory=lambda settings: max(1, min(256, cores() // settings.get("workers", 1))),
        ge=1,
        le=256,
        description="Scoring threads per worker; each runs the graph once at a time. More threads than cores only "
        "queue inside the machine. Unset: the cores this process may use, shared out among the workers, at least 1 "
        "each. A container's CPU quota and the cores it is bound to count, half a core as one.",
    )
    precision: Literal["auto", "fp32", "int8"] = Field(
        "auto",
        description="auto takes the bundle's int8 graph where that graph passed its gate and the processor multiplies "
        "bytes, else fp32, and the log says why; int8 refuses to start without such a graph.",
    )
    timeout_ms: int = Field(
        200,
        ge=0,
        le=600_000,
        description="Deadline of a request to /rank without a `timeout_ms` of its own, from its first byte on: what is "
        "late by then is not begun (504). 0: none.",
    )
    batch_timeout_ms: int = Field(
        10_000,
        ge=0,
        le=600_000,
        description="Deadline of a call of /rank/batch, from its first byte on: its requests "
        "that are not begun by then get an error each. 0: none.",
    )
    queue_candidates: int = Field(
        50_000,
        ge=1,
        description="Candidates under way in a worker, waiting ones included; more are refused (429), as are those "
        "whose predicted wait is too long.",
    )
    admin_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port for /health and /metrics by a process of their own, which load does not reach. 0: none.",
    )
    max_batch_requests: int = Field(
        2_000, ge=1, description="Requests in one call of /rank/batch; more is refused before any is looked at."
    )
    max_batch_candidates: int = Field(
        20_000,
        ge=1,
        description="Candidates of all requests in one call of /rank/batch; more is refused before any work.",
    )
    max_candidates: int = Field(5000, ge=1, description="Candidates in one request; more is refused before any work.")
    max_feedback_events: int = Field(
        1000, ge=1, le=100_000, description="Events in one body of POST /feedback; more are refused before any is read."
    )
    feedback_timeout_ms: int = Field(
        1000,
        ge=1,
        le=60_000,
        description="Time that the store has to take events, or to read, set or forget a user; past it 503, and it may "
        "be sent again.",
    )
    max_body_bytes: int = Field(
        4 * 2**20, ge=1024, description="Size of a request's body; a larger one is refused unread."
    )
    compress_from_bytes: int = Field(
        16_384,
        ge=0,
        description="Answers of at least so many bytes are compressed for callers that ask for it (Accept-Encoding: "
        "zstd or gzip). Smaller ones take longer to compress than a network takes to carry. 0: none is.",
    )
    root_path: str = Field(
        "",
        description="Path under which a proxy shows the service, like /ranker, whether the proxy strips it or not: "
        "/ranker/docs and its links work then. Empty: none.",
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Addresses and networks (10.0.0.7,10.1.0.0/16) of proxies whose X-Forwarded-Prefix counts as such "
        "a path; of nobody else it does. Empty: none.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins whose pages may call from a browser (https://shop.example,http://localhost:3000), or * "
        "for all. Empty: none.",
    )
    max_header_bytes: int = Field(
        32 * 1024,
        ge=1024,
        le=2**20,
        description="Size of a request's head: its line and its headers. A larger one is refused (431) before more of "
        "it is read.",
    )
    header_timeout_s: float = Field(
        10,
        gt=0,
        le=3600,
        description="Seconds for a request's head, from its first byte on (408), and from a connection's start until "
        "that byte (closed).",
    )
    body_timeout_s: float = Field(
        30,
        gt=0,
        le=3600,
        description="Seconds for a request's body to come whole (408; a deadline may be sooner), and for an answer to "
        "be taken (closed).",
    )
    max_connections: int = Field(
        2000,
        ge=1,
        le=1_000_000,
        description="Connections per worker. One more takes the place of one that has long sent no whole head, else of "
        "the one that is idle longest, for a second at least; else it is refused (503). Each takes about 12 kB.",
    )
    keep_alive_s: float = Field(
        75,
        ge=1,
        le=86_400,
        description="Seconds for which an answered connection is kept. Longer than the pools of callers and balancers "
        "keep theirs (60 as a rule), or they send requests on connections that are just being closed.",
    )
    drain_s: float = Field(
        5,
        ge=0,
        le=3600,
        description="Seconds after SIGTERM for which it serves on while /health/ready says 503, so that balancers look "
        "away first. Part of RANKER_SHUTDOWN_GRACE_S, and at most half of it where it is not set; Ctrl-C skips it.",
    )
    shutdown_grace_s: int = Field(
        10, ge=0, description="Seconds from SIGTERM until the process has ended, whatever still hangs."
    )
    hang_s: float = Field(
        30,
        ge=0,
        le=86_400,
        description="A worker whose event loop has not turned for so many seconds is killed and replaced; one that "
        "starts has ten times as long. 0: never.",
    )
    handover: Path | None = Field(
        None,
        description="Path of a Unix socket on which a running service hands its listening sockets to its successor on "
        "the same host, e.g. /run/ranker/handover. Unset: none is handed.",
    )
    budgets_ms: Annotated[tuple[float, ...], NoDecode] = Field(
        (10, 20, 40),
        description="Response-time budgets in ms, e.g. 10,20,50: each becomes a bucket bound of the histograms of "
        "requests, so that the share within it is exact.",
    )
    journal: Path | None = Field(
        None,
        description="Folder of the journal: what each request showed, and what came back (docs/operations.md). Unset: "
        "none is kept.",
    )
    journal_flush_s: float = Field(
        1,
        gt=0,
        le=60,
        description="Seconds after which what was shown is in the journal's file; a killed worker loses so much of "
        "it. Events are written before they are acknowledged.",
    )
    journal_rotate_mb: float = Field(
        16, gt=0, le=1024, description="Size of a journal file, after which a drain may have it and a new one begins."
    )
    journal_rotate_s: float = Field(300, gt=0, le=86_400, description="Likewise its age, in seconds.")
    journal_sample: float = Field(
        1,
        ge=0,
        le=1,
        description="Share of the users who are in the journal, each with all or nothing, on every worker and instance "
        "the same.",
    )
    journal_salt: SecretStr | None = Field(
        None,
        description="A secret: the journal has a keyed hash by it in place of each user id. All instances take the "
        "same, for ever: another salt makes other users of them.",
    )
    journal_sync: bool = Field(
        False,
        description="Whether the journal is forced to the disk before an event is acknowledged. Without it a power "
        "cut, though no killed process, may take the last seconds.",
    )
    explore_share: float = Field(
        0,
        ge=0,
        le=1,
        description="Share of live requests whose top is put into a drawn order (docs/operations.md), so that a model "
        "trained on the journal can tell an item from its place. Needs RANKER_JOURNAL.",
    )
    explore_top: int = Field(10, ge=2, le=1000, description="Best items of such a request whose order is drawn.")
    experiments: Path | None = Field(
        None,
        description="File of an experiment, experiments.toml: which share of users sees which bundle "
        "(docs/experiments.md). Watched like the catalogue (RANKER_CATALOG_POLL_S). Unset: none.",
    )
    log_level: str = Field(
        "info",
        pattern="^(debug|info|warning|error)$",
        description="debug also logs every request; user ids only where RANKER_LOG_USER_IDS says so.",
    )
    log_format: Literal["text", "json"] = Field("text", description="json writes every log line as one JSON object.")
    log_sample: float = Field(
        0, ge=0, le=1, description="Share of answered requests that are logged with their stages, drawn at random."
    )
    log_slow_ms: float = Field(
        500,
        ge=0,
        description="Requests that took at least so long are logged with their stages; failed requests always are. "
        "0: no request is logged for being slow.",
    )
    log_user_ids: bool = Field(
        False, description="Whether the log of a request to /rank names its user. Items and bodies are never logged."
    )

    _parts = field_validator("cors_origins", "trusted_proxies", mode="before")(listed.parts)
    _origins = field_validator("cors_origins")(listed.origins)
    _networks = field_validator("trusted_proxies")(listed.networks)
    _prefix = field_validator("root_path")(listed.prefix)
    _budgets = field_validator("budgets_ms", mode="before")(listed.budgets)


def load_settings() -> Settings:
    """Settings from the environment. Raises SettingsError, one line a wrong variable."""
    try:
        return Settings()  # type: ignore[call-arg]  # mypy cannot see that the environment fills the fields
    except ValidationError as error:
        lines = [
            f"RANKER_{'_'.join(str(part) for part in problem['loc']).upper()}={problem['input']!r}: "
            + problem["msg"].removeprefix("Value error, ")
            for problem in error.errors()
            if problem["type"] != "default_factory_not_called"  # its own fault is another field's, told already
        ]
        raise SettingsError("; ".join(lines)) from None
