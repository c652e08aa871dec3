"""What the embedded PostgreSQL is set to, and in which words its files say so."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping

MANAGED_SETTINGS = "oddstream.conf"
_SCRAM_ITERATIONS = 4096

# Sized for a laptop that does other things too. What an operator may want to change is theirs to change: these stand
# in a file that postgresql.conf includes first, so a later line there, or ALTER SYSTEM, wins.
SETTINGS: Mapping[str, str] = {
    "max_connections": "100",
    "shared_buffers": "128MB",
    "effective_cache_size": "512MB",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    "max_wal_size": "1GB",
    "min_wal_size": "80MB",
    "checkpoint_completion_target": "0.9",
    "wal_compression": "on",
    # A replica or an archive needs no more than its own line; wal_level can't change without a restart.
    "wal_level": "replica",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "hot_standby": "on",
    # Queries here are short: compiling them costs more than it saves.
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "password_encryption": "scram-sha-256",
    "idle_in_transaction_session_timeout": "60s",
    "logging_collector": "on",
    "log_filename": "postgresql-%a.log",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_truncate_on_rotation": "on",
    "log_file_mode": "0600",
    "log_line_prefix": "%m [%p] %q%u@%d %a ",
    "log_min_duration_statement": "1s",
    "log_lock_waits": "on",
    "log_checkpoints": "off",
    # A statement is logged without the values bound to it: they may be secrets.
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}

HOST_BASED_ACCESS = """\
# The socket lies in a folder that only the owner of these files (and root) can enter, so it needs no password.
local  all          all                trust
local  replication  all                trust
host   all          all  127.0.0.1/32  scram-sha-256
host   all          all  ::1/128       scram-sha-256
host   replication  all  127.0.0.1/32  scram-sha-256
host   replication  all  ::1/128       scram-sha-256
"""


def settings_file(settings: Mapping[str, str]) -> str:
    """The managed file's text."""
    lines = ["# Written by oddstream-server at each start. Your own settings belong into postgresql.conf.\n"]
    lines += (f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in settings.items())
    return "".join(lines)


def scram_verifier(password: str) -> str:
    """What PostgreSQL stores of an ASCII password (RFC 5803, as its own clients compute it)."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, _SCRAM_ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    in_base64 = [base64.b64encode(part).decode() for part in (salt, stored_key, server_key)]
    return f"SCRAM-SHA-256${_SCRAM_ITERATIONS}:{in_base64[0]}${in_base64[1]}:{in_base64[2]}"
