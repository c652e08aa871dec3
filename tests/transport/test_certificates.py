import datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from oddstream_server.transport.certificates import (
    CertificateFiles,
    CertificateStore,
    CertificateUnusable,
    KeyType,
    read_certificate,
)
from tests.authority import Authority, Issued

AUTHORITY = Authority()
FIRST, SECOND = AUTHORITY.issue("first"), AUTHORITY.issue("second")
RSA = AUTHORITY.issue("rsa", rsa=True)


@pytest.fixture
def files(tmp_path: Path) -> CertificateFiles:
    files = CertificateFiles(tmp_path / "server.pem", tmp_path / "server.key")
    FIRST.write(files.certificate, files.private_key)
    return files


def write(files: CertificateFiles, issued: Issued) -> None:
    issued.write(files.certificate, files.private_key)


def test_the_suites_named_are_of_the_key_type_that_the_certificate_lacks(files: CertificateFiles) -> None:
    assert "ECDSA" not in read_certificate(files).key_type.other_suites
    write(files, RSA)
    assert read_certificate(files).key_type is KeyType.RSA
    assert "ECDHE-RSA" not in KeyType.RSA.other_suites


def test_a_new_certificate_is_taken_once_the_files_have_changed(files: CertificateFiles) -> None:
    registry = CollectorRegistry()
    store = CertificateStore(files, registry)
    assert store.changed() is None
    write(files, SECOND)
    fresh = store.changed()
    assert fresh is not None
    assert fresh.chain_pem == SECOND.certificate_pem
    assert store.changed() is None
    assert registry.get_sample_value("oddstream_tls_certificate_loads_total", {"outcome": "used"}) == 2
    expires = registry.get_sample_value("oddstream_tls_certificate_expire_time_seconds")
    assert expires == fresh.expire_time.timestamp()


def test_a_key_that_came_before_its_certificate_leaves_the_old_pair_until_both_are_there(
    files: CertificateFiles,
) -> None:
    registry = CollectorRegistry()
    store = CertificateStore(files, registry)
    files.private_key.write_bytes(SECOND.key_pem)
    assert store.changed() is None
    assert store.current.chain_pem == FIRST.certificate_pem
    assert registry.get_sample_value("oddstream_tls_certificate_loads_total", {"outcome": "refused"}) == 1
    files.certificate.write_bytes(SECOND.certificate_pem)
    assert store.changed() is not None


def test_a_missing_file_leaves_the_old_certificate(files: CertificateFiles) -> None:
    store = CertificateStore(files, CollectorRegistry())
    files.certificate.unlink()
    assert store.changed() is None


def test_a_certificate_of_another_key_type_waits_for_a_restart(files: CertificateFiles) -> None:
    # The suites that keep TLS 1.2 out were named for the first one's type.
    store = CertificateStore(files, CollectorRegistry())
    write(files, RSA)
    assert store.changed() is None
    assert store.current.key_type is KeyType.ECDSA


@pytest.mark.parametrize(
    ("certificate", "key", "says"),
    [
        (b"nothing", FIRST.key_pem, "holds no PEM certificate"),
        (FIRST.certificate_pem, b"nothing", "holds no unencrypted PEM key"),
        (FIRST.certificate_pem, SECOND.key_pem, "is not the key of"),
    ],
)
def test_what_can_not_be_used_is_named_with_its_file_and_nothing_of_the_key(
    files: CertificateFiles, certificate: bytes, key: bytes, says: str
) -> None:
    files.certificate.write_bytes(certificate)
    files.private_key.write_bytes(key)
    with pytest.raises(CertificateUnusable, match=says) as caught:
        read_certificate(files)
    assert SECOND.key_pem.decode().splitlines()[1] not in str(caught.value)


def test_an_expired_certificate_is_refused(files: CertificateFiles) -> None:
    write(files, AUTHORITY.issue("old", lasts=datetime.timedelta(seconds=-1)))
    with pytest.raises(CertificateUnusable, match="has expired"):
        read_certificate(files)


def test_a_certificate_does_not_show_its_key(files: CertificateFiles) -> None:
    assert FIRST.key_pem.decode().splitlines()[1] not in repr(read_certificate(files))
