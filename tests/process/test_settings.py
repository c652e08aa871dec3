import os

import pytest

from oddstream_server.domain.principal import Role
from oddstream_server.settings import Settings, SettingsError, VenueChoice, load_settings, worker_environment


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("ODDSTREAM_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_no_setting_at_all_is_the_embedded_default_on_loopback_with_venues_chosen_by_reach():
    settings = load_settings()
    assert settings.database_url is None
    assert settings.redis_url is None
    assert settings.grpc_host == "127.0.0.1"
    assert settings.grpc_port == 50051
    assert settings.operations_port == 9464
    assert settings.venues == (VenueChoice.AUTO,)
    assert settings.named_venues == ()


@pytest.mark.parametrize(
    ("variable", "value", "rule"),
    [
        ("GRPC_PORT", "70000", "less than or equal to 65535"),
        ("GRPC_PORT", "many", "valid integer"),
        ("VENUES", "nasdaq", "'auto', 'kalshi', 'polymarket' or 'simulated'"),
        ("DATABASE_URL", "mysql://u:planted-secret@h/d", "must start with postgresql+asyncpg://"),
        ("REDIS_URL", "http://planted-secret", "must start with redis://"),
        ("TRUSTED_PROXIES", "10.0.0.0/99", "does not appear to be an IPv4 or IPv6 network"),
        ("LOG_LEVEL", "chatty", "should match pattern"),
        ("WORKERS", "0", "greater than or equal to 1"),
    ],
)
def test_a_bad_value_is_refused_by_name_and_rule_and_is_not_repeated(monkeypatch, variable, value, rule):
    monkeypatch.setenv(f"ODDSTREAM_{variable}", value)
    with pytest.raises(SettingsError) as refusal:
        load_settings()
    text = str(refusal.value)
    assert text.startswith(f"ODDSTREAM_{variable}: ")
    assert rule in text
    assert "planted-secret" not in text
    assert refusal.value.__cause__ is None


def test_several_bad_values_are_all_named(monkeypatch):
    monkeypatch.setenv("ODDSTREAM_GRPC_PORT", "-1")
    monkeypatch.setenv("ODDSTREAM_WORKERS", "0")
    with pytest.raises(SettingsError) as refusal:
        load_settings()
    assert {line.partition(":")[0] for line in str(refusal.value).splitlines()} == {
        "ODDSTREAM_GRPC_PORT",
        "ODDSTREAM_WORKERS",
    }


def test_auto_stands_alone(monkeypatch):
    monkeypatch.setenv("ODDSTREAM_VENUES", "auto,kalshi")
    with pytest.raises(SettingsError, match=r"^ODDSTREAM_VENUES: auto stands alone"):
        load_settings()


def test_a_plaintext_listener_off_loopback_needs_the_setting_with_the_frightening_name(monkeypatch):
    monkeypatch.setenv("ODDSTREAM_GRPC_HOST", "0.0.0.0")
    with pytest.raises(SettingsError, match="ODDSTREAM_ALLOW_PLAINTEXT_FROM_THE_NETWORK=true"):
        load_settings()
    monkeypatch.setenv("ODDSTREAM_ALLOW_PLAINTEXT_FROM_THE_NETWORK", "true")
    assert load_settings().grpc_host == "0.0.0.0"


def test_half_a_kalshi_key_is_refused(monkeypatch):
    monkeypatch.setenv("ODDSTREAM_KALSHI_KEY_ID", "4bd4f3d2-0000-4000-8000-000000000000")
    with pytest.raises(SettingsError, match="ODDSTREAM_KALSHI_PRIVATE_KEY_FILE: set both or neither"):
        load_settings()


@pytest.mark.parametrize("scheme", ["postgres://", "postgresql://", "postgresql+asyncpg://"])
def test_every_spelling_of_a_postgresql_url_becomes_asyncpg_and_its_password_stays_out_of_repr(monkeypatch, scheme):
    monkeypatch.setenv("ODDSTREAM_DATABASE_URL", f"{scheme}u:planted-secret@db/oddstream")
    settings = load_settings()
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql+asyncpg://u:planted-secret@db/oddstream"
    assert "planted-secret" not in repr(settings)


def test_settings_refuse_to_change_after_they_were_read():
    with pytest.raises(ValueError, match="frozen"):
        Settings().workers = 3  # type: ignore[misc]  # the point of the test


def test_a_worker_gets_this_environment_with_the_overrides(monkeypatch):
    monkeypatch.setenv("ODDSTREAM_WORKERS", "2")
    environment = worker_environment({"redis_url": "redis://x"})
    assert environment["ODDSTREAM_WORKERS"] == "2"
    assert environment["ODDSTREAM_REDIS_URL"] == "redis://x"


@pytest.mark.parametrize(
    ("url", "needed"),
    [
        ("postgresql://u@/oddstream?host=/run/postgresql", False),
        ("postgresql://u@127.0.0.1/oddstream", False),
        ("postgresql://u@localhost:5433/oddstream", False),
        ("postgresql://u@db.example/oddstream", True),
        ("postgresql://u@10.0.0.7/oddstream", True),
    ],
)
def test_a_database_off_this_machine_needs_tls(monkeypatch, url, needed):
    monkeypatch.setenv("ODDSTREAM_DATABASE_URL", url)
    assert load_settings().database_needs_tls is needed
    monkeypatch.setenv("ODDSTREAM_ALLOW_PLAINTEXT_TO_SERVICES", "true")
    assert not load_settings().database_needs_tls


def test_redis_off_this_machine_needs_tls(monkeypatch):
    monkeypatch.setenv("ODDSTREAM_REDIS_URL", "redis://:planted-secret@cache.example/0")
    with pytest.raises(SettingsError, match="rediss://") as caught:
        load_settings()
    assert "planted-secret" not in str(caught.value)
    monkeypatch.setenv("ODDSTREAM_REDIS_URL", "rediss://:planted-secret@cache.example/0")
    assert load_settings().redis_url is not None


def test_a_listener_on_the_network_is_allowed_with_tls(monkeypatch):
    monkeypatch.setenv("ODDSTREAM_GRPC_HOST", "0.0.0.0")
    monkeypatch.setenv("ODDSTREAM_TLS_CERTIFICATE_FILE", "server.pem")
    with pytest.raises(SettingsError, match="set both or neither"):
        load_settings()
    monkeypatch.setenv("ODDSTREAM_TLS_PRIVATE_KEY_FILE", "server.key")
    assert load_settings().has_tls


def test_limits_of_backtests_are_read_by_role(monkeypatch):
    monkeypatch.setenv("ODDSTREAM_BACKTESTS_PER_ROLE", "analyst=5, trader=50")
    assert load_settings().backtests_per_role == ((Role.ANALYST, 5), (Role.TRADER, 50))
    for wrong in ("emperor=5", "analyst", "analyst=-1", "analyst=5,analyst=6"):
        monkeypatch.setenv("ODDSTREAM_BACKTESTS_PER_ROLE", wrong)
        with pytest.raises(SettingsError, match="each role once as role=number"):
            load_settings()


def test_roles_of_client_certificates_are_read_by_name(monkeypatch):
    monkeypatch.setenv("ODDSTREAM_TLS_CERTIFICATE_FILE", "server.pem")
    monkeypatch.setenv("ODDSTREAM_TLS_PRIVATE_KEY_FILE", "server.key")
    monkeypatch.setenv("ODDSTREAM_TLS_CLIENT_ROLES", "bot=trader, spiffe://x/y=viewer")
    with pytest.raises(SettingsError, match="ODDSTREAM_TLS_CLIENT_CA_FILE"):
        load_settings()
    monkeypatch.setenv("ODDSTREAM_TLS_CLIENT_CA_FILE", "ca.pem")
    assert load_settings().tls_client_roles == (("bot", Role.TRADER), ("spiffe://x/y", Role.VIEWER))
    monkeypatch.setenv("ODDSTREAM_TLS_CLIENT_ROLES", "bot=emperor")
    with pytest.raises(SettingsError, match="viewer, analyst, trader, admin"):
        load_settings()
