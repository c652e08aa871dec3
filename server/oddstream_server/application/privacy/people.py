"""The people who own keys: under a pseudonym, with name and e-mail sealed."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace

from oddstream_server.application.ports import KeyDirectory, SealedSubject, SubjectRecords
from oddstream_server.application.secrets.sealing import Sealer
from oddstream_server.domain.api_key import ApiKey, Owner

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_PSEUDONYM_CHARACTERS = 26
_EMAIL = "owner e-mail"


class People:
    """Seals and opens owners.

    :param token_issuer: whose access tokens are taken; empty for nobody's.
    """

    def __init__(self, sealer: Sealer, directory: KeyDirectory, token_issuer: str = "") -> None:
        self._sealer = sealer
        self._directory = directory
        self._token_issuer = token_issuer

    def outside_names(self, name: str) -> tuple[str, ...]:
        """The pseudonyms of who comes without a key of ours: as a token's subject, and as a certificate's name."""
        return token_pseudonym(self._sealer, self._token_issuer, name), certificate_pseudonym(self._sealer, name)

    def indexes(self, email: str) -> tuple[bytes, ...]:
        """What an address is found by; capitals and spaces around it don't matter."""
        return self._sealer.indexes(_normal(email), _EMAIL)

    async def keep(
        self, records: SubjectRecords, owner: Owner, now_us: int, current_subject_id: str | None = None
    ) -> str | None:
        """Store an owner; answers the pseudonym, None where nobody is named.

        A person is known by the e-mail address: keys with the same one have the same owner, whose name is the latest
        given. Without an address each key has an owner of its own.

        :param current_subject_id: of the key so far; kept where it is the same person still.
        """
        if not owner:
            return None
        known = await records.find_by_email(self.indexes(owner.email)) if owner.email else None
        if known is None and current_subject_id is not None:
            current = await records.get(current_subject_id)
            if current is not None and (current.email_sealed is None or not owner.email):
                known = current
        subject_id = known.subject_id if known else _pseudonym()
        place = f"subjects/{subject_id}"
        name = owner.name or (self.owner_of(known).name if known and owner.email else "")
        await records.put(
            SealedSubject(
                subject_id=subject_id,
                email_index=self._sealer.index(_normal(owner.email), _EMAIL) if owner.email else None,
                name_sealed=self._sealer.seal_text(name, f"{place}/name") if name else None,
                email_sealed=self._sealer.seal_text(owner.email, f"subjects/{subject_id}/email")
                if owner.email
                else None,
                create_time_us=known.create_time_us if known else now_us,
            )
        )
        return subject_id

    def owner_of(self, subject: SealedSubject) -> Owner:
        """:raises SealBroken: a field was changed in the database, or its key is lost."""
        name, email = subject.name_sealed, subject.email_sealed
        return Owner(
            name=self._sealer.open_text(name, f"subjects/{subject.subject_id}/name") if name else "",
            email=self._sealer.open_text(email, f"subjects/{subject.subject_id}/email") if email else "",
        )

    async def with_owners(self, keys: Sequence[ApiKey]) -> tuple[ApiKey, ...]:
        """The same keys with their owners, read in one query."""
        wanted = sorted({key.subject_id for key in keys if key.subject_id is not None})
        found: Mapping[str, SealedSubject] = await self._directory.subjects(wanted)
        owners = {subject_id: self.owner_of(subject) for subject_id, subject in found.items()}
        return tuple(replace(key, owner=owners.get(key.subject_id or "", Owner())) for key in keys)

    async def with_owner_in(self, records: SubjectRecords, key: ApiKey) -> ApiKey:
        """The same within a change."""
        subject = await records.get(key.subject_id) if key.subject_id is not None else None
        return key if subject is None else replace(key, owner=self.owner_of(subject))


def token_pseudonym(sealer: Sealer, issuer: str, subject: str) -> str:
    """What a caller with an access token is called here: providers' subjects may be names or addresses."""
    return sealer.pseudonym(f"{issuer}\n{subject}", "token subject")


def certificate_pseudonym(sealer: Sealer, name: str) -> str:
    return sealer.pseudonym(name, "certificate name")


def _normal(email: str) -> str:
    return email.strip().casefold()


def _pseudonym() -> str:
    return "sub_" + "".join(secrets.choice(_ALPHABET) for _ in range(_PSEUDONYM_CHARACTERS))
