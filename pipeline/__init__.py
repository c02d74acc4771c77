"""The runtime: what crosses between stages, who drives them, what is kept."""

from pipeline.configuration.config import Adam, Config, Data, Sgd
from pipeline.configuration.partition import Partition, partition
from pipeline.configuration.run import prepare
from pipeline.data.feed import Batches, KeyedBatches, ReadBatches
from pipeline.data.stream_batches import StreamBatches
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
    StructureError,
)
from pipeline.executors.executor import Result
from pipeline.executors.threaded import run_threaded
from pipeline.executors.training import run_simulated, train
from pipeline.learners.carrying import Carrying
from pipeline.randomness.keyed import generator
from pipeline.records.network_file import load
from pipeline.replay.replay import Replay, replay
from pipeline.virtual_time.costs import CostModel

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
    "StructureError",
    "generator",
    "load",
    "partition",
    "prepare",
    "replay",
    "run_simulated",
    "run_threaded",
    "train",
]
