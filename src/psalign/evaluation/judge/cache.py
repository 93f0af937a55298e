"""Judgements on disk, one JSON line each, so that a crash loses none and none is paid for twice.

Place on the path of data: step 7, beside the judge's client.

A reply counts only once its line is on the disk itself (fsync). After kill -9 at most the questions in
flight, no more than `concurrency`, are asked again. Lines hold no profile: the key is a digest of what was
asked.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from psalign.errors import EvaluationError, OutputError, reason_of
from psalign.files import append_bytes, parse_json

from .question import Question
from .reply import Answer, is_reply


class JudgeCache:
    """Answers by key, in a file with mode 0600 that one process at a time may hold. A context manager.

    Raises OutputError where another process holds it; EvaluationError for a line that is no judgement. A
    torn last line, of a process that was killed while it wrote, is dropped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._hold()
            self.answers = self._read()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> JudgeCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def answer_to(self, question: Question) -> Answer | None:
        """The answer to a question; None where none is known, or its reply has another form."""
        answer = self.answers.get(question.key)
        if answer is None or answer.reply is None:
            return answer
        return answer if is_reply(answer.reply, question.template.reply) else None

    def add(self, key: str, answer: Answer) -> None:
        """Write an answer to disk; only then it counts. Raises OutputError where it cannot be written."""
        line = (json.dumps({"key": key, **asdict(answer)}) + "\n").encode()
        with self._lock:
            append_bytes(self.path, line)
            self.answers[key] = answer

    def _hold(self) -> None:
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise OutputError(
                f"Another process is judging with {self.path}.", hint="Wait for it, or choose another --out."
            ) from err

    def _read(self) -> dict[str, Answer]:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1  # what follows the last line end was torn
        answers = {}
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                record = parse_json(line.decode())
                key = str(record.pop("key"))
                answers[key] = Answer(**record)
            except (ValueError, TypeError, KeyError, AttributeError) as err:
                raise EvaluationError(
                    f"{self.path}, line {number}: no judgement: {reason_of(err)}.",
                    hint="Remove that line: its question is asked again. The others stay as they are.",
                ) from err
        os.ftruncate(self._file, whole)
        return answers
