"""A learner's code, run safely: it ends in time, and the notebook's own state is afterwards as it was before."""

import ctypes
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import numpy as np
import torch

SECONDS = 5.0  # how long a learner's code may run
PATIENCE = 12  # how many times as long, while it loads a module: torch does with the first step of an optimizer


class TooLong(BaseException):
    """Raised inside the learner's code when its time is over; no `except Exception` there catches it."""


def within(seconds: float, work: Callable):
    """work(), or TooLong if it takes more than `seconds`, whatever it catches, raises or returns after that.

    On the main thread an alarm ends it; elsewhere it runs in a thread that is left alone if it will not end.
    """
    if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
        return _with_an_alarm(seconds, work)
    return _in_a_thread(seconds, work)


def _with_an_alarm(seconds: float, work: Callable):
    first, rung, done, delays = None, False, False, random.Random()

    def learners_code():
        return work()

    def ring(number, frame):
        nonlocal first, rung
        if done:
            return
        # Ring again, in case the answer swallows this. At a regular pace that might hit the same spot inside the same
        # `try` for ever; after delays of all lengths, down to microseconds, it comes to hit the spot outside.
        inside = _runs(learners_code, frame) and not _runs(swallowed, frame)
        if inside and _imports(frame) and time.monotonic() - begin < PATIENCE * seconds:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            return
        signal.setitimer(signal.ITIMER_REAL, 10 ** delays.uniform(-6, -4) if rung else 0.1)
        if inside:
            error = TooLong()
            first, rung = first or error, True
            raise error

    def swallowed(unraisable):
        nonlocal first
        if not isinstance(unraisable.exc_value, TooLong):
            hook(unraisable)
        elif unraisable.exc_value is first:
            first = None  # it rang in a destructor, or another place of which Python only reports: the next one counts

    hook, sys.unraisablehook = sys.unraisablehook, swallowed
    begin = time.monotonic()
    handler = signal.signal(signal.SIGALRM, ring)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        value = learners_code()
    except KeyboardInterrupt:
        raise
    except BaseException:
        if not rung:
            raise
    finally:
        done = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        sys.unraisablehook = hook
        if left:  # somebody else's alarm, such as a test runner's: let it go on
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - begin), 0.001), interval)
    if rung:  # also where the answer went on regardless; the first one knows the line
        raise first or TooLong()
    return value


def _runs(function: Callable, frame: FrameType | None) -> bool:
    """Is `function` among the calls that led to `frame`?"""
    while frame and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame is not None


def _imports(frame: FrameType | None) -> bool:
    """Is a module being loaded? To load it takes nobody's time, and a module that is half loaded stays broken."""
    while frame and frame.f_globals.get("__name__") != "importlib._bootstrap":
        frame = frame.f_back
    return frame is not None


def _in_a_thread(seconds: float, work: Callable):
    result = {}

    def run():
        try:
            result["value"] = work()
        except BaseException as error:  # handed on to the caller, below
            result["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not thread.is_alive():
        if "error" in result:
            raise result["error"]
        return result["value"]
    for _ in range(10):  # ask it to stop, for a second; a loop in Python does, at its next step
        if thread.is_alive() and not result:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(TooLong))
            thread.join(0.1)
    error = result.get("error")
    raise error if isinstance(error, TooLong) else TooLong


def _folder() -> str | None:
    with suppress(OSError):  # somebody has removed it
        return os.getcwd()


def _enter(folder: str | None) -> None:
    with suppress(OSError):
        os.chdir(folder or "")


def _set_environment(variables: dict[str, str]) -> None:
    if dict(os.environ) != variables:
        os.environ.clear()
        os.environ.update(variables)


def _set_device(device: torch.device) -> None:
    if torch.get_default_device() != device:  # setting it even to what it is makes every call of torch slower
        torch.set_default_device(None if device == torch.device("cpu") else device)


def _cuda_random_states() -> list[torch.Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


def _set_outputs(streams: tuple) -> None:
    sys.stdout, sys.stderr = streams


# What an answer may change for the whole notebook, each as a function that reads it and one that sets it.
STATE = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, _set_device),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_rng_state, torch.set_rng_state),
    (_cuda_random_states, torch.cuda.set_rng_state_all),
    (np.random.get_state, np.random.set_state),
    (random.getstate, random.setstate),
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (_folder, _enter),
    (lambda: dict(os.environ), _set_environment),
    (lambda: (sys.stdout, sys.stderr), _set_outputs),
)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Begin from seeds of zero and with gradients on; at the end put back all of STATE, grad mode and warning filters.

    >>> with undisturbed():
    ...     torch.set_default_dtype(torch.float64)
    >>> torch.get_default_dtype()
    torch.float32
    """
    before = [(put_back, read()) for read, put_back in STATE]
    with warnings.catch_warnings(), torch.inference_mode(False):  # its end restores grad mode, whatever happened
        random.seed(0)
        np.random.seed(0)
        torch.default_generator.manual_seed(0)
        try:
            yield
        finally:
            for put_back, value in before:
                put_back(value)
