"""Batch size: more pictures in a pass are faster up to a point, then they do not fit the memory."""

import time
from collections.abc import Callable

import torch

from components.compression.compressor import compress_prepared
from components.methods.method import Method
from components.model.prepared import PreparedPictures, merge

LARGEST = 1024  # pictures
GAIN = 1.05  # that a batch twice as large must bring
PASSES = 3  # timed, of each size


def find_batch_size(model: Method, picture: PreparedPictures) -> int:
    """Find the fastest power of two by passes over copies of one picture.

    Raises torch.OutOfMemoryError if not even one fits.
    """
    return largest_gain(lambda batch_size: picture_rate(model, merge([picture] * batch_size)))


def largest_gain(rate: Callable[[int], float]) -> int:
    """Double while `rate`, pictures per second, grows by GAIN and the memory suffices."""
    best, best_rate = 1, rate(1)
    while best < LARGEST:
        try:
            found = rate(2 * best)
        except torch.OutOfMemoryError:
            return best

        # A gain this small is within the noise, and larger batches need more memory.
        if found < GAIN * best_rate:
            return best
        best, best_rate = 2 * best, found
    return best


def picture_rate(model: Method, pictures: PreparedPictures) -> float:
    """Time some passes: pictures per second of the fastest but for the first, which warms up."""
    seconds = []
    for _ in range(1 + PASSES):
        started = time.perf_counter()
        compress_prepared(model, pictures)  # waits for the device: its result is on the CPU
        seconds.append(time.perf_counter() - started)
    return len(pictures) / min(seconds[1:])
