"""Which learning rules are there? Tensors in, tensors out: nothing here waits, talks or touches a file."""

from dni.active import (
    LayerPart,
    Masks,
    absolute_distance,
    active_beyond,
    distance_in_deviations,
    layer_of,
    least_active,
    locate_by_layer,
    most_active,
    random_in_layers,
    random_parameters,
    relative_distance,
    reset_to_initial,
)
from dni.block_coordinate import InCycles, RandomLayers
from dni.blocks import REST, Block, BlockCadence, Box, Piece, Selector, Shapes, split_by_layer, split_in_blocks
from dni.cadence import Applied, ByFunction, Cadence, Periodic, Phases, RandomCadence, Window
from dni.confidence import ByConfidence
from dni.context import LabelContext
from dni.correction import Correction, Corrector, DiscrepancyCorrection, NesterovLookahead, WeightPrediction
from dni.critic import Critic, CriticNetwork, SobolevCritic, ValueMLP
from dni.decay import Coupling, WeightDecay, Within, sliding_windows
from dni.depth import by_depth
from dni.direct_feedback import DirectFeedbackAlignment
from dni.exact import LossGradient, TrueGradient
from dni.feedback import FeedbackMode, convert_to_feedback_alignment
from dni.few_shot import FewShotClassifier, LogitSynthesizer
from dni.freeze_out import FreezeOut
from dni.heads import ConvolutionalHead, Head, LinearHead, MLPHead
from dni.input_source import InputSource, ReceivedInput
from dni.kickback import Kickback
from dni.layer_out import LayerOut
from dni.layerwise_sparse import Only, Rescale, TopOrAll
from dni.local_loss import LocalLoss
from dni.loss import SummedLoss, sum_over_samples
from dni.members import Members, as_tuple, carriers, like, map_members, num_samples
from dni.mixture import MixedGradient
from dni.movement import measure_update
from dni.multirate import Multirate
from dni.noise_scale import NoiseScale
from dni.none import NoGradient
from dni.own_labels import OwnLabels
from dni.pace import Draw, Foreseen, Pace
from dni.participation import Layout, Participation
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
from dni.rate_rule import RateRule, rate_factor
from dni.recurrent import RecurrentDNI, Span
from dni.recurrent_state import Unrolled
from dni.regression import OptimizerFactory
from dni.representations import (
    class_contrast,
    compare_dissimilarities,
    dissimilarity,
    fit_linear_probe,
    linear_probe_accuracy,
)
from dni.schedule import Constant, Cosine, CosineRestarts, InTurn, Schedule, Steps, doubling_restarts
from dni.selectors import Channels, Columns, Heads, Layer, Parameter, Quadrants, Rows, Slice
from dni.shadow import Shadow
from dni.shrunk import ShrunkGradient
from dni.source import GradientSource, Need, Signal
from dni.sum import Sum, local_parts
from dni.sync import Alternating, Always, Bernoulli, Every, Never, Piecewise, SyncPolicy, WhenWorse
from dni.synthesizers import MLP, Convolutional, Linear, LowRank, Synthesizer
from dni.synthetic import ConditionalSyntheticGradient, SyntheticGradient
from dni.synthetic_input import InputMLP, InputNetwork, SyntheticInput
from dni.update_probability import UpdateProbability
from dni.virtual import VirtualGradient
from dni.window import LossOfSteps
from dni.zero import ZeroGradient

__all__ = [
    "MLP",
    "REST",
    "Alternating",
    "Always",
    "Applied",
    "Bernoulli",
    "Block",
    "BlockCadence",
    "Box",
    "ByConfidence",
    "ByFunction",
    "Cadence",
    "Channels",
    "Columns",
    "ConditionalSyntheticGradient",
    "Constant",
    "Convolutional",
    "ConvolutionalHead",
    "Correction",
    "Corrector",
    "Cosine",
    "CosineRestarts",
    "Coupling",
    "Critic",
    "CriticNetwork",
    "DirectFeedbackAlignment",
    "DiscrepancyCorrection",
    "Draw",
    "Every",
    "FeedbackMode",
    "FewShotClassifier",
    "Foreseen",
    "FreezeOut",
    "GradientSource",
    "Head",
    "Heads",
    "InCycles",
    "InTurn",
    "InputMLP",
    "InputNetwork",
    "InputSource",
    "Kickback",
    "LabelContext",
    "Layer",
    "LayerOut",
    "LayerPart",
    "Layout",
    "Linear",
    "LinearHead",
    "LocalLoss",
    "LogitSynthesizer",
    "LossGradient",
    "LossOfSteps",
    "LowRank",
    "MLPHead",
    "Masks",
    "Members",
    "MixedGradient",
    "Multirate",
    "Need",
    "NesterovLookahead",
    "Never",
    "NoGradient",
    "NoiseScale",
    "Only",
    "OptimizerFactory",
    "OwnLabels",
    "Pace",
    "Parameter",
    "Participation",
    "Periodic",
    "Phases",
    "Piece",
    "Piecewise",
    "Quadrants",
    "RandomCadence",
    "RandomLayers",
    "RateRule",
    "ReceivedInput",
    "RecurrentDNI",
    "Rescale",
    "Rows",
    "Schedule",
    "Selector",
    "Shadow",
    "Shapes",
    "ShrunkGradient",
    "Signal",
    "Slice",
    "SobolevCritic",
    "Span",
    "Steps",
    "Sum",
    "SummedLoss",
    "SyncPolicy",
    "Synthesizer",
    "SyntheticGradient",
    "SyntheticInput",
    "TopOrAll",
    "TrueGradient",
    "Unrolled",
    "UpdateProbability",
    "ValueMLP",
    "VirtualGradient",
    "WeightDecay",
    "WeightPrediction",
    "WhenWorse",
    "Window",
    "Within",
    "ZeroGradient",
    "absolute_distance",
    "active_beyond",
    "agreement",
    "as_tuple",
    "by_depth",
    "carriers",
    "class_contrast",
    "compare_dissimilarities",
    "compare_gradients",
    "compare_parameter_gradients",
    "convert_to_feedback_alignment",
    "dissimilarity",
    "distance_in_deviations",
    "doubling_restarts",
    "fit_linear_probe",
    "grade",
    "grade_source",
    "layer_of",
    "least_active",
    "like",
    "linear_probe_accuracy",
    "local_parts",
    "locate_by_layer",
    "map_members",
    "mean_pairwise_cosine",
    "measure_update",
    "most_active",
    "num_samples",
    "parameter_gradients_by_part",
    "pull_back",
    "random_in_layers",
    "random_parameters",
    "rate_factor",
    "relative_distance",
    "reset_to_initial",
    "sliding_windows",
    "split_by_layer",
    "split_direction",
    "split_error",
    "split_in_blocks",
    "sum_over_samples",
]
