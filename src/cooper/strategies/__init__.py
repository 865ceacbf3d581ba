"""How a run is laid out over processes: ``strategy=...``."""

from cooper.strategies.ddp import DataParallelStrategy, ProcessesStrategy
from cooper.strategies.engine import Engine
from cooper.strategies.engines import Engines, make_engines
from cooper.strategies.fsdp import ShardedStrategy
from cooper.strategies.zero import ZeroStrategy

__all__ = [
    "DataParallelStrategy",
    "Engine",
    "Engines",
    "ProcessesStrategy",
    "ShardedStrategy",
    "ZeroStrategy",
    "make_engines",
]
