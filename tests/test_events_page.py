"""Does the example of events work as it stands in the documentation?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pipeline import prepare

PAGE = Path(__file__).parents[1] / "docs" / "events.md"


def test_example_can_be_run_and_every_event_does_something() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    names: dict[str, Any] = {"__name__": "events"}
    exec(compile(block, str(PAGE), "exec", dont_inherit=True), names)
    prepared = prepare(names["changing"]())
    told = {change.what.partition(":")[0] for change in prepared.changes}
    assert told == {event.label for event in prepared.config.events}
