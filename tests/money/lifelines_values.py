"""Makes `lifelines_values.json`: what lifelines, a library for survival analysis, says of made-up lengths of answers.

It was run once, in an environment of its own, since nothing else here needs lifelines and what it depends on:

    python -m venv /tmp/lifelines && /tmp/lifelines/bin/pip install lifelines
    /tmp/lifelines/bin/python tests/money/lifelines_values.py

`test_survival.py` holds the service's own curve against the values.
"""

from __future__ import annotations

import importlib
import json
import random
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_suffix(".json")
# Below 32 tokens the service's bins are exact; above they are 3 % wide, so that its values may differ by that much.
LONGEST_OF_CASES = (31, 31, 31, 5_000, 60_000)
ANSWERS_OF_A_CASE = (12, 40, 200, 200, 400)


def main() -> None:
    """Writes the file."""
    lifelines: Any = importlib.import_module("lifelines")
    mean_until = importlib.import_module("lifelines.utils").restricted_mean_survival_time
    cases: list[dict[str, Any]] = []
    for seed, (longest, count) in enumerate(zip(LONGEST_OF_CASES, ANSWERS_OF_A_CASE, strict=True)):
        rng = random.Random(seed)
        lengths = [1 + int((longest - 1) * rng.betavariate(1.2, 2.5)) for _ in range(count)]
        finished = [rng.random() < 0.6 for _ in lengths]
        fitter = lifelines.KaplanMeierFitter().fit(lengths, finished)
        last = max(lengths)
        # Up to the longest answer only: what comes beyond it is each one's own choice.
        times = sorted({max(1, round(last * share)) for share in (0.1, 0.25, 0.5, 0.75, 0.9)})
        survival = {time: float(fitter.predict(time)) for time in times}
        mean = {time: float(mean_until(fitter, t=time)) for time in (*times, last)}
        remaining = {
            time: (mean[last] - mean[time]) / share for time, share in survival.items() if share > 0 and time < last
        }
        cases.append(
            {
                "answers": list(zip(lengths, finished, strict=True)),
                "survival": list(survival.items()),
                "cap": last,
                "remaining": list(remaining.items()),
            }
        )
    FILE.write_text(json.dumps({"lifelines": lifelines.__version__, "cases": cases}) + "\n", "utf-8")


if __name__ == "__main__":
    main()
