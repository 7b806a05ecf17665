"""What becomes of gateways when the process forks, and when it ends."""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from typing import Protocol

from . import _lyss

# How long the end of the process waits for calls that other threads have begun.
_GRACE = 1.0

_open: "weakref.WeakSet[_lyss.Core]" = weakref.WeakSet()
_done = False


def remember(core: _lyss.Core) -> None:
    """Closes the gateway when the process ends, if nobody has."""
    _open.add(core)


class Readable(Protocol):
    """A stream, as the end of its gateway sees it."""

    def _cut(self) -> None: ...


_streams: "weakref.WeakKeyDictionary[_lyss.Core, weakref.WeakSet[Readable]]" = (
    weakref.WeakKeyDictionary()
)


def watch(core: _lyss.Core, stream: Readable) -> None:
    """Ends the stream with its gateway, unless it is being read then."""
    _streams.setdefault(core, weakref.WeakSet()).add(stream)


def cut_unread(core: _lyss.Core) -> None:
    """Ends the streams of a gateway that nobody waits for: its end would wait for them."""
    for stream in list(_streams.get(core, ())):
        stream._cut()


def installed() -> None:
    """Makes sure that forks and the end of the process are told of."""
    global _done
    if _done:
        return
    _done = True
    atexit.register(_close_all)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_before, after_in_parent=_in_parent, after_in_child=_in_child
        )


def _close_all() -> None:
    for core in list(_open):
        cut_unread(core)
        core.close(_GRACE)


def _before() -> None:
    for core in list(_open):
        core.before_fork()


def _in_parent() -> None:
    for core in list(_open):
        core.after_fork_in_parent()


def _in_child() -> None:
    _lyss.after_fork_in_child()
    for core in list(_open):
        core.after_fork_in_child()
    for name in ("lyss._loop", "lyss._extend"):
        module = sys.modules.get(name)
        if module is not None:
            module.forget_loops()
    # Children of multiprocessing end without `atexit`, and forget what was to be done at the end before they begin.
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.register_after_fork(_lyss, _at_end_of_child)


def _at_end_of_child(_: object) -> None:
    from multiprocessing import util

    util.Finalize(None, _close_all, exitpriority=0)
