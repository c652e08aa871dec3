"""API keys, as messages and from them."""

from oddstream.v1 import access_pb2, admin_service_pb2, api_key_pb2
from oddstream_server.application.keys.administration import KeyUpdate, NewKey, key_etag
from oddstream_server.application.keys.key_format import KeyMode
from oddstream_server.application.ports import ApiKeyFilter
from oddstream_server.domain.api_key import ApiKey, ApiKeyState, Owner
from oddstream_server.domain.principal import Role, Scopes
from oddstream_server.transport.converters.values import (
    VENUES,
    chosen,
    enum_table,
    instant_us,
    one,
    stamp,
    timestamp,
    word,
)

ROLES = enum_table(Role, access_pb2.Role, "ROLE")
STATES = enum_table(ApiKeyState, api_key_pb2.ApiKeyState, "API_KEY_STATE")
ENVIRONMENTS = {
    KeyMode.LIVE.value: api_key_pb2.API_KEY_ENVIRONMENT_LIVE,
    KeyMode.TEST.value: api_key_pb2.API_KEY_ENVIRONMENT_TEST,
}


def api_key_message(key: ApiKey, now_us: int) -> api_key_pb2.ApiKey:
    state = key.state(now_us)
    return api_key_pb2.ApiKey(
        api_key_id=key.key_id,
        prefix=key.prefix,
        display_name=key.display_name,
        owner_name=key.owner.name,
        owner_email=key.owner.email,
        role=ROLES[key.role],
        scopes=_scopes_message(key.scopes),
        state=STATES[state],
        environment=ENVIRONMENTS[key.environment],
        create_time=stamp(key.create_time_us),
        expire_time=timestamp(key.expire_time_us),
        rotate_time=timestamp(key.rotate_time_us),
        overlap_end_time=timestamp(key.overlap_end_time_us if state is ApiKeyState.ROTATING else None),
        revoke_time=timestamp(key.revoke_time_us),
        last_used_time=timestamp(key.last_used_time_us),
        etag=key_etag(key),
    )


def _scopes_message(scopes: Scopes) -> api_key_pb2.ApiKeyScopes:
    return api_key_pb2.ApiKeyScopes(
        services=scopes.services,
        venues=[VENUES[venue] for venue in scopes.venues],
        networks=scopes.networks,
        calls_per_minute=scopes.calls_per_minute,
        stream_limit=scopes.stream_limit,
        backtest_limit=scopes.backtest_limit,
    )


def scopes_of(message: api_key_pb2.ApiKeyScopes, field_name: str) -> Scopes:
    return Scopes(
        services=tuple(message.services),
        venues=chosen(VENUES, message.venues, f"{field_name}.venues"),
        networks=tuple(message.networks),
        calls_per_minute=message.calls_per_minute if message.HasField("calls_per_minute") else None,
        stream_limit=message.stream_limit if message.HasField("stream_limit") else None,
        backtest_limit=message.backtest_limit if message.HasField("backtest_limit") else None,
    )


def new_key_of(request: admin_service_pb2.CreateApiKeyRequest) -> NewKey:
    is_test = request.environment == api_key_pb2.API_KEY_ENVIRONMENT_TEST
    return NewKey(
        display_name=word(request.display_name, "display_name"),
        owner=Owner(word(request.owner_name, "owner_name"), word(request.owner_email, "owner_email")),
        role=one(ROLES, request.role, "role"),
        scopes=scopes_of(request.scopes, "scopes"),
        mode=KeyMode.TEST if is_test else KeyMode.LIVE,
        time_to_live_us=request.time_to_live.ToMicroseconds() if request.HasField("time_to_live") else None,
    )


def key_update_of(request: admin_service_pb2.UpdateApiKeyRequest) -> KeyUpdate:
    key, asked = request.api_key, set(request.update_mask.paths)
    return KeyUpdate(
        display_name=word(key.display_name, "api_key.display_name") if "display_name" in asked else None,
        owner_name=word(key.owner_name, "api_key.owner_name") if "owner_name" in asked else None,
        owner_email=word(key.owner_email, "api_key.owner_email") if "owner_email" in asked else None,
        role=one(ROLES, key.role, "api_key.role") if "role" in asked else None,
        scopes=scopes_of(key.scopes, "api_key.scopes") if "scopes" in asked else None,
        expire_time_us=instant_us(key.expire_time, "api_key.expire_time") if "expire_time" in asked else None,
        etag=request.etag,
    )


def key_filter_of(message: admin_service_pb2.ApiKeyFilter) -> ApiKeyFilter:
    return ApiKeyFilter(
        states=chosen(STATES, message.states, "filter.states"), roles=chosen(ROLES, message.roles, "filter.roles")
    )
