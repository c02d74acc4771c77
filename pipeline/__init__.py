"""The runtime: what crosses between stages, who drives them, what is kept."""

from pipeline.config import Adam, Config, Data, Sgd
from pipeline.costs import CostModel
from pipeline.errors import (
    CheckpointError,
    ConfigurationError,
    FailureRecord,
    NotFinite,
    PartitionError,
    PipelineError,
    RemoteFailure,
    RunError,
    StageFailure,
)
from pipeline.feed import Batches, KeyedBatches, ReadBatches
from pipeline.keyed import generator
from pipeline.partition import Partition, partition
from pipeline.run import prepare
from pipeline.training import Result, run_simulated, train

__all__ = [
    "Adam",
    "Batches",
    "CheckpointError",
    "Config",
    "ConfigurationError",
    "CostModel",
    "Data",
    "FailureRecord",
    "KeyedBatches",
    "NotFinite",
    "Partition",
    "PartitionError",
    "PipelineError",
    "ReadBatches",
    "RemoteFailure",
    "Result",
    "RunError",
    "Sgd",
    "StageFailure",
    "generator",
    "partition",
    "prepare",
    "run_simulated",
    "train",
]
