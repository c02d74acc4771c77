"""Are the windows of streams contiguous, and does every epoch begin where the streams do?"""

from __future__ import annotations

import pytest
import torch

from pipeline import Batches, ConfigurationError, StreamBatches


def test_each_stream_goes_on_from_one_window_to_the_next() -> None:
    x = torch.arange(23)
    data = StreamBatches(x, -x, num_streams=2, window=3)
    assert isinstance(data, Batches) and data.steps_per_epoch == 3  # 11 positions a stream
    windows = [next(data.start(step)) for step in range(4)]
    assert [window.tolist() for window, _ in windows] == [
        [[0, 1, 2], [11, 12, 13]],
        [[3, 4, 5], [14, 15, 16]],
        [[6, 7, 8], [17, 18, 19]],
        [[0, 1, 2], [11, 12, 13]],
    ]
    assert all(torch.equal(window, -target) for window, target in windows)
    assert torch.equal(data.peek()[0], windows[0][0])


def test_starting_in_between_gives_what_comes_there() -> None:
    data = StreamBatches(torch.randn(40, 2), torch.arange(40), num_streams=2, window=4)
    whole = [batch for batch, _ in zip(data.start(0), range(12), strict=False)]
    later = [batch for batch, _ in zip(data.start(5), range(7), strict=False)]
    torch.testing.assert_close(later, whole[5:], rtol=0, atol=0)


def test_windows_that_cannot_be_are_refused() -> None:
    x = torch.arange(10)
    with pytest.raises(ConfigurationError, match="10 inputs and 9 labels"):
        StreamBatches(x, x[1:], num_streams=1, window=1)
    with pytest.raises(ConfigurationError, match="4 streams and windows of 3: 12 positions"):
        StreamBatches(x, x, num_streams=4, window=3)
