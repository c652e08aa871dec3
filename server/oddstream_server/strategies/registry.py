"""Which kinds there are: the built-in ones and those that installed packages add by an entry point.

A package adds kinds by an entry point of the group ``oddstream.strategies`` whose object is a
:class:`~oddstream_server.strategies.kernel.StrategyKind`.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from typing import Final

from oddstream_server.domain.errors import FieldViolation, InvalidArgument
from oddstream_server.domain.strategy import StrategyDescription, StrategyOrigin, StrategyParameter, StrategySetting
from oddstream_server.strategies.gate import Gate, GateParams
from oddstream_server.strategies.kernel import Kernel, StrategyKind
from oddstream_server.strategies.kinds.cross_venue import CROSS_VENUE
from oddstream_server.strategies.kinds.event_sum import EVENT_SUM
from oddstream_server.strategies.kinds.expiry_decay import EXPIRY_DECAY
from oddstream_server.strategies.kinds.imbalance import IMBALANCE
from oddstream_server.strategies.kinds.large_trade import LARGE_TRADE
from oddstream_server.strategies.kinds.longshot import LONGSHOT
from oddstream_server.strategies.kinds.mean_reversion import MEAN_REVERSION
from oddstream_server.strategies.kinds.mispricing import MISPRICING
from oddstream_server.strategies.kinds.momentum import MOMENTUM
from oddstream_server.strategies.kinds.monotone import MONOTONE
from oddstream_server.strategies.kinds.volume_spike import VOLUME_SPIKE
from oddstream_server.strategies.params import Params

ENTRY_POINT_GROUP: Final = "oddstream.strategies"
BUILT_IN: Final = (
    CROSS_VENUE,
    EVENT_SUM,
    EXPIRY_DECAY,
    IMBALANCE,
    LARGE_TRADE,
    LONGSHOT,
    MEAN_REVERSION,
    MISPRICING,
    MOMENTUM,
    MONOTONE,
    VOLUME_SPIKE,
)


class StrategyLoadError(Exception):
    """An installed package's entry point can't be used; the text names it and says what to change."""


@dataclass(frozen=True, slots=True)
class ConfiguredStrategy:
    """A kind with the parameters that it runs with.

    ``strategy_id`` is the kind, with a suffix behind a colon where several configurations of one kind run.
    """

    strategy_id: str
    kernel: Kernel
    gate: Gate
    origin: StrategyOrigin
    setting: StrategySetting | None = None
    """What an operator made of it; None where it runs as delivered."""

    @property
    def kind(self) -> StrategyKind:
        return self.kernel.kind

    @property
    def params(self) -> Params:
        return self.kernel.params

    @property
    def params_digest(self) -> str:
        """SHA-256 over the strategy's and the gate's parameters: both decide what is signalled."""
        return hashlib.sha256(f"{self.params.digest()}/{self.gate.digest()}".encode()).hexdigest()

    def describe(self) -> StrategyDescription:
        kind, rules = self.kind, self.kind.params_type.rules()
        return StrategyDescription(
            strategy_id=self.strategy_id,
            kind=kind.kind,
            kind_version=kind.version,
            display_name=kind.display_name,
            description=kind.description,
            formula_source=kind.formula_source,
            strength_map=kind.strength_map,
            enabled=kind.enabled_by_default if self.setting is None else self.setting.enabled,
            parameters=tuple(
                StrategyParameter(
                    name=name,
                    value=getattr(self.params, name),
                    default=rules[name].default,
                    minimum=rules[name].minimum,
                    maximum=rules[name].maximum,
                    unit=rules[name].unit,
                    description=rules[name].description,
                )
                for name in sorted(rules)
            ),
            params_digest=self.params_digest,
            params_revision=1 if self.setting is None else self.setting.params_revision,
            input_columns=kind.columns,
            warm_up_us=kind.warm_up_us,
            group=kind.group,
            origin=self.origin,
            update_time_us=None if self.setting is None else self.setting.update_time_us,
        )


class Registry:
    """The kinds by name."""

    def __init__(self, kinds: Iterable[StrategyKind] = BUILT_IN) -> None:
        self._kinds: dict[str, tuple[StrategyKind, StrategyOrigin]] = {}
        for kind in kinds:
            self.add(kind, StrategyOrigin.BUILT_IN)

    def add(self, kind: StrategyKind, origin: StrategyOrigin) -> None:
        """:raises StrategyLoadError: the name is taken."""
        if kind.kind in self._kinds:
            raise StrategyLoadError(f"there are two strategies of kind {kind.kind!r}; remove or rename one of them")
        self._kinds[kind.kind] = (kind, origin)

    def load_entry_points(self) -> None:
        """Add what installed packages offer, in the order of their names.

        :raises StrategyLoadError: an entry point can't be loaded or isn't a StrategyKind.
        """
        for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda p: p.name):
            try:
                loaded = point.load()
            except Exception as error:
                raise StrategyLoadError(
                    f"strategy entry point {point.name!r} ({point.value}) can't be loaded: fix or uninstall its package"
                ) from error
            if not isinstance(loaded, StrategyKind):
                raise StrategyLoadError(
                    f"strategy entry point {point.name!r} ({point.value}) must be a StrategyKind, "
                    f"got {type(loaded).__name__}"
                )
            self.add(loaded, StrategyOrigin.ENTRY_POINT)

    def __iter__(self) -> Iterator[StrategyKind]:
        """The kinds by ascending name."""
        return (self._kinds[name][0] for name in sorted(self._kinds))

    def kind(self, name: str) -> StrategyKind:
        """:raises InvalidArgument: there is no such kind; the violation lists those there are."""
        if name not in self._kinds:
            raise InvalidArgument(
                [FieldViolation("kind", f"{name!r} is unknown; use one of {', '.join(sorted(self._kinds))}")]
            )
        return self._kinds[name][0]

    def configure(
        self,
        name: str,
        params: Mapping[str, int] | None = None,
        *,
        gate: GateParams | None = None,
        suffix: str = "",
    ) -> ConfiguredStrategy:
        """A kind with parameters, defaults filled in.

        :raises InvalidArgument: unknown kind or parameter, or a value out of bounds.
        """
        kind = self.kind(name)
        if suffix and not re.fullmatch(r"[a-z0-9_.-]{1,40}", suffix):
            raise InvalidArgument(
                [FieldViolation("suffix", "must be 1 to 40 of a-z, 0-9, '_', '.', '-', or empty for the only one")]
            )
        return ConfiguredStrategy(
            strategy_id=f"{name}:{suffix}" if suffix else name,
            kernel=Kernel(kind, kind.params_type.from_mapping(params or {})),
            gate=Gate(gate or GateParams()),
            origin=self._kinds[name][1],
        )

    def configure_all(self) -> tuple[ConfiguredStrategy, ...]:
        """Every kind with its defaults, by ascending name."""
        return tuple(self.configure(kind.kind) for kind in self)

    def configured(self, settings: Iterable[StrategySetting]) -> tuple[ConfiguredStrategy, ...]:
        """Every kind that is switched on, with what operators made of it, by ascending name."""
        by_id = {setting.strategy_id: setting for setting in settings}
        found = (self.with_setting(kind.kind, by_id.get(kind.kind)) for kind in self)
        return tuple(strategy for strategy in found if strategy.describe().enabled)

    def with_setting(self, name: str, setting: StrategySetting | None) -> ConfiguredStrategy:
        """A kind with what an operator made of it.

        Parameters that this release's rules refuse are not run with, nor replaced by others that nobody chose: the
        strategy is switched off.

        :raises InvalidArgument: there is no such kind.
        """
        try:
            configured = self.configure(name, None if setting is None else setting.params)
        except InvalidArgument:
            if setting is None or name not in self._kinds:
                raise
            configured, setting = self.configure(name), replace(setting, enabled=False)
        return replace(configured, setting=setting)

    # --- for those who change strategies --------------------------------------------------------------------------

    def strategy_ids(self) -> Sequence[str]:
        return sorted(self._kinds)

    def describe(self, strategy_id: str, setting: StrategySetting | None) -> StrategyDescription | None:
        """None where there is no such strategy."""
        return self.with_setting(strategy_id, setting).describe() if strategy_id in self._kinds else None

    def check(self, strategy_id: str, params: Mapping[str, int]) -> None:
        """:raises InvalidArgument: STRATEGY_PARAMETER_INVALID; each violation names its parameter."""
        try:
            self.configure(strategy_id, params)
        except InvalidArgument as error:
            raise InvalidArgument(error.violations, reason="STRATEGY_PARAMETER_INVALID") from None
