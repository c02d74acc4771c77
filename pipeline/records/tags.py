"""What is a measured scalar called where a researcher looks at it, and what does it mean?

    family/quantity            of a stage as a whole:      loss/train, pipeline/staleness
    family/quantity/subject    of something in the stage:  sync/cosine/parameters, update/relative/0.weight

The family is what a researcher looks for; TensorBoard groups charts by it. The stage is not in the name: each stage is
a run of TensorBoard, so that all stages lie over one another in one chart. Families and quantities are one or two short
words, because a card of TensorBoard shows some 40 characters of a name.

Stages measure under names of their own (`gradient_cosine`), which is what metrics/*.jsonl says; TensorBoard, findings
and reports say tags.
"""

from __future__ import annotations

__all__ = ["describe", "tag_of"]

_TAGS = {
    "probe_effective_rank": "probe/effective_rank",
    "probe_dormant": "probe/dormant",
    "loss": "loss/train",
    "test_loss": "loss/test",
    "test_accuracy": "accuracy/test",
    "source_loss": "source/loss",
    "input_loss": "source/input_loss",
    "staleness": "pipeline/staleness",
    "fresh_share": "pipeline/fresh",
    "waiting_share": "pipeline/waiting",
    "dropped_share": "pipeline/dropped",
    "samples_per_s": "pipeline/samples_per_s",
}
_PREFIXES = {
    "block_": "block/",
    "relative_update/": "update/relative/",
    "angular_update/": "update/angle/",
    "gradient_by_norm/": "update/gradient_by_norm/",
    "weight_norm/": "update/weight_norm/",
    "alpha/": "structure/gate/",
}
_SIDES = {"gradient_": "activations", "parameter_": "parameters"}
"""Of a stage's gradients: those at its output, and those of its weights."""

_MEANINGS = {
    "loss": "Mean loss of the stage that computes it.",
    "loss/train": "Loss per sample of the training microbatches, as each was learned from, averaged over an interval.",
    "loss/test": "Loss per sample of the evaluation data.",
    "accuracy": "Share of correct answers.",
    "accuracy/test": "Share of the evaluation data that is classified correctly.",
    "source": "What the stage's source of gradients, or of inputs, says of itself.",
    "source/loss": "What the source of the stage's gradients minimises; of synthetic gradients, the error.",
    "source/input_loss": "Error of the stage's synthetic inputs.",
    "sync": "At sync steps, the gradient of the stage's source beside the true one.",
    "sync/cosine": "Cosine between the source's gradient and the true one at sync steps; 1 is the truth.",
    "sync/norm_ratio": "Length of the source's gradient by that of the true one, at sync steps.",
    "sync/projection": "Length of the source's gradient along the true one by that of the true one, at sync steps.",
    "sync/relative_error": "Distance of the source's gradient from the true one by the length of that, at sync steps.",
    "probe": "At evaluations, the gradient that the stage uses for the probe's samples beside that of backprop.",
    "probe/effective_rank": "Directions that the stage's output for the probe uses (exp of an entropy).",
    "probe/dormant": "Share of the units of the stage's output that are all but silent on the probe.",
    "probe/cosine": "Cosine between the gradient that the stage uses for the probe and the true one; 1 is the truth.",
    "update": "How far one update moves a weight.",
    "update/relative": "Length of an update by the length of the weight that it moves.",
    "update/angle": "Angle by which an update turns the weight, in radians.",
    "update/gradient_by_norm": "Length of the averaged gradient times the length of the weight.",
    "update/weight_norm": "Length of the weight before the update.",
    "pipeline": "How the stage spends its time, and how old what it learns from is.",
    "pipeline/staleness": "Versions of the stage from the forward of a microbatch to the use of its gradient.",
    "pipeline/staleness_histogram": "Versions from forward to use of the gradient, of every microbatch of an interval.",
    "pipeline/fresh": "Share of the stage's time that goes into work that is used.",
    "pipeline/waiting": "Share of the stage's time in which nothing was there to handle.",
    "pipeline/dropped": "Share of the stage's time that went into outputs which the stage above dropped.",
    "pipeline/samples_per_s": "Training samples that the stage forwards in a second.",
    "width": "Units of a layer.",
    "density": "Share of a weight's entries that are not pruned.",
    "structure": "Size and cost of the stage as it is.",
    "structure/parameters": "Parameters of the stage.",
    "structure/mflop_per_sample": "Millions of floating-point operations of one sample's forward.",
    "structure/gate": "How far a new part is faded in: 0 is not at all, 1 is wholly.",
    "structure/changes": "What events have done to the stage.",
    "block": "Blocks of the stage that update at a cadence of their own.",
    "block/updates": "Updates of the block so far.",
    "block/length": "Microbatches that an update of the block holds.",
    "block/noise_scale": "Gradient noise scale of the block, in samples.",
    "curvature": "How the loss curves along a step, subset by subset; in a run along the stage's own update.",
    "curvature/rate": "Factor of the update of a subset that the curvature asks for; 1 is as the optimiser proposes.",
    "curvature/used_rate": "Factor that the updates of a subset are scaled by.",
    "curvature/gradient": "Slope of the loss that the stage sees, along the update of a subset.",
    "curvature/hessian": "Second derivative of the loss that the stage sees, along the update of a subset.",
    "curvature/decrease": "Decrease of the loss per sample that the quadratic model promises with these rates.",
    "curvature/decrease_proposed": "The same for the update as the optimiser proposes it.",
    "curvature/unsolved": "Summaries so far that gave no rates.",
    "curvature/lent_rates": "Subsets without a rate of their own yet.",
    "hessian": "Second derivatives of the loss, found by a probe of the run's checkpoints.",
    "representations": "What the stage's output says of the input and the label, found by a probe of the checkpoints.",
    "landscape": "The loss around the weights, found by a probe of the run's checkpoints.",
    "weights": "The entries of a parameter after an update.",
    "weight_gradients": "The entries of a gradient as an update averages it, before it is clipped.",
    "outputs": "What the stage sends to the next one, for the first microbatch after an update.",
    "result": "The run as it ended; the HParams tab compares runs by these.",
    "timeline": "What the stages did at the same time; trace.json has all of it.",
    "time": "Where the time of each stage went.",
    "run/samples_per_s": "Training samples of the whole run per second.",
    "run/staleness": "Mean staleness of a stage, averaged over the stages.",
    "run": "The run as a whole: its settings, its plan, and when it was started and stopped.",
}
"""By family, or by family and quantity: a sentence."""


def tag_of(name: str) -> str:
    """The tag of a scalar that a stage measures under `name`."""
    if name in _TAGS:
        return _TAGS[name]
    for prefix, tags in _PREFIXES.items():
        if name.startswith(prefix):
            return tags + name.removeprefix(prefix)
    if name.startswith("probe_"):
        measure = name.removeprefix("probe_")
        side = "parameters" if measure.startswith("parameter_") else "activations"
        return f"probe/{measure.removeprefix('parameter_')}/{side}"
    for prefix, side in _SIDES.items():
        if name.startswith(prefix) and "/" not in name:
            return f"sync/{name.removeprefix(prefix)}/{side}"
    return name if "/" in name else f"source/{name}"


def describe(tag: str) -> str:
    """What a tag means, in a sentence; empty if its family is not ours."""
    family, _, rest = tag.partition("/")
    return _MEANINGS.get(f"{family}/{rest.partition('/')[0]}", _MEANINGS.get(family, ""))
