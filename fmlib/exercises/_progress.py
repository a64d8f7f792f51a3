"""Which exercises are done: a small file of JSON, safe to delete, that never stops a notebook."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK_SECONDS = 1.0  # how long to wait for another notebook that is noting progress
HELP = "Set the environment variable FMLIB_PROGRESS to a file that you can write."
_said: set[str] = set()


def path() -> Path:
    """Where progress is kept: FMLIB_PROGRESS, or ~/.fmlib/progress.json. RuntimeError if there is no home."""
    return Path(os.environ.get("FMLIB_PROGRESS") or Path.home() / ".fmlib" / "progress.json")


def load() -> tuple[dict[str, str] | None, str]:
    """The exercises done, {"1.2": "basics.three_bumps"}, and a sentence about what went wrong, or "".

    None where the file cannot be read at all, and so must not be written either.
    """
    try:
        file = path()
        if not file.exists():
            return {}, ""
        if not file.is_file():
            return None, f"Progress cannot be read, {_shown(file)} is not a file. {HELP}"
        text = file.read_text(encoding="utf-8-sig")  # some editors put a mark in front
    except UnicodeDecodeError:
        return _set_aside(file)
    except (OSError, RuntimeError) as error:
        return None, f"Progress cannot be read ({_reason(error)}). {HELP}"
    try:
        done = json.loads(text)["done"]
        if not all(isinstance(name, str) for name in done.values()):
            raise ValueError
        return dict(done), ""
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return _set_aside(file)


def record(number: str, key: str) -> str:
    """Note that an exercise is done; return a sentence for the learner if that failed, once a session, or ""."""
    with _one_at_a_time():
        done, trouble = load()
        if done is not None and done.get(number) != key:
            done[number] = key
            failed = _write(dict(sorted(done.items(), key=_order)))
            trouble = " ".join(sentence for sentence in (trouble, failed) if sentence)
    if trouble in _said:
        return ""
    _said.add(trouble)
    return trouble


def recall(number: str, key: str) -> str:
    """A sentence for the learner who has solved this exercise before and finds it open again, or ""."""
    done, trouble = load()
    return "You have solved it before; that is kept." if (done or {}).get(number) == key else trouble


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Keep the user's other notebooks from noting progress meanwhile; go on without, if no lock is to be had soon."""
    from filelock import FileLock

    lock = None
    with suppress(OSError, RuntimeError):  # it is held for long, or the folder is read-only, or there is none
        # Not beside the progress file: that folder is the user's, and a lock stays behind when it is released.
        user = getattr(os, "getuid", int)()  # 0 on Windows, where each user has a temporary folder
        lock = FileLock(Path(tempfile.gettempdir()) / f"fmlib-progress-{user}.lock")
        lock.acquire(timeout=LOCK_SECONDS, poll_interval=0.01)
    try:
        yield
    finally:
        with suppress(OSError, RuntimeError):
            if lock:
                lock.release()


def _write(done: dict[str, str]) -> str:
    """Write to a temporary file beside the real one, then rename: a reader sees the old file or the new one."""
    temporary = None
    try:
        file = path()
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=file.parent, prefix=file.name, suffix=".tmp", delete=False, encoding="utf-8"
        ) as handle:
            temporary = handle.name
            json.dump({"about": "Exercises done. Safe to delete.", "done": done}, handle, indent=2)
            handle.write("\n")
            handle.flush()
            os.fsync(handle.fileno())
        if file.exists() and not os.access(file, os.W_OK):  # a rename would replace it all the same
            raise PermissionError("the file is read-only")
        os.replace(temporary, file)
        return ""
    except (OSError, RuntimeError) as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        return f"Your answer counts, but it could not be saved ({_reason(error)}). {HELP}"


def _set_aside(file: Path) -> tuple[dict | None, str]:
    bad = file.with_name(file.name + ".bad")
    try:
        os.replace(file, bad)
    except OSError as error:
        reason = f"{_shown(file)} is damaged, and could not be moved: {_reason(error)}"
        return None, f"Progress cannot be read ({reason}). {HELP}"
    return {}, f"Your progress file was damaged. It is now called {bad.name}, and a new one is begun."


def _order(item: tuple[str, str]) -> list[tuple[int, str]]:
    """1.9 before 1.10, for any key: a number with fewer digits is smaller."""
    return [(len(part), part) for part in item[0].split(".")]


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()


def _shown(file: Path) -> str:
    try:
        return "~/" + file.relative_to(Path.home()).as_posix()
    except (ValueError, RuntimeError):
        return str(file)


def line(exercises: list, titles: dict[str, str]) -> str:
    """One line to be posted in a chat: "fmlib: 5 of 26 exercises done (1: 4/6, 2: 1/6, 3: 0/5, 4: 0/5, 5: 0/4)"."""
    chapters = _chapters(exercises, titles, load()[0])
    parts = [f"{chapter}: {sum(ticks)}/{len(ticks)}" for chapter, _, _, ticks in chapters]
    total = sum(sum(ticks) for *_, ticks in chapters)
    return f"fmlib: {total} of {len(exercises)} exercises done ({', '.join(parts)})"


def table(exercises: list, titles: dict[str, str]) -> str:
    """One line for each notebook, its exercises marked [x] or [ ], one line for the course, and that for a chat."""
    done, trouble = load()
    lines, total = [], 0
    width = max(map(len, titles.values())) + 5
    for chapter, title, here, ticks in _chapters(exercises, titles, done):
        total += sum(ticks)
        marks = "  ".join(f"[{'x' if tick else ' '}] {e.number}" for e, tick in zip(here, ticks, strict=True))
        lines.append(f"{f'{chapter}. {title}':{width}}{sum(ticks):2d} of {len(here):2d}   {marks}")
    lines.append(f"{'The course':{width}}{total:2d} of {len(exercises):2d}")
    try:
        lines.append(f"Kept in {_shown(path())}; delete that file to start again.")
    except RuntimeError:
        pass
    return "\n".join(lines + [trouble] * bool(trouble) + ["One line for a chat:", line(exercises, titles)])


def _chapters(exercises: list, titles: dict[str, str], done: dict[str, str] | None) -> list[tuple]:
    """For each notebook its number, its title, its exercises, and whether each is done."""
    chapters = []
    for module, title in titles.items():
        here = [e for e in exercises if e.key.split(".")[0] == module]
        ticks = [(done or {}).get(e.number) == e.key for e in here]
        chapters.append((here[0].number.split(".")[0], title, here, ticks))
    return chapters
