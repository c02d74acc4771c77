"""The runtime: what crosses between stages, who drives them, what is kept."""

from pipeline.carrying import Carrying
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
    ReplayError,
    RunError,
    SaveFailure,
    StageFailure,
)
from pipeline.executor import Result
from pipeline.feed import Batches, KeyedBatches, ReadBatches
from pipeline.keyed import generator
from pipeline.partition import Partition, partition
from pipeline.replay import Replay, replay
from pipeline.run import prepare
from pipeline.stream_batches import StreamBatches
from pipeline.threaded import run_threaded
from pipeline.training import run_simulated, train

__all__ = [
    "Adam",
    "Batches",
    "Carrying",
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
    "Replay",
    "ReplayError",
    "Result",
    "RunError",
    "SaveFailure",
    "Sgd",
    "StageFailure",
    "StreamBatches",
    "generator",
    "partition",
    "prepare",
    "replay",
    "run_simulated",
    "run_threaded",
    "train",
]
