"""Does what is drawn for a tensor depend on its name alone?"""

from __future__ import annotations

import torch

from dni.structure.keyed import draw_normal, draw_uniform
from pipeline.randomness.keyed import generator


def test_draws_belong_to_a_name_and_not_to_the_order_of_asking() -> None:
    def keyed(name: str) -> torch.Generator:
        return generator(0, name, 3)

    like = torch.empty(4, 5)
    first = [draw(keyed, "a", like) for draw in (draw_uniform, draw_normal)]
    draw_uniform(keyed, "b", like)
    assert all(
        torch.equal(x, draw(keyed, "a", like)) for x, draw in zip(first, (draw_uniform, draw_normal), strict=True)
    )
    assert not torch.equal(first[0], draw_uniform(keyed, "b", like))
    assert first[0].shape == (4, 5) and first[0].dtype == torch.float32 and float(first[0].min()) >= 0
