"""The progress of a training run: DVCLive files for `dvc plots` and the report, and log lines.

Signs of trouble are among the lines, once each.
"""

from collections.abc import Sequence
from pathlib import Path

from dvclive import Live

from components.files.outputs import json_with
from components.training.diagnostics import RunSettings, findings
from components.training.state import HistoryRow

PATTERNS = ("metrics.json", "plots/metrics/*.tsv")  # of names of what DVCLive writes here


def are_timings(folder: Path) -> bool:
    """Return whether a folder holds the timings of a training."""
    return json_with("seconds_per_step", "data_wait_share")(folder / "metrics.json")


class MetricFiles:
    """DVCLive files and log lines that follow a history, also when it goes back to a checkpoint."""

    def __init__(self, metrics: Path, timings: Path, run: RunSettings) -> None:
        self.folders = (metrics, timings)
        self.run = run
        self.warned: set[str] = set()
        self.shown: list[HistoryRow] = []
        self.lives = self._start_over()

    def follow(self, history: Sequence[HistoryRow]) -> None:
        """Write the new rows; start over when the history no longer begins with the old ones."""
        # Training has gone back to a checkpoint: rows behind it are not true any more.
        if list(history[: len(self.shown)]) != self.shown:
            self.shown, self.lives = [], self._start_over()

        for row in history[len(self.shown) :]:
            for live, values in zip(self.lives, (row.metrics, row.timings), strict=True):
                live.step = row.step
                for name, value in values.items():
                    live.log_metric(name, value)
                live.make_summary()
            print(describe(row, self.run.num_steps), flush=True)
        self.shown = list(history)

        # A sign of trouble stays in the history: it is told once.
        for finding in findings(history, self.run):
            if finding.name not in self.warned:
                self.warned.add(finding.name)
                print(f"train: warning: {finding.message}", flush=True)

    def end(self) -> None:
        for live in self.lives:
            live.end()

    def _start_over(self) -> list[Live]:
        """Empty both folders."""
        lives = []
        for folder in map(str, self.folders):
            # files alone: no experiments, no reports and no figures of the machine
            live = Live(folder, save_dvc_exp=False, dvcyaml=None, report=None, monitor_system=False)
            lives.append(live)
        return lives


def describe(row: HistoryRow, num_steps: int) -> str:
    """Write one line for the log: losses and pace, or everything from a validation."""
    # A step has many metrics; a line has room for its losses.
    is_validation = not row.timings
    values = []
    for name, value in row.metrics.items():
        if is_validation or name.endswith("loss"):
            values.append(f"{name.split('/')[-1].replace('_', ' ')} {value:.4g}")

    line = f"train: step {row.step}/{num_steps}: {', '.join(values)}"
    if is_validation:
        return line

    seconds = row.timings["seconds_per_step"]
    minutes_left = (num_steps - row.step) * seconds / 60
    return f"{line}; {seconds:.2f} s a step, {minutes_left:.1f} min of training left"
