"""Asks a judge about whole cells of pictures: in parallel, each question paid for once, stoppable any time.

Place on the path of data: step 7, from cases to answers, which judge_summary.py turns into rates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from psalign.errors import EvaluationError
from psalign.fingerprints import fingerprint
from psalign.progress import Progress

from .cache import JudgeCache
from .cases import Case
from .client import BudgetSpent, JudgeClient
from .question import Judge, Question, Template, orders
from .reply import MALFORMED, Answer

MAX_FAILED_IN_A_ROW = 10  # of failures that no reply caused: the endpoint is down, or refuses our requests


@dataclass(frozen=True)
class Trial:
    """A case, and a question for each order of its pictures. again: one repeated, for self-agreement."""

    case: Case
    questions: tuple[Question, ...]
    again: Question | None = None


@dataclass(frozen=True)
class JudgeTask:
    """The trials of one results file. models: one, or a and b. judged_for: whose users' bans count.

    remarks: what a reader of its rates has to know.
    """

    dataset: str
    base: str
    models: tuple[str, ...]
    template: Template
    trials: tuple[Trial, ...]
    judged_for: str | None = None
    remarks: tuple[str, ...] = ()

    def questions(self) -> list[Question]:
        return [
            question for trial in self.trials for question in (*trial.questions, trial.again) if question is not None
        ]


@dataclass
class Answers:
    """Answers by key. cached: keys that were on disk before; stopped: why not every question was asked."""

    by_key: dict[str, Answer] = field(default_factory=dict)
    cached: set[str] = field(default_factory=set)
    stopped: str | None = None

    def to(self, question: Question) -> Answer | None:
        return self.by_key.get(question.key)


def make_trials(
    cases: Sequence[Case],
    template: Template,
    judge: Judge,
    *,
    models: tuple[str, ...],
    repeat_share: float,
    seed: int = 0,
) -> tuple[Trial, ...]:
    """Trials of cases. repeat_share: share that is asked twice, the same rows for every model, by `seed`."""
    ranked = sorted(range(len(cases)), key=lambda i: fingerprint([seed, cases[i].file_name]))
    twice = set(ranked[: math.ceil(repeat_share * len(cases))])
    trials = []
    for number, case in enumerate(cases):
        asked = tuple(Question(case, template, judge, order, models) for order in orders(template))
        again = Question(case, template, judge, asked[0].order, models, repeat=True) if number in twice else None
        trials.append(Trial(case, asked, again))
    return tuple(trials)


def unasked(questions: Iterable[Question], cache: JudgeCache, *, retry_failed: bool = False) -> list[Question]:
    """Questions without an answer on disk, each once. retry_failed: those that failed count as without."""
    found = {}
    for question in questions:
        answer = cache.answer_to(question)
        if answer is None or (retry_failed and answer.failed):
            found[question.key] = question
    return list(found.values())


def ask_all(
    questions: Sequence[Question],
    client: JudgeClient,
    cache: JudgeCache,
    *,
    concurrency: int = 8,
    retry_failed: bool = False,
    first: Question | None = None,
) -> Answers:
    """Answers to all questions, from the cache or the judge. An answer counts once it is on disk.

    first: asked alone, before any other. Ends early, and says so, where the client's budget is spent.
    Raises EvaluationError for a judge that cannot be used, or fails MAX_FAILED_IN_A_ROW times running.
    """
    todo = unasked(questions, cache, retry_failed=retry_failed)
    asked = {question.key for question in todo}
    answers = Answers()
    for question in [*questions, *([first] if first else [])]:
        answer = cache.answer_to(question)
        if answer is not None and question.key not in asked:
            answers.by_key[question.key] = answer
            answers.cached.add(question.key)
    if not todo:
        return answers
    try:
        if first is not None and first.key not in answers.by_key:
            _settle_first(first, client, cache, answers)
        _ask_in_parallel(todo, client, cache, answers, concurrency)
    except BudgetSpent:
        answers.stopped = f"--max-requests {client.budget.max_requests} is spent"
    return answers


def _settle_first(question: Question, client: JudgeClient, cache: JudgeCache, answers: Answers) -> None:
    """Ask a question about nobody. Raises EvaluationError where the judge cannot answer even that."""
    answer = client.ask(question)
    if not answer.settled or answer.failed == MALFORMED:
        said = f" It says: {client.said}" if client.said else ""
        raise EvaluationError(
            f"{client.judge.host} cannot be asked: {answer.failed} after {answer.requests} tries.{said}",
            hint=_hint(answer.failed),
        )
    cache.add(question.key, answer)
    answers.by_key[question.key] = answer


def _ask_in_parallel(
    todo: Sequence[Question], client: JudgeClient, cache: JudgeCache, answers: Answers, concurrency: int
) -> None:
    def ask(question: Question) -> Answer | None:
        if client.stop.is_set():
            return None
        answer = client.ask(question)
        if answer.settled:
            cache.add(question.key, answer)
        elif client.stop.is_set():  # its tries were cut short
            return None
        return answer

    pool = ThreadPoolExecutor(max_workers=concurrency)
    try:
        futures = {pool.submit(ask, question): question for question in todo}
        _collect(futures, answers)
    finally:  # whatever ends it: what is in flight is waited for, and kept
        client.stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        for future, question in futures.items():
            _keep(future, question, answers)


def _collect(futures: dict[Future[Answer | None], Question], answers: Answers) -> None:
    """Take answers as they come. Raises what a question raised, and EvaluationError after too many failures."""
    waiting, failed_in_a_row = set(futures), 0
    with Progress(total=len(futures), desc="judging", unit="question") as bar:
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                answer = future.result()
                _keep(future, futures[future], answers)
                bar.update()
                failed_in_a_row = failed_in_a_row + 1 if answer is not None and not answer.settled else 0
                if answer is not None and failed_in_a_row >= MAX_FAILED_IN_A_ROW:
                    raise EvaluationError(
                        f"{failed_in_a_row} questions in a row failed, the last one: {answer.failed}.",
                        hint=f"{_hint(answer.failed)} What was judged is kept; the same command goes on.",
                    )


def _keep(future: Future[Answer | None], question: Question, answers: Answers) -> None:
    if future.done() and not future.cancelled() and future.exception() is None:
        answer = future.result()
        if answer is not None:
            answers.by_key[question.key] = answer


def _hint(failed: str | None) -> str:
    return {
        "rejected": "The endpoint rejects our requests: the model must take pictures.",
        "timeout": "Give a longer --timeout-s, or a lower --concurrency.",
        MALFORMED: "Its replies are not the JSON that was asked for: choose a model that keeps to a JSON schema.",
        "busy": "Give a lower --concurrency, or come back later.",
    }.get(str(failed), "Check --endpoint (or OPENAI_BASE_URL; as https://host/v1), and that the server is up.")
