"""Which learning rules are there? Tensors in, tensors out: nothing here waits, talks or touches a file."""

from dni.cadences.blocks import REST, Block, BlockCadence, Box, Piece, Selector, Shapes, split_by_layer, split_in_blocks
from dni.cadences.cadence import Applied, ByFunction, Cadence, Periodic, Phases, RandomCadence, Window
from dni.cadences.confidence import ByConfidence
from dni.cadences.depth import by_depth
from dni.cadences.noise_scale import NoiseScale
from dni.cadences.pace import Draw, Foreseen, Pace
from dni.cadences.rate_rule import RateRule, rate_factor
from dni.cadences.selectors import Channels, Columns, Heads, Layer, Parameter, Quadrants, Rows, Slice
from dni.curvature.cubic import NoRatesError
from dni.curvature.loss_parts import Loss, NoDerivativesError, loss_parts
from dni.curvature.partition import ParameterPartition
from dni.curvature.rate_memory import CurvatureSettings, RateMemory
from dni.curvature.rates import cubic_rates, diagonal_rates, newton_rates, pseudo_inverse_rates
from dni.curvature.second_order import CurvatureRates, Summarise
from dni.curvature.stage import StageBatch, StageCurvature, Subsets, summarise_stage
from dni.curvature.summaries import Summary, derivatives_along, summarise, summary_tensor
from dni.curvature.taylor import is_chain, summarise_chain
from dni.events.action import Action
from dni.events.attach import Attach
from dni.events.event import Event
from dni.events.grow_units import GradMax, Grow, Widen
from dni.events.kernels import ExtendKernel, ResampleKernel, WidenKernel
from dni.events.new_values import ResetLayers, Shock, ShrinkPerturb
from dni.events.plan import MaskPlan, PartPlan, Plan, TensorPlan, UnitPlan
from dni.events.plateau import OnPlateau, PlateauState
from dni.events.prune_units import PruneDormant, PruneUnits
from dni.events.prune_weights import LiftMasks, PruneWeights
from dni.events.recycle import Recycle
from dni.events.reset_active import ResetActive
from dni.events.rewire import Rewire
from dni.events.view import Measure, StageView
from dni.events.when import At, AtRandom, EpochEnds, EverySteps, When, foresee
from dni.few_shot import FewShotClassifier, LogitSynthesizer
from dni.growth.alpha import CosineRamp, LinearRamp, LossRamp, Progress, Ramp, ramp_from_json, ramp_to_json
from dni.growth.attach import apply_edits_, attach_, component_ends
from dni.growth.continuous_kernel import ContinuousConv, GaussianMask
from dni.growth.coordinate_network import CoordinateNetwork, KernelNetwork
from dni.growth.gate import fit_gates_, fold_, gate_, without_gates
from dni.growth.gradmax import auxiliary_gradient, auxiliary_gradient_of_convolutions, gradmax_values
from dni.growth.kernel import extend_kernel_change, narrow_kernel_change, resample_kernel_change, widen_kernel_change
from dni.growth.part import Component, Edit, Insertion, edits_from_json, edits_to_json
from dni.growth.phase import Phase
from dni.growth.widen import identity_convolution, identity_linear, random_units
from dni.hessians.decoupling import Decoupling, estimate_decoupling, measure_decoupling
from dni.hessians.density import SpectralDensity, estimate_density
from dni.hessians.eigen import Eigenpairs, eigenpairs
from dni.hessians.kronecker import KroneckerFactors, kronecker_factors
from dni.hessians.objective import Objective
from dni.hessians.operator import SymmetricOperator
from dni.hessians.overlap import overlap_curve, random_overlap, subspace_overlap
from dni.hessians.products import gauss_newton_operator, hessian_operator
from dni.hessians.rank_one import input_alignment, rank_one_energy
from dni.hessians.trace import DiagonalEstimate, TraceEstimate, estimate_diagonal, estimate_trace
from dni.inputs.input_source import InputSource, ReceivedInput
from dni.inputs.synthetic_input import InputMLP, InputNetwork, SyntheticInput
from dni.landscape.direction import between, filter_normalized, optimizer_step, random_direction, scaled_to
from dni.landscape.network_loss import NetworkLoss
from dni.landscape.slice import Implied, LossSlice, slice_line, slice_plane
from dni.landscape.used_gradient import UsedGradient
from dni.measures.active import (
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
from dni.measures.cka import LinearCKA, linear_cka, unbiased_hsic
from dni.measures.comparison import Comparison
from dni.measures.dormancy import Dormancy, DormantUnits
from dni.measures.held_rows import ProbeShares
from dni.measures.layer_measure import LayerMeasure, mean_over_positions
from dni.measures.logistic import fit_logistic_probe
from dni.measures.movement import measure_update
from dni.measures.probe import grade_source, pull_back
from dni.measures.probes import LinearProbe, LogisticProbes, RidgeProbes
from dni.measures.quality import (
    agreement,
    compare_gradients,
    compare_parameter_gradients,
    grade,
    mean_pairwise_cosine,
    parameter_gradients_by_part,
    split_direction,
    split_error,
)
from dni.measures.rank import Rank, Ranks, effective_rank, stable_rank
from dni.measures.representations import (
    class_contrast,
    compare_dissimilarities,
    dissimilarity,
    fit_linear_probe,
    linear_probe_accuracy,
)
from dni.measures.rsa import RSA, ClassContrast
from dni.members import Members, as_tuple, carriers, like, map_members, num_samples
from dni.pruning.importance import (
    RunningScores,
    score_dormancy,
    score_magnitude,
    score_movement,
    score_random,
    score_taylor,
    score_unit_activity,
    score_unit_norm,
    score_unit_taylor,
    sum_by_unit,
)
from dni.pruning.rewiring import Rewiring, TensorRewiring, kept_after
from dni.pruning.selection import Amount, Count, Scope, Share, select_lowest
from dni.pruning.sparse_training import SET, DenseSparseDense, GradualMagnitude, RigL, SparseTraining
from dni.pruning.sparsity import erdos_renyi, erdos_renyi_epsilon, erdos_renyi_kernel, random_masks, uniform_density
from dni.resets.continual_backprop import ContinualBackprop, UnitUtility
from dni.resets.fresh import fresh_values
from dni.resets.perturbations import Electroshock, ShrinkAndPerturb
from dni.resets.resets import ReDo, UnitReset, overwrite_, whole_layers, zero_biases
from dni.schedules.schedule import Constant, Cosine, CosineRestarts, InTurn, Schedule, Steps, doubling_restarts
from dni.schedules.sync import Alternating, Always, Bernoulli, Every, Never, Piecewise, SyncPolicy, WhenWorse
from dni.schedules.update_probability import UpdateProbability
from dni.sources.context import LabelContext
from dni.sources.critic import Critic, CriticNetwork, SobolevCritic, ValueMLP
from dni.sources.direct_feedback import DirectFeedbackAlignment
from dni.sources.exact import LossGradient, TrueGradient
from dni.sources.feedback import FeedbackMode, convert_to_feedback_alignment
from dni.sources.heads import ConvolutionalHead, Head, LinearHead, MLPHead
from dni.sources.implied import ImpliesLoss, field_loss, implied_loss
from dni.sources.kickback import Kickback
from dni.sources.local_loss import LocalLoss
from dni.sources.loss import SummedLoss, sum_over_samples
from dni.sources.mixture import MixedGradient
from dni.sources.none import NoGradient
from dni.sources.own_labels import OwnLabels
from dni.sources.regression import OptimizerFactory
from dni.sources.remapping import Remappable
from dni.sources.shadow import Shadow
from dni.sources.shrunk import ShrunkGradient
from dni.sources.source import GradientSource, Need, Signal
from dni.sources.sum import Sum, local_parts
from dni.sources.synthesizers import MLP, Convolutional, Linear, LowRank, Synthesizer
from dni.sources.synthetic import ConditionalSyntheticGradient, SyntheticGradient
from dni.sources.unit_changes import UnitFollower
from dni.sources.virtual import VirtualGradient
from dni.sources.zero import ZeroGradient
from dni.sparse.block_coordinate import InCycles, RandomLayers
from dni.sparse.freeze_out import FreezeOut
from dni.sparse.layer_out import LayerOut
from dni.sparse.layerwise_sparse import Only, Rescale, TopOrAll
from dni.sparse.multirate import Multirate
from dni.sparse.participation import Layout, Participation
from dni.structure.change import NewUnits, TensorChange, UnitChange
from dni.structure.coupling import Coupled, units_of, units_read
from dni.structure.fit import fit_
from dni.structure.followers import AxisChange, Side, map_tensor
from dni.structure.forgetting import forget_
from dni.structure.hidden import Hidden, outgoing_norm
from dni.structure.keyed import Keyed
from dni.structure.maturity import correction_gap
from dni.structure.optimizer_state import Memory, group_of
from dni.structure.origin import NEW, Origin
from dni.structure.pieces import PieceState, follow_pieces, merge_mature
from dni.structure.remap import Follower, apply_change, check_untied, follow_tensor
from dni.structure.translated import translate
from dni.structure.unit_axis import UnitAxis, UnitTensor
from dni.structure.units import change_units
from dni.through_time.recurrent import RecurrentDNI, Span
from dni.through_time.recurrent_state import Unrolled
from dni.through_time.window import LossOfSteps
from dni.updates.correction import Correction, Corrector, DiscrepancyCorrection, NesterovLookahead, WeightPrediction
from dni.updates.decay import Coupling, WeightDecay, Within, sliding_windows

__all__ = [
    "MLP",
    "NEW",
    "REST",
    "RSA",
    "SET",
    "Action",
    "Alternating",
    "Always",
    "Amount",
    "Applied",
    "At",
    "AtRandom",
    "Attach",
    "AxisChange",
    "Bernoulli",
    "Block",
    "BlockCadence",
    "Box",
    "ByConfidence",
    "ByFunction",
    "Cadence",
    "Channels",
    "ClassContrast",
    "Columns",
    "Comparison",
    "Component",
    "ConditionalSyntheticGradient",
    "Constant",
    "ContinualBackprop",
    "ContinuousConv",
    "Convolutional",
    "ConvolutionalHead",
    "CoordinateNetwork",
    "Correction",
    "Corrector",
    "Cosine",
    "CosineRamp",
    "CosineRestarts",
    "Count",
    "Coupled",
    "Coupling",
    "Critic",
    "CriticNetwork",
    "CurvatureRates",
    "CurvatureSettings",
    "Decoupling",
    "DenseSparseDense",
    "DiagonalEstimate",
    "DirectFeedbackAlignment",
    "DiscrepancyCorrection",
    "Dormancy",
    "DormantUnits",
    "Draw",
    "Edit",
    "Eigenpairs",
    "Electroshock",
    "EpochEnds",
    "Event",
    "Every",
    "EverySteps",
    "ExtendKernel",
    "FeedbackMode",
    "FewShotClassifier",
    "Follower",
    "Foreseen",
    "FreezeOut",
    "GaussianMask",
    "GradMax",
    "GradientSource",
    "GradualMagnitude",
    "Grow",
    "Head",
    "Heads",
    "Hidden",
    "Implied",
    "ImpliesLoss",
    "InCycles",
    "InTurn",
    "InputMLP",
    "InputNetwork",
    "InputSource",
    "Insertion",
    "KernelNetwork",
    "Keyed",
    "Kickback",
    "KroneckerFactors",
    "LabelContext",
    "Layer",
    "LayerMeasure",
    "LayerOut",
    "LayerPart",
    "Layout",
    "LiftMasks",
    "Linear",
    "LinearCKA",
    "LinearHead",
    "LinearProbe",
    "LinearRamp",
    "LocalLoss",
    "LogisticProbes",
    "LogitSynthesizer",
    "Loss",
    "LossGradient",
    "LossOfSteps",
    "LossRamp",
    "LossSlice",
    "LowRank",
    "MLPHead",
    "MaskPlan",
    "Masks",
    "Measure",
    "Members",
    "Memory",
    "MixedGradient",
    "Multirate",
    "Need",
    "NesterovLookahead",
    "NetworkLoss",
    "Never",
    "NewUnits",
    "NoDerivativesError",
    "NoGradient",
    "NoRatesError",
    "NoiseScale",
    "Objective",
    "OnPlateau",
    "Only",
    "OptimizerFactory",
    "Origin",
    "OwnLabels",
    "Pace",
    "Parameter",
    "ParameterPartition",
    "PartPlan",
    "Participation",
    "Periodic",
    "Phase",
    "Phases",
    "Piece",
    "PieceState",
    "Piecewise",
    "Plan",
    "PlateauState",
    "ProbeShares",
    "Progress",
    "PruneDormant",
    "PruneUnits",
    "PruneWeights",
    "Quadrants",
    "Ramp",
    "RandomCadence",
    "RandomLayers",
    "Rank",
    "Ranks",
    "RateMemory",
    "RateRule",
    "ReDo",
    "ReceivedInput",
    "RecurrentDNI",
    "Recycle",
    "Remappable",
    "ResampleKernel",
    "Rescale",
    "ResetActive",
    "ResetLayers",
    "Rewire",
    "Rewiring",
    "RidgeProbes",
    "RigL",
    "Rows",
    "RunningScores",
    "Schedule",
    "Scope",
    "Selector",
    "Shadow",
    "Shapes",
    "Share",
    "Shock",
    "ShrinkAndPerturb",
    "ShrinkPerturb",
    "ShrunkGradient",
    "Side",
    "Signal",
    "Slice",
    "SobolevCritic",
    "Span",
    "SparseTraining",
    "SpectralDensity",
    "StageBatch",
    "StageCurvature",
    "StageView",
    "Steps",
    "Subsets",
    "Sum",
    "Summarise",
    "Summary",
    "SummedLoss",
    "SymmetricOperator",
    "SyncPolicy",
    "Synthesizer",
    "SyntheticGradient",
    "SyntheticInput",
    "TensorChange",
    "TensorPlan",
    "TensorRewiring",
    "TopOrAll",
    "TraceEstimate",
    "TrueGradient",
    "UnitAxis",
    "UnitChange",
    "UnitFollower",
    "UnitPlan",
    "UnitReset",
    "UnitTensor",
    "UnitUtility",
    "Unrolled",
    "UpdateProbability",
    "UsedGradient",
    "ValueMLP",
    "VirtualGradient",
    "WeightDecay",
    "WeightPrediction",
    "When",
    "WhenWorse",
    "Widen",
    "WidenKernel",
    "Window",
    "Within",
    "ZeroGradient",
    "absolute_distance",
    "active_beyond",
    "agreement",
    "apply_change",
    "apply_edits_",
    "as_tuple",
    "attach_",
    "auxiliary_gradient",
    "auxiliary_gradient_of_convolutions",
    "between",
    "by_depth",
    "carriers",
    "change_units",
    "check_untied",
    "class_contrast",
    "compare_dissimilarities",
    "compare_gradients",
    "compare_parameter_gradients",
    "component_ends",
    "convert_to_feedback_alignment",
    "correction_gap",
    "cubic_rates",
    "derivatives_along",
    "diagonal_rates",
    "dissimilarity",
    "distance_in_deviations",
    "doubling_restarts",
    "edits_from_json",
    "edits_to_json",
    "effective_rank",
    "eigenpairs",
    "erdos_renyi",
    "erdos_renyi_epsilon",
    "erdos_renyi_kernel",
    "estimate_decoupling",
    "estimate_density",
    "estimate_diagonal",
    "estimate_trace",
    "extend_kernel_change",
    "field_loss",
    "filter_normalized",
    "fit_",
    "fit_gates_",
    "fit_linear_probe",
    "fit_logistic_probe",
    "fold_",
    "follow_pieces",
    "follow_tensor",
    "foresee",
    "forget_",
    "fresh_values",
    "gate_",
    "gauss_newton_operator",
    "grade",
    "grade_source",
    "gradmax_values",
    "group_of",
    "hessian_operator",
    "identity_convolution",
    "identity_linear",
    "implied_loss",
    "input_alignment",
    "is_chain",
    "kept_after",
    "kronecker_factors",
    "layer_of",
    "least_active",
    "like",
    "linear_cka",
    "linear_probe_accuracy",
    "local_parts",
    "locate_by_layer",
    "loss_parts",
    "map_members",
    "map_tensor",
    "mean_over_positions",
    "mean_pairwise_cosine",
    "measure_decoupling",
    "measure_update",
    "merge_mature",
    "most_active",
    "narrow_kernel_change",
    "newton_rates",
    "num_samples",
    "optimizer_step",
    "outgoing_norm",
    "overlap_curve",
    "overwrite_",
    "parameter_gradients_by_part",
    "pseudo_inverse_rates",
    "pull_back",
    "ramp_from_json",
    "ramp_to_json",
    "random_direction",
    "random_in_layers",
    "random_masks",
    "random_overlap",
    "random_parameters",
    "random_units",
    "rank_one_energy",
    "rate_factor",
    "relative_distance",
    "resample_kernel_change",
    "reset_to_initial",
    "scaled_to",
    "score_dormancy",
    "score_magnitude",
    "score_movement",
    "score_random",
    "score_taylor",
    "score_unit_activity",
    "score_unit_norm",
    "score_unit_taylor",
    "select_lowest",
    "slice_line",
    "slice_plane",
    "sliding_windows",
    "split_by_layer",
    "split_direction",
    "split_error",
    "split_in_blocks",
    "stable_rank",
    "subspace_overlap",
    "sum_by_unit",
    "sum_over_samples",
    "summarise",
    "summarise_chain",
    "summarise_stage",
    "summary_tensor",
    "translate",
    "unbiased_hsic",
    "uniform_density",
    "units_of",
    "units_read",
    "whole_layers",
    "widen_kernel_change",
    "without_gates",
    "zero_biases",
]
