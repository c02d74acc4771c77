"""Which learning rules are there? Tensors in, tensors out: nothing here waits, talks or touches a file."""

from dni.cadence import Cadence, Periodic
from dni.context import LabelContext
from dni.exact import LossGradient, TrueGradient
from dni.loss import SummedLoss, sum_over_samples
from dni.members import Members, as_tuple, carriers, like, map_members, num_samples
from dni.none import NoGradient
from dni.probe import grade_source, pull_back
from dni.quality import (
    agreement,
    compare_gradients,
    compare_parameter_gradients,
    grade,
    mean_pairwise_cosine,
    parameter_gradients_by_part,
    split_direction,
    split_error,
)
from dni.regression import OptimizerFactory
from dni.representations import (
    class_contrast,
    compare_dissimilarities,
    dissimilarity,
    fit_linear_probe,
    linear_probe_accuracy,
)
from dni.schedule import Constant, Cosine, Schedule, Steps
from dni.shadow import Shadow
from dni.source import GradientSource, Need, Signal
from dni.sync import Always, Bernoulli, Every, Never, Piecewise, SyncPolicy
from dni.synthesizers import MLP, Convolutional, Linear, LowRank, Synthesizer
from dni.synthetic import ConditionalSyntheticGradient, SyntheticGradient
from dni.update_probability import UpdateProbability

__all__ = [
    "MLP",
    "Always",
    "Bernoulli",
    "Cadence",
    "ConditionalSyntheticGradient",
    "Constant",
    "Convolutional",
    "Cosine",
    "Every",
    "GradientSource",
    "LabelContext",
    "Linear",
    "LossGradient",
    "LowRank",
    "Members",
    "Need",
    "Never",
    "NoGradient",
    "OptimizerFactory",
    "Periodic",
    "Piecewise",
    "Schedule",
    "Shadow",
    "Signal",
    "Steps",
    "SummedLoss",
    "SyncPolicy",
    "Synthesizer",
    "SyntheticGradient",
    "TrueGradient",
    "UpdateProbability",
    "agreement",
    "as_tuple",
    "carriers",
    "class_contrast",
    "compare_dissimilarities",
    "compare_gradients",
    "compare_parameter_gradients",
    "dissimilarity",
    "fit_linear_probe",
    "grade",
    "grade_source",
    "like",
    "linear_probe_accuracy",
    "map_members",
    "mean_pairwise_cosine",
    "num_samples",
    "parameter_gradients_by_part",
    "pull_back",
    "split_direction",
    "split_error",
    "sum_over_samples",
]
