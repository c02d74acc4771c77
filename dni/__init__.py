"""Which learning rules are there? Tensors in, tensors out: nothing here waits, talks or touches a file."""

from dni.cadence import Cadence, Periodic
from dni.context import LabelContext
from dni.exact import LossGradient, TrueGradient
from dni.loss import SummedLoss, sum_over_samples
from dni.members import Members, as_tuple, carriers, like, map_members, num_samples
from dni.none import NoGradient
from dni.quality import compare_gradients, compare_parameter_gradients
from dni.recurrent import RecurrentDNI, Span
from dni.recurrent_state import Unrolled
from dni.regression import OptimizerFactory
from dni.schedule import Constant, Cosine, Schedule, Steps
from dni.shadow import Shadow
from dni.source import GradientSource, Need, Signal
from dni.sync import Always, Bernoulli, Every, Never, Piecewise, SyncPolicy
from dni.synthesizers import MLP, Convolutional, Linear, LowRank, Synthesizer
from dni.synthetic import ConditionalSyntheticGradient, SyntheticGradient
from dni.update_probability import UpdateProbability
from dni.window import LossOfSteps

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
    "LossOfSteps",
    "LowRank",
    "Members",
    "Need",
    "Never",
    "NoGradient",
    "OptimizerFactory",
    "Periodic",
    "Piecewise",
    "RecurrentDNI",
    "Schedule",
    "Shadow",
    "Signal",
    "Span",
    "Steps",
    "SummedLoss",
    "SyncPolicy",
    "Synthesizer",
    "SyntheticGradient",
    "TrueGradient",
    "Unrolled",
    "UpdateProbability",
    "as_tuple",
    "carriers",
    "compare_gradients",
    "compare_parameter_gradients",
    "like",
    "map_members",
    "num_samples",
    "sum_over_samples",
]
