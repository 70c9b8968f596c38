import pytest
from ray import exceptions

from flows.running.causes import cause_in, cause_of, describe

HINT = """
ray.exceptions.UserCodeException: UDF failed to process a data block.
Failed to apply UDF transform after 1/1 attempts (total backoff 0.0s).
To change retry attempts, configure `ray.data.DataContext.get_current()`."""
AFTER = "\n\nThe above exception was the direct cause of the following exception:\n\n"
HEADER = "\x1b[36mray::Map(run)()\x1b[39m (pid=8380, ip=127.0.0.1)\n"
FRAME = """\
  File "/code/cluster.py", line 52, in run
    return {"number": task(row["piece"])}
           ^^^^^^
"""
WORKER = HEADER + FRAME
WRAPPED = AFTER + HEADER + HINT
DIED = """The actor died unexpectedly before finishing this task.
\tclass_name: MapWorker(Map(C))
\tpid: 8648
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR \
Worker exit detail: Worker unexpectedly exits with a connection error code 2."""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            WORKER + "ValueError: /data/x.tar: is cut short" + WRAPPED,
            "/data/x.tar: is cut short",
        ),
        (WORKER + "ValueError: two\nlines: of it" + WRAPPED, "two\nlines: of it"),
        (
            HEADER + "OSError: [Errno 28] No space left on device: '/out/x'" + AFTER + WORKER
            + "RuntimeError: wrapped" + WRAPPED,
            "the disk under /out/x is full",
        ),
        (
            WORKER + "ray.exceptions.RayTaskError(ValueError): " + WORKER
            + "ValueError: /inner: nested" + WRAPPED,
            "/inner: nested",
        ),
        (
            "The actor died because of an error raised in its creation task, " + WORKER
            + "components.store.provenance.StoreError: /models: bad",
            "/models: bad",
        ),
        (
            WORKER + "numpy._core._exceptions._ArrayMemoryError: Unable to allocate",
            "out of memory (Unable to",
        ),
        (WORKER + "MemoryError" + WRAPPED, "out of memory (MemoryError)"),
        (WORKER + "KeyError: 'x'", "KeyError: 'x'; this is a fault of fwd2bot"),
    ],
)  # fmt: skip
def test_cause_of_a_worker_is_found_behind_what_ray_says(text: str, line: str) -> None:
    import components.store.provenance  # noqa: F401  # known to whoever runs such a worker

    cause = cause_in(text)
    assert cause is not None
    assert describe(cause).startswith(line)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (exceptions.LocalRayletDiedError(), "a machine of the cluster, or Ray on it, was lost ("),
        (
            exceptions.NodeDiedError("gone"),
            "a machine of the cluster, or Ray on it, was lost (gone)",
        ),
        (exceptions.WorkerCrashedError(), "a worker was killed, "),
        (
            exceptions.RayActorError("1", DIED),
            "a worker was killed, for its memory or by hand (SYSTEM_ERROR)",
        ),
        (
            exceptions.RayActorError("1", "The actor died because its node has died. x"),
            "a machine of the cluster, ",
        ),
        (
            exceptions.OutOfMemoryError("The node ran low on memory.\nMore."),
            "out of memory (",
        ),
        (exceptions.OutOfDiskError("x"), "the disk under "),
    ],
)
def test_what_ray_loses_is_said_with_the_way_to_go_on(error: Exception, line: str) -> None:
    said = describe(cause_of(error))
    assert said.startswith(line)
    assert "; " in said
    assert "\n" not in said


def test_training_fails_with_the_error_of_a_worker_not_with_lost_connections_of_others() -> None:
    class GroupError(Exception):
        worker_failures = {  # noqa: RUF012
            1: ValueError("/base: is damaged"),
            0: RuntimeError("Connection closed by peer"),
        }

    assert describe(cause_of(GroupError())) == "/base: is damaged"
