"""What is a measured scalar called where a researcher looks at it?

Stages measure under names of their own (`gradient_cosine`); TensorBoard, findings and reports say tags.
"""

from __future__ import annotations

__all__ = ["tag_of"]

_TAGS = {
    "loss": "loss/train",
    "test_loss": "loss/test",
    "source_loss": "loss/source",
    "input_loss": "loss/synthetic_input",
    "test_accuracy": "accuracy/test",
    "gradient_cosine": "cosine_at_sync/activations",
    "parameter_cosine": "cosine_at_sync/parameters",
    "gradient_norm_ratio": "norm_ratio_at_sync/activations",
    "parameter_norm_ratio": "norm_ratio_at_sync/parameters",
    "gradient_projection": "projection_at_sync/activations",
    "parameter_projection": "projection_at_sync/parameters",
    "gradient_relative_error": "relative_error_at_sync/activations",
    "parameter_relative_error": "relative_error_at_sync/parameters",
    "staleness": "pipeline/staleness",
    "fresh_share": "pipeline/fresh",
    "waiting_share": "pipeline/waiting",
    "dropped_share": "pipeline/dropped",
    "samples_per_s": "pipeline/samples_per_s",
}
"""Charts are grouped by the word before the slash, and longer names are cut off there. At sync steps the synthetic
gradient is set beside the true one."""


def tag_of(name: str) -> str:
    """The tag of a scalar that a stage measures under `name`."""
    if name.startswith("probe_"):
        return name.replace("_", "/", 1)
    if name.startswith("block_"):
        return name
    return name if "/" in name else _TAGS.get(name, f"source/{name}")
