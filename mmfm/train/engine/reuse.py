"""Which weights ZeRO 3 keeps after a module has run: those that are used again soon.

DeepSpeed looks for the next use in the rest of the recorded step (as far as
`stage3_max_reuse_distance`), module by module, once for every module that runs. That is quadratic:
a model of six layers a modality spent two minutes in its second step. Here it is a look-up, with
the same answer.
"""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from deepspeed.runtime.zero.partitioned_param_coordinator import (
    PartitionedParameterCoordinator as Coordinator,
)
from deepspeed.runtime.zero.partitioned_param_coordinator import iter_params
from deepspeed.utils.z3_leaf_module import z3_leaf_module
from torch import nn

_PRIVATE = "_PartitionedParameterCoordinator__"
SEARCH = f"{_PRIVATE}params_to_release"
by_search = getattr(Coordinator, SEARCH)


@dataclass
class Uses:
    """Where a recorded step uses which weights; a place is a module's index in its order."""

    order: Sequence[nn.Module]
    places: dict[int, list[int]] = field(default_factory=dict)
    numel_before: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        numel = 0
        for place, module in enumerate(self.order):
            self.numel_before.append(numel)
            for parameter in iter_params(module):
                self.places.setdefault(parameter.ds_id, []).append(place)
                numel += parameter.ds_numel

    def distance(self, parameter: Any, place: int) -> float:
        """Numbers of all weights that are used from `place` on before `parameter` is; infinite
        where it isn't any more.
        """
        places = self.places.get(parameter.ds_id, [])
        following = bisect_left(places, place)
        if following == len(places):
            return float("inf")
        return self.numel_before[places[following]] - self.numel_before[place]


def by_lookup(coordinator: Any, module: nn.Module, place: int) -> set[int]:
    """The ids of the weights of `module` to let go, before the module at `place` runs."""
    if z3_leaf_module(module):
        released: set[int] = by_search(coordinator, module, place)
        return released
    order = getattr(coordinator, f"{_PRIVATE}submodule_order")
    uses = getattr(coordinator, "mmfm_uses", None)
    if uses is None or uses.order is not order:
        coordinator.mmfm_uses = uses = Uses(order)
    limit = getattr(coordinator, f"{_PRIVATE}max_reuse_dist_in_numel")
    fetched = getattr(coordinator, f"{_PRIVATE}most_recent_step_id_param_fetched_for")
    return {
        parameter.ds_id
        for parameter in iter_params(module)
        if not parameter.ds_persist
        and fetched[parameter] <= place
        and uses.distance(parameter, place) >= limit
    }


def install() -> None:
    """Have DeepSpeed look up what it would search; like it, once for each module and place."""
    setattr(Coordinator, SEARCH, functools.lru_cache(maxsize=None)(by_lookup))
