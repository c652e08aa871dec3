from importlib.metadata import EntryPoint
from unittest.mock import patch

import pytest

from oddstream_server.domain.errors import InvalidArgument
from oddstream_server.domain.strategy import StrategyOrigin
from oddstream_server.strategies import registry as module
from oddstream_server.strategies.gate import GateParams
from oddstream_server.strategies.registry import BUILT_IN, Registry, StrategyLoadError
from tests.strategies.test_kernels import a_kind

OTHER = a_kind(kind="test.other")
NOT_A_KIND = 5


def points(*values: str) -> list[EntryPoint]:
    return [EntryPoint(f"p{i}", value, module.ENTRY_POINT_GROUP) for i, value in enumerate(values)]


def test_installed_packages_add_kinds() -> None:
    registry = Registry()
    with patch.object(module, "entry_points", lambda group: points(f"{__name__}:OTHER")):
        registry.load_entry_points()
    assert [kind.kind for kind in registry] == sorted([*(kind.kind for kind in BUILT_IN), "test.other"])
    assert registry.configure("test.other").origin is StrategyOrigin.ENTRY_POINT
    assert registry.configure("arb.event_sum").origin is StrategyOrigin.BUILT_IN


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((f"{__name__}:NOT_A_KIND",), "must be a StrategyKind, got int"),
        ((f"{__name__}:ABSENT",), "can't be loaded: fix or uninstall its package"),
        ((f"{__name__}:OTHER", f"{__name__}:OTHER"), r"two strategies of kind 'test\.other'"),
        (("oddstream_server.strategies.kinds.event_sum:EVENT_SUM",), r"two strategies of kind 'arb\.event_sum'"),
    ],
)
def test_an_entry_point_that_cant_be_used_is_refused_by_name(values: tuple[str, ...], text: str) -> None:
    with (
        patch.object(module, "entry_points", lambda group: points(*values)),
        pytest.raises(StrategyLoadError, match=text),
    ):
        Registry().load_entry_points()


def test_an_unknown_kind_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidArgument, match=r"use one of arb\.cross_venue, arb\.event_sum, arb\.monotone"):
        Registry().configure("arb.none")


def test_strategy_ids_are_the_kind_and_a_suffix_where_there_are_several() -> None:
    registry = Registry()
    assert registry.configure("arb.event_sum").strategy_id == "arb.event_sum"
    assert registry.configure("arb.event_sum", suffix="wide").strategy_id == "arb.event_sum:wide"
    with pytest.raises(InvalidArgument, match="suffix"):
        registry.configure("arb.event_sum", suffix="A B")


def test_the_digest_covers_the_parameters_and_the_gate() -> None:
    registry = Registry()
    digests = {
        registry.configure("arb.event_sum").params_digest,
        registry.configure("arb.event_sum", {"maximum_legs": 3}).params_digest,
        registry.configure("arb.event_sum", gate=GateParams(stale_gaps=5)).params_digest,
    }
    assert len(digests) == 3
    assert registry.configure("arb.event_sum", {}).params_digest in digests


def test_the_list_shows_each_strategy_with_its_parameters_and_their_bounds() -> None:
    listed = [strategy.describe() for strategy in Registry().configure_all()]
    assert [s.strategy_id for s in listed] == sorted(kind.kind for kind in BUILT_IN)
    for strategy in listed:
        assert strategy.description
        assert all(p.minimum <= p.value == p.default <= p.maximum for p in strategy.parameters)
