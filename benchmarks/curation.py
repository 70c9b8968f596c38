"""How fast `curate` is on many rows, in how much memory, and whether a killed run ends as one that was not.

    python -m benchmarks.curation FOLDER --rows 1000000 --kill

The world is drawn into FOLDER the first time. Memory is sampled every three seconds: of the driver,
and of the largest worker (unique set size, so that pages shared with other processes do not count).
"""

import argparse
import filecmp
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pyarrow.parquet as pq
from ruamel.yaml import YAML

from benchmarks.curation_world import MAX_ROWS_PER_CAPTION, expected_rejects, write_world
from components.presets import preset_sections

ROOT = Path(__file__).parents[1]
MIB = 2**20
SECONDS_BETWEEN_LOOKS = 3.0  # at the memory; looking costs a tenth of a second
MEMORY_LIMIT = "1GB"  # of the decisions


class Peak(NamedTuple):
    """Largest memory seen, in bytes."""

    driver: int
    worker: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument(
        "--kill", action="store_true", help="once more, killed when half of the rows are checked"
    )
    args = parser.parse_args()
    folder = args.folder.resolve() / str(args.rows)
    if not (folder / "raw").exists():
        start = time.monotonic()
        write_world(folder / "raw.partial", args.rows)
        (folder / "raw.partial").rename(folder / "raw")
        print(f"world of {args.rows} rows drawn in {time.monotonic() - start:.0f} s", flush=True)
    write_params(folder)
    print_run(folder, "whole", args.rows, *run(folder, "whole"))
    if args.kill:
        num_tars = len(list((folder / "raw/captions").iterdir()))
        print(
            f"killed after {run(folder, 'killed', kill_after=num_tars // 2)[0]:.0f} s", flush=True
        )
        print_run(folder, "killed", args.rows, *run(folder, "killed"))
        print(f"the same bytes in every file: {same_files(folder / 'whole', folder / 'killed')}")


def write_params(folder: Path) -> None:
    """The preset for photographs with the source and the faults of this world."""
    params = preset_sections("llava-1.5-7b", ROOT)
    curate: dict[str, Any] = params["curate"]
    curate["sources"] = {"captions": {"format": "webdataset", "files": "captions/*.tar"}}
    curate["candidates"]["captions"]["max_rows_per_caption"] = MAX_ROWS_PER_CAPTION
    curate |= {"num_workers": os.cpu_count(), "memory_limit": MEMORY_LIMIT}
    with (folder / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(params, file)


def run(folder: Path, name: str, kill_after: int | None = None) -> tuple[float, Peak]:
    """One run of the stage; seconds by the clock and memory. Killed when `kill_after` pieces are done."""
    shutil.rmtree(folder / name, ignore_errors=True)
    start, peak = time.monotonic(), Peak(0, 0)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "flows.curate", "raw", name]
    with (
        (folder / f"{name}.log").open("a") as log,
        subprocess.Popen(
            command, cwd=folder, env=environment, stderr=log, start_new_session=True
        ) as process,
    ):
        while process.poll() is None:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            now = measure(process.pid)
            peak = Peak(max(peak.driver, now.driver), max(peak.worker, now.worker))
            done = len(list(folder.glob(f"{name}.staging/*/facts/task-*")))
            if kill_after is not None and done >= kill_after:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if kill_after is None and process.returncode != 0:
        sys.exit(f"{folder}/{name}.log: the run ended with {process.returncode}")
    return time.monotonic() - start, peak


def measure(pid: int) -> Peak:
    """Memory of the driver and of the largest of Ray's workers now."""
    try:
        driver = psutil.Process(pid)
        workers = [
            child for child in driver.children(recursive=True) if child.name().startswith("ray::")
        ]
        return Peak(
            driver.memory_full_info().uss,
            max((child.memory_full_info().uss for child in workers), default=0),
        )
    except psutil.NoSuchProcess:
        return Peak(0, 0)


def print_run(folder: Path, name: str, num_rows: int, seconds: float, peak: Peak) -> None:
    """Rate, memory, and what became of the rows beside what should have."""
    report = YAML(typ="safe").load((folder / name / "report.json").read_text())["captions"]
    assert report["rows_in"] == num_rows == report["rows_kept"] + sum(report["rejects"].values())
    kept = sum(
        pq.read_metadata(path).num_rows for path in (folder / name / "samples").rglob("*.parquet")
    )
    assert kept == report["rows_kept"]
    print(
        f"{name}: {num_rows} rows in {seconds:.0f} s, {num_rows / seconds:.0f} rows/s; at most",
        end=" ",
    )
    print(f"{peak.driver / MIB:.0f} MiB in the driver, {peak.worker / MIB:.0f} MiB in a worker")
    print(
        f"  rows in {report['rows_in']} = kept {report['rows_kept']} + rejected {sum(report['rejects'].values())}"
    )
    for reason, planted in sorted(expected_rejects(num_rows).items()):
        print(f"  {reason}: {report['rejects'].get(reason, 0)} (planted {planted})", flush=True)


def same_files(one: Path, other: Path) -> bool:
    """Two folders hold the same files with the same bytes."""
    files = [
        sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
        for root in (one, other)
    ]
    _, different, errors = filecmp.cmpfiles(one, other, files[0], shallow=False)
    return files[0] == files[1] and not different and not errors


if __name__ == "__main__":
    main()
