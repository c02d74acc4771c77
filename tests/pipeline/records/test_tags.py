"""Does every scalar have a name that says where to look for it, and a sentence that says what it is?"""

from __future__ import annotations

import pytest

from pipeline.records.tags import describe, tag_of

NAMES = {
    "loss": "loss/train",
    "test_accuracy": "accuracy/test",
    "source_loss": "source/loss",
    "gradient_cosine": "sync/cosine/activations",
    "parameter_relative_error": "sync/relative_error/parameters",
    "probe_cosine": "probe/cosine/activations",
    "probe_target_cosine": "probe/target_cosine/activations",
    "probe_parameter_direction_bias": "probe/direction_bias/parameters",
    "relative_update/0.0.weight": "update/relative/0.0.weight",
    "gradient_by_norm/1.weight": "update/gradient_by_norm/1.weight",
    "block_noise_scale/2": "block/noise_scale/2",
    "waiting_share": "pipeline/waiting",
    "width/0": "width/0",
    "alpha/grow": "structure/gate/grow",
    "curvature/rate/stage": "curvature/rate/stage",
    "something new": "source/something new",
}


@pytest.mark.parametrize(("name", "tag"), NAMES.items())
def test_tag_is_family_quantity_and_subject_and_has_a_meaning(name: str, tag: str) -> None:
    assert tag_of(name) == tag
    assert describe(tag).endswith(".") and len(describe(tag)) < 120


def test_tags_are_short_enough_for_a_card() -> None:
    assert max(len(tag) for tag in NAMES.values() if not tag.startswith(("update", "block"))) <= 40


def test_a_family_that_is_not_ours_has_no_meaning() -> None:
    assert describe("mine/of/my/own") == "" == describe("mine")
