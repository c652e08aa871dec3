"""API keys as operators see them: everything but the secret."""

from dataclasses import dataclass
from enum import StrEnum

from oddstream_server.domain.principal import Role, Scopes


class ApiKeyState(StrEnum):
    ACTIVE = "active"
    ROTATING = "rotating"
    """The secret before the last change is still good."""
    REVOKED = "revoked"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, repr=False)
class Owner:
    """The person who answers for keys. Personal data: sealed where it is stored, and never in a log."""

    name: str = ""
    email: str = ""

    def __bool__(self) -> bool:
        return bool(self.name or self.email)

    def __repr__(self) -> str:
        return "Owner(…)"


@dataclass(frozen=True, slots=True)
class ApiKey:
    key_id: str
    display_name: str
    role: Role
    scopes: Scopes
    environment: str
    """``live`` or ``test``."""
    subject_id: str | None
    """The owner's pseudonym; None where nobody is named."""
    create_time_us: int
    expire_time_us: int | None
    rotate_time_us: int | None
    overlap_end_time_us: int | None
    revoke_time_us: int | None
    last_used_time_us: int | None
    revision: int
    """Grows at each change."""
    owner: Owner = Owner()

    @property
    def prefix(self) -> str:
        """The beginning of the key's text."""
        return f"ods_{self.environment}_{self.key_id.removeprefix('key_')}"

    def state(self, now_us: int) -> ApiKeyState:
        if self.revoke_time_us is not None and self.revoke_time_us <= now_us:
            return ApiKeyState.REVOKED
        if self.expire_time_us is not None and self.expire_time_us <= now_us:
            return ApiKeyState.EXPIRED
        if self.overlap_end_time_us is not None and self.overlap_end_time_us > now_us:
            return ApiKeyState.ROTATING
        return ApiKeyState.ACTIVE

    def holds_admin_power(self, now_us: int) -> bool:
        """True where AdminService can be used with it."""
        return (
            self.role is Role.ADMIN
            and self.state(now_us) in (ApiKeyState.ACTIVE, ApiKeyState.ROTATING)
            and (not self.scopes.services or "AdminService" in self.scopes.services)
        )
