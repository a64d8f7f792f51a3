"""A pytest plugin on top of nbval: a cell that writes to stderr fails, and a kernel that dies fails at once.

nbval's lax mode ignores warnings, and after a kernel has died it waits for the whole cell time-out.
"""

import time
from queue import Empty

import pytest
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell


def await_reply(self: RunningKernel, msg_id: str, timeout: float | None = None) -> None:
    """Wait for the reply to `msg_id` as nbval does, but look every second whether the kernel still lives."""
    deadline = time.monotonic() + (timeout or float("inf"))
    while time.monotonic() < deadline:
        try:
            message = self.get_message(stream="shell", timeout=1)
        except Empty:
            if not self.is_alive():
                raise RuntimeError("the kernel died while running this cell") from None
            continue
        if message["parent_header"].get("msg_id") == msg_id:
            return
    raise Empty


RunningKernel.await_reply = await_reply


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Fail the cell if anything was written to stderr: a warning, a progress bar, a log line."""
    result = yield
    if isinstance(item, IPyNbCell):
        written = "".join(output.text for output in item.test_outputs if output.get("name") == "stderr")
        if written:
            item.raise_cell_error("The cell wrote to stderr", written)
    return result
