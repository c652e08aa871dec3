"""Every setting of the server, read from the environment (and ``.env``) once, checked, and frozen.

This is the only module that reads the environment. A bad value is refused at the start with the variable's name, the
rule and the way out; a secret never shows in ``repr`` or in an error.
"""

import ipaddress
import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from oddstream_server.application.secrets.provider import SecretReference
from oddstream_server.domain.market import Venue
from oddstream_server.domain.principal import Role

PREFIX = "ODDSTREAM_"


class VenueChoice(StrEnum):
    AUTO = "auto"
    KALSHI = "kalshi"
    POLYMARKET = "polymarket"
    SIMULATED = "simulated"


class LogFormat(StrEnum):
    JSON = "json"
    CONSOLE = "console"


class SettingsError(Exception):
    """The environment holds a value that can't be used; the text names each variable, its rule and the way out."""


class Settings(BaseSettings):
    """See ``.env.example`` for each variable in words."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True
    )

    data_dir: Path = Path(".oddstream")
    """Folder of the embedded services, keys and logs."""

    database_url: SecretStr | None = None
    """postgresql+asyncpg://...; absent: the embedded PostgreSQL."""
    redis_url: SecretStr | None = None
    """redis://... or rediss://...; absent: the embedded Redis."""
    database_pool_size: int = Field(default=5, ge=1, le=500)
    database_max_overflow: int = Field(default=5, ge=0, le=500)
    database_pool_timeout_seconds: float = Field(default=5.0, gt=0, le=60)
    database_pool_recycle_seconds: int = Field(default=1800, ge=60)
    database_reserved_connections: int = Field(default=5, ge=0)
    """Connections left to operators and backups in the pool budget."""

    database_ca_file: Path | None = None
    """PEM of the authority that signed PostgreSQL's certificate; absent: the system's own."""
    redis_ca_file: Path | None = None
    allow_plaintext_to_services: bool = False
    """Off loopback PostgreSQL and Redis are spoken to over TLS 1.3 only, unless this is set."""

    database_login: SecretReference | None = None
    """Where user and password of the database are, asked at each new connection; absent: in ``database_url``."""
    database_role: str | None = Field(default=None, pattern="^[a-z_][a-z0-9_]{0,62}$")
    """Taken on in each session, so that tables have one owner whatever the login's name."""
    redis_login: SecretReference | None = None
    keyring: SecretReference | None = None
    """Where peppers and data keys are; absent: files in the data folder."""
    vault_url: str | None = None
    vault_ca_file: Path | None = None
    vault_namespace: str | None = None
    vault_token: SecretStr | None = None
    vault_role_id: str | None = None
    vault_secret_id: SecretStr | None = None
    vault_secret_id_file: Path | None = None
    vault_transit_key: str | None = Field(default=None, pattern="^[A-Za-z0-9_.-]{1,128}$")
    """Transit key that wraps the data keys of venue credentials; absent: the keyring's newest data key does."""
    aws_region: str | None = None
    aws_endpoint_url: str | None = None
    """Of Secrets Manager, instead of the region's own."""

    grpc_host: str = "127.0.0.1"
    grpc_port: int = Field(default=50051, ge=0, le=65535)
    allow_plaintext_from_the_network: bool = False
    """Required before ``grpc_host`` may be anything but loopback: keys would cross the network in clear."""
    tls_certificate_file: Path | None = None
    """PEM of the gRPC port's certificate and its intermediates; read again when the file changes."""
    tls_private_key_file: Path | None = None
    tls_client_ca_file: Path | None = None
    """PEM of the authority whose certificates clients must show; absent: clients show none."""
    tls_client_roles: Annotated[tuple[tuple[str, Role], ...], NoDecode] = ()
    """What the holder of a client certificate may do without a key: ``<name in the certificate>=<role>``, by commas."""
    oidc_issuer: str | None = None
    """URL of the OpenID provider whose access tokens are taken; absent: API keys alone."""
    oidc_audience: str | None = None
    oidc_jwks_url: str | None = None
    """Absent: the one in the provider's discovery document."""
    oidc_ca_file: Path | None = None
    oidc_role_claim: str = Field(default="roles", pattern=r"^[A-Za-z0-9_:/-]+(\.[A-Za-z0-9_:/-]+)*$")
    """Claim with the caller's roles or groups; dots lead into nested claims."""
    oidc_roles: Annotated[tuple[tuple[str, Role], ...], NoDecode] = ()
    """What each value of the claim is good for: ``<value>=<role>``, by commas."""
    oidc_leeway_seconds: float = Field(default=30.0, ge=0, le=300)
    operations_host: str = "127.0.0.1"
    operations_port: int = Field(default=9464, ge=0, le=65535)
    workers: int = Field(default=1, ge=1, le=64)
    """Serving processes that share the gRPC port."""
    drain_seconds: float = Field(default=2.0, ge=0, le=600)
    """How long health says NOT_SERVING before new calls are refused: at least fall x interval of the balancer."""
    grace_seconds: float = Field(default=10.0, ge=0, le=600)
    """How long calls in flight may take to finish after that."""
    stream_maximum_age_seconds: float = Field(default=1500.0, ge=1)
    slow_consumer_seconds: float = Field(default=30.0, ge=1, le=600)
    """How long a subscriber may stay behind without coming nearer before it is cut with its token."""
    signals_in_memory: int = Field(default=8_192, ge=1, le=1_000_000)
    """The newest events of the signal log that a serving process holds; who is further behind reads the database."""
    streams_per_key: int = Field(default=100, ge=1)
    """In a serving process."""
    streams_per_connection: int = Field(default=10_000, ge=1)
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = ()
    """CIDR blocks whose x-forwarded-for is believed, separated by commas."""
    calls_per_minute: int = Field(default=6000, ge=1)
    """Limit a key, unless its scopes say less."""
    maximum_unary_calls: int = Field(default=2000, ge=1, le=100_000)
    """In flight at once in a serving process, streams not counted; further ones are shed with RESOURCE_EXHAUSTED."""
    unauthenticated_calls_per_minute: int = Field(default=100, ge=1)
    """Limit a peer address of calls without a good key."""

    venues: Annotated[tuple[VenueChoice, ...], NoDecode] = (VenueChoice.AUTO,)
    """``auto``, or venues separated by commas."""
    markets_per_venue: int = Field(default=500, ge=1, le=100_000)
    """How many open markets are followed at most, by volume."""
    window_markets_per_venue: int = Field(default=40, ge=0, le=10_000)
    """How many of these places go first to markets that compare the price at a window's end with that at its start
    (Polymarket's up-or-down ones), by their end within the hour; at most half of all places."""
    discovery_seconds: float = Field(default=300.0, ge=1)
    kalshi_rest_url: str = "https://external-api.kalshi.com/trade-api/v2"
    kalshi_websocket_url: str = "wss://external-api-ws.kalshi.com/trade-api/ws/v2"
    kalshi_key_id: str | None = None
    kalshi_private_key_file: Path | None = None
    kalshi_key: SecretReference | None = None
    """Where the fields ``key_id`` and ``private_key`` are, instead of the two above."""
    polymarket_gamma_url: str = "https://gamma-api.polymarket.com"
    polymarket_clob_url: str = "https://clob.polymarket.com"
    polymarket_data_url: str = "https://data-api.polymarket.com"
    polymarket_websocket_url: str = "wss://ws-subscriptions-clob.polymarket.com/ws/market"
    polymarket_prices_url: str = "wss://ws-live-data.polymarket.com"
    simulated_seed: int = 1
    simulated_speed: float = Field(default=1.0, gt=0, le=10_000)
    simulated_events: int = Field(default=40, ge=1, le=100_000)
    pipelines: int = Field(default=1, ge=1, le=8)
    """Pipeline processes: one leads, the others stand by and take over within the lease's time."""
    lease_seconds: float = Field(default=3.0, ge=0.5, le=60)
    """How long a dead pipeline leader blocks the next one."""
    declarations_file: Path | None = None
    """Reviewed declarations of what venues don't say (exhaustiveness of a series), JSON."""
    tick_retention_days: int = Field(default=14, ge=1)
    depth_seconds: float = Field(default=10.0, ge=0, le=3_600)
    """How often books that changed are recorded for backtests that walk them; 0 for never."""
    depth_levels: int = Field(default=10, ge=1, le=100)
    """How many levels of each side are recorded."""
    link_proposals_seconds: float = Field(default=900.0, ge=0)
    """How often markets of different venues are compared to propose links for review; 0 for never."""

    backtest_workers: int = Field(default=1, ge=0, le=64)
    """Worker processes for backtests that ``run`` starts; 0 leaves them to ``oddstream-server worker`` elsewhere."""
    backtest_memory_mib: int = Field(default=2048, ge=128)
    """What a job may hold in memory; beyond it the job fails, and nothing else suffers."""
    backtest_cpu_seconds: float = Field(default=3600.0, gt=0)
    backtest_wall_seconds: float = Field(default=7200.0, gt=0)
    backtest_shard_rows: int = Field(default=500_000, ge=1_000)
    """About how many rows a job reads at a time."""
    backtest_maximum_attempts: int = Field(default=10, ge=1, le=1000)
    """How often a job may lose its worker."""
    backtests_per_key: int = Field(default=20, ge=1)
    """Backtests and sweeps of one key that may be queued or running."""
    backtests_per_role: Annotated[tuple[tuple[Role, int], ...], NoDecode] = ()
    """The same for keys of some roles: ``<role>=<number>``, by commas."""
    archive_dir: Path | None = None
    """Where closed days are kept as Parquet, reached by every worker; absent: ``archive/`` in the data folder."""

    migrations_dir: Path | None = None
    """Where the migrations are; absent: ``migrations/`` of the checkout."""
    embedded_database: bool = False
    """Set by the supervisor for its workers: the database is the one in the data folder."""
    parent_pid: int | None = None
    """Set by the supervisor for its workers, which die with it."""

    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    log_format: LogFormat = LogFormat.JSON
    log_file: Path | None = None
    """Where log lines go; absent: stderr, or ``<data dir>/logs/server.jsonl`` when stderr is a terminal."""

    @field_validator("venues", mode="before")
    @classmethod
    def _split_venues(cls, value: object) -> object:
        return tuple(v.strip().lower() for v in value.split(",") if v.strip()) if isinstance(value, str) else value

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _split_networks(cls, value: object) -> object:
        return tuple(v.strip() for v in value.split(",") if v.strip()) if isinstance(value, str) else value

    @field_validator("tls_client_roles", "oidc_roles", mode="before")
    @classmethod
    def _split_roles(cls, value: object) -> object:
        return named_roles(value) if isinstance(value, str) else value

    @field_validator("backtests_per_role", mode="before")
    @classmethod
    def _split_limits(cls, value: object) -> object:
        return role_limits(value) if isinstance(value, str) else value

    @field_validator("database_login", "redis_login", "keyring", "kalshi_key", mode="before")
    @classmethod
    def _reference(cls, value: object) -> object:
        return SecretReference.parse(value) if isinstance(value, str) else value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks_parse(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ipaddress.ip_network(network)
        return value

    @field_validator("database_url")
    @classmethod
    def _database_scheme(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        url = value.get_secret_value()
        for scheme in ("postgresql+asyncpg://", "postgresql://", "postgres://"):
            if url.startswith(scheme):
                return SecretStr("postgresql+asyncpg://" + url.removeprefix(scheme))
        raise ValueError("must start with postgresql+asyncpg:// (or postgresql://)")

    @field_validator("redis_url")
    @classmethod
    def _redis_scheme(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        if not value.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must start with redis://, rediss:// or unix://")
        return value

    @model_validator(mode="after")
    def _venues_make_sense(self) -> Self:
        if not self.venues:
            raise ValueError("venues: name at least one of auto, kalshi, polymarket, simulated")
        if VenueChoice.AUTO in self.venues and len(self.venues) > 1:
            raise ValueError("venues: auto stands alone; name the venues instead")
        return self

    @model_validator(mode="after")
    def _plaintext_stays_on_loopback(self) -> Self:
        safe = self.has_tls or self.allow_plaintext_from_the_network
        if not safe and not is_loopback(self.grpc_host):
            raise ValueError(
                "grpc_host: is not a loopback address and this listener has no TLS; "
                "set ODDSTREAM_TLS_CERTIFICATE_FILE and ODDSTREAM_TLS_PRIVATE_KEY_FILE, or "
                "put a TLS edge before it and set ODDSTREAM_ALLOW_PLAINTEXT_FROM_THE_NETWORK=true if you mean it"
            )
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_certificate_file is None) != (self.tls_private_key_file is None):
            raise ValueError("tls_certificate_file and tls_private_key_file: set both or neither")
        if self.tls_client_ca_file is not None and not self.has_tls:
            raise ValueError("tls_client_ca_file: needs ODDSTREAM_TLS_CERTIFICATE_FILE too")
        if self.tls_client_roles and self.tls_client_ca_file is None:
            raise ValueError("tls_client_roles: needs ODDSTREAM_TLS_CLIENT_CA_FILE too")
        return self

    @model_validator(mode="after")
    def _provider_is_whole(self) -> Self:
        if self.oidc_issuer is None:
            return self
        if not self.oidc_audience:
            raise ValueError("oidc_audience: is needed with ODDSTREAM_OIDC_ISSUER; tokens for others are refused by it")
        if not self.oidc_roles:
            raise ValueError("oidc_roles: is needed with ODDSTREAM_OIDC_ISSUER, e.g. traders=trader,everyone=viewer")
        for name, url in (("oidc_issuer", self.oidc_issuer), ("oidc_jwks_url", self.oidc_jwks_url)):
            parts = urlsplit(url or "https://")
            if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
                raise ValueError(f"{name}: must be an https:// address; http:// is for loopback alone")
        return self

    @model_validator(mode="after")
    def _stores_are_set_up(self) -> Self:
        given = (self.vault_secret_id, self.vault_secret_id_file)
        approle = self.vault_role_id is not None and any(given)
        if self.vault_url is not None and not approle and self.vault_token is None:
            raise ValueError(
                "vault_url: needs a way in; set ODDSTREAM_VAULT_ROLE_ID and ODDSTREAM_VAULT_SECRET_ID_FILE, "
                "or ODDSTREAM_VAULT_TOKEN"
            )
        if self.vault_transit_key is not None and self.vault_url is None:
            raise ValueError("vault_transit_key: needs ODDSTREAM_VAULT_URL too")
        needed = {"vault": "vault_url", "vault-database": "vault_url", "aws": "aws_region"}
        for name in ("database_login", "redis_login", "keyring", "kalshi_key"):
            reference: SecretReference | None = getattr(self, name)
            if reference is None:
                continue
            if reference.store not in (*needed, "env", "file"):
                raise ValueError(f"{name}: begins with a store's name: env, file, vault, vault-database or aws")
            setting = needed.get(reference.store)
            if setting is not None and getattr(self, setting) is None:
                raise ValueError(f"{name}: needs {PREFIX}{setting.upper()} too")
        return self

    @model_validator(mode="after")
    def _redis_is_private(self) -> Self:
        if self.redis_url is None or self.allow_plaintext_to_services:
            return self
        url = urlsplit(self.redis_url.get_secret_value())
        if url.scheme == "redis" and not is_loopback(url.hostname or "localhost"):
            raise ValueError(
                "redis_url: is not on loopback and without TLS; use rediss://, "
                "or set ODDSTREAM_ALLOW_PLAINTEXT_TO_SERVICES=true if the network between is yours alone"
            )
        return self

    @model_validator(mode="after")
    def _kalshi_key_is_whole(self) -> Self:
        if (self.kalshi_key_id is None) != (self.kalshi_private_key_file is None):
            raise ValueError("kalshi_key_id and kalshi_private_key_file: set both or neither")
        if self.kalshi_key_id is not None and self.kalshi_key is not None:
            raise ValueError("kalshi_key: holds the key id too; unset ODDSTREAM_KALSHI_KEY_ID and its file")
        return self

    def with_services(self, database_url: str | None, redis_url: str | None) -> Self:
        """These settings with the addresses of the embedded services; None leaves the operator's own."""
        found: dict[str, object] = {}
        if database_url:
            found |= {"database_url": SecretStr(database_url), "embedded_database": True}
        if redis_url:
            found["redis_url"] = SecretStr(redis_url)
        return self.model_copy(update=found)

    def worker_overrides(self) -> dict[str, str]:
        """What a worker's environment has to say beyond this process's own, by setting."""
        overrides = {"embedded_database": str(self.embedded_database)}
        if self.database_url is not None:
            overrides["database_url"] = self.database_url.get_secret_value()
        if self.redis_url is not None:
            overrides["redis_url"] = self.redis_url.get_secret_value()
        if self.log_file is not None:
            overrides["log_file"] = str(self.log_file)
        return overrides

    @property
    def has_tls(self) -> bool:
        return self.tls_certificate_file is not None

    @property
    def database_needs_tls(self) -> bool:
        """True where the database is reached over a network; sockets and loopback are this machine's own."""
        if self.database_url is None or self.allow_plaintext_to_services:
            return False
        host = database_host(self.database_url.get_secret_value())
        return not (host.startswith("/") or is_loopback(host))

    @property
    def named_venues(self) -> tuple[Venue, ...]:
        """The venues named by the operator; empty for ``auto``."""
        return tuple(Venue(v.value) for v in self.venues if v is not VenueChoice.AUTO)


def role_limits(text: str) -> tuple[tuple[Role, int], ...]:
    """``role=number,role=number``.

    :raises ValueError: with the rule.
    """
    limits: dict[Role, int] = {}
    for part in text.split(","):
        role, _, number = (word.strip() for word in part.partition("="))
        if role.upper() not in Role.__members__ or not number.isdecimal() or Role[role.upper()] in limits:
            known = ", ".join(r.name.lower() for r in Role)
            raise ValueError(f"write each role once as role=number, e.g. analyst=5,trader=50; roles are {known}")
        limits[Role[role.upper()]] = int(number)
    return tuple(limits.items())


def named_roles(text: str) -> tuple[tuple[str, Role], ...]:
    """``name=role,name=role``; a name may hold colons and slashes.

    :raises ValueError: with the rule.
    """
    pairs = []
    for part in text.split(","):
        if not part.strip():
            continue
        name, equals, role = part.strip().rpartition("=")
        if not equals or not name or role.upper() not in Role.__members__:
            known = ", ".join(r.name.lower() for r in Role)
            raise ValueError(f"write each as name=role, with one of the roles {known}")
        pairs.append((name, Role[role.upper()]))
    return tuple(pairs)


def database_host(url: str) -> str:
    """The host of a PostgreSQL URL, or the folder of its socket; localhost where it names none."""
    parts = urlsplit(url)
    return parts.hostname or parse_qs(parts.query).get("host", ["localhost"])[0]


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def load_settings() -> Settings:
    """The settings of this process.

    :raises SettingsError: one line a variable; values are not repeated, since they may be secrets.
    """
    try:
        return Settings()
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_input=False, include_url=False, include_context=False):
            name = "_".join(str(part) for part in problem["loc"][:1])
            text = problem["msg"].removeprefix("Value error, ")
            if not name:
                name, _, text = text.partition(": ")
            variables = " and ".join(f"{PREFIX}{n.upper()}" for n in name.split(" and "))
            lines.append(f"{variables}: {text}")
        raise SettingsError("\n".join(lines)) from None


def worker_environment(overrides: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker process: this one's, with settings replaced (names without the prefix)."""
    return {**os.environ, **{f"{PREFIX}{name.upper()}": value for name, value in overrides.items()}}


def set_grpc_cipher_suites(suites: str) -> None:
    """gRPC reads them from the environment when it is first imported, and takes no option for them."""
    os.environ["GRPC_SSL_CIPHER_SUITES"] = suites


def own_environment() -> dict[str, str]:
    """For ``env:`` references."""
    return dict(os.environ)


def aws_environment() -> dict[str, str]:
    """The variables by which AWS tells its workloads who they are."""
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
