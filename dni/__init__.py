"""Which learning rules are there? Tensors in, tensors out: nothing here waits, talks or touches a file."""

from dni.cadence import Cadence, Periodic
from dni.context import LabelContext
from dni.correction import Correction, Corrector, DiscrepancyCorrection, NesterovLookahead, WeightPrediction
from dni.critic import Critic, CriticNetwork, SobolevCritic, ValueMLP
from dni.direct_feedback import DirectFeedbackAlignment
from dni.exact import LossGradient, TrueGradient
from dni.feedback import FeedbackMode, convert_to_feedback_alignment
from dni.heads import ConvolutionalHead, Head, LinearHead, MLPHead
from dni.kickback import Kickback
from dni.local_loss import LocalLoss
from dni.loss import SummedLoss, sum_over_samples
from dni.members import Members, as_tuple, carriers, like, map_members, num_samples
from dni.mixture import MixedGradient
from dni.none import NoGradient
from dni.quality import compare_gradients, compare_parameter_gradients
from dni.regression import OptimizerFactory
from dni.schedule import Constant, Cosine, CosineRestarts, Schedule, Steps, doubling_restarts
from dni.shadow import Shadow
from dni.shrunk import ShrunkGradient
from dni.source import GradientSource, Need, Signal
from dni.sync import Alternating, Always, Bernoulli, Every, Never, Piecewise, SyncPolicy, WhenWorse
from dni.synthesizers import MLP, Convolutional, Linear, LowRank, Synthesizer
from dni.synthetic import ConditionalSyntheticGradient, SyntheticGradient
from dni.update_probability import UpdateProbability
from dni.virtual import VirtualGradient
from dni.zero import ZeroGradient

__all__ = [
    "MLP",
    "Alternating",
    "Always",
    "Bernoulli",
    "Cadence",
    "ConditionalSyntheticGradient",
    "Constant",
    "Convolutional",
    "ConvolutionalHead",
    "Correction",
    "Corrector",
    "Cosine",
    "CosineRestarts",
    "Critic",
    "CriticNetwork",
    "DirectFeedbackAlignment",
    "DiscrepancyCorrection",
    "Every",
    "FeedbackMode",
    "GradientSource",
    "Head",
    "Kickback",
    "LabelContext",
    "Linear",
    "LinearHead",
    "LocalLoss",
    "LossGradient",
    "LowRank",
    "MLPHead",
    "Members",
    "MixedGradient",
    "Need",
    "NesterovLookahead",
    "Never",
    "NoGradient",
    "OptimizerFactory",
    "Periodic",
    "Piecewise",
    "Schedule",
    "Shadow",
    "ShrunkGradient",
    "Signal",
    "SobolevCritic",
    "Steps",
    "SummedLoss",
    "SyncPolicy",
    "Synthesizer",
    "SyntheticGradient",
    "TrueGradient",
    "UpdateProbability",
    "ValueMLP",
    "VirtualGradient",
    "WeightPrediction",
    "WhenWorse",
    "ZeroGradient",
    "as_tuple",
    "carriers",
    "compare_gradients",
    "compare_parameter_gradients",
    "convert_to_feedback_alignment",
    "doubling_restarts",
    "like",
    "map_members",
    "num_samples",
    "sum_over_samples",
]
