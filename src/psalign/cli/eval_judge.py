"""The command `eval judge`: a vision-language model says what pictures show, and which of two is the better."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..files import Record, write_json
from ..llm import require_consent
from .options import a_number, a_path, add_users, at_least, command

if TYPE_CHECKING:
    from ..evaluation.judge.ask import Answers, JudgeTask
    from ..evaluation.judge.client import JudgeClient
    from ..evaluation.judge.cost import Cost
    from ..evaluation.judge.question import Judge, Question

RATES = ("pass", "banned_respected", "allowed_kept", "clean", "self_agreement")
ALL, USER_DATASETS = "all", ("sage_seen", "sage_unseen")  # as the published judge takes "all"
PAIR_RATES = ("a_wins", "b_wins", "ties", "position_bias", "self_agreement")


def judge(arguments: argparse.Namespace) -> int:
    from ..evaluation.judge.ask import ask_all, unasked
    from ..evaluation.judge.cache import JudgeCache
    from ..evaluation.judge.canary import canary_question
    from ..evaluation.judge.client import Budget, Endpoint, JudgeClient

    _check(arguments)
    endpoint = Endpoint(
        arguments.judge_model, arguments.endpoint, arguments.api_version, arguments.timeout_s, arguments.max_retries
    )
    client = JudgeClient(endpoint, budget=Budget(arguments.max_requests))
    tasks = _tasks(arguments, client.judge)
    out = arguments.out or Path(f"results_{arguments.mode}")
    out = out / "test" if arguments.test else out  # a few rows must not pass for all
    with JudgeCache(out / "judgements.jsonl") as cache:
        canary = canary_question(out / "canary.png", client.judge)
        questions = [question for task in tasks for question in task.questions()]
        todo = unasked(questions, cache, retry_failed=arguments.retry_failed)
        if todo:
            _ask_to_send([*unasked([canary], cache), *todo], client, arguments)
        answers = ask_all(
            questions, client, cache, concurrency=arguments.concurrency, retry_failed=arguments.retry_failed,
            first=canary,
        )  # fmt: skip
    return _report(tasks, answers, canary, client.judge, out=out, send=arguments.send)


def _check(arguments: argparse.Namespace) -> None:
    """Raises UsageError for arguments that do not go together."""
    arguments.judge_model = arguments.judge_model or os.environ.get("JUDGE_MODEL")
    if not arguments.judge_model:
        raise UsageError("No judge.", hint="Give --judge-model (or JUDGE_MODEL): a model that takes pictures.")
    pair = (arguments.model_a, arguments.model_b)
    if arguments.mode == "compare" and (arguments.models or arguments.bans_of):
        raise UsageError("--mode compare takes --model-a A and --model-b B, and neither --models nor --bans-of.")
    if arguments.mode == "evaluate" and pair != (None, None):
        raise UsageError("--mode evaluate takes --models A B ..., and neither --model-a nor --model-b.")
    arguments.models = arguments.models or ["base", "psa"]
    arguments.model_a, arguments.model_b = arguments.model_a or "base", arguments.model_b or "psa"
    if (arguments.send == "profile") != (arguments.users is not None):
        raise UsageError("--send profile and --users go together: profiles are read for nothing else.")


def _tasks(arguments: argparse.Namespace, judge: Judge) -> list[JudgeTask]:
    """The tasks of every dataset and base that is asked for. One that is named must be there; of `all` and of
    bases that are not named, those that are drawn."""
    from ..evaluation.judge.question import Template
    from ..evaluation.judge.tasks import Setting, compare_task, evaluate_tasks
    from ..users.profile import load_profiles

    profiles = load_profiles(arguments.users) if arguments.users else None
    tasks: list[JudgeTask] = []
    for dataset, base, models in _places(arguments):
        setting = Setting(
            images=arguments.images,
            dataset=dataset,
            base=base,
            template=Template(arguments.mode, arguments.template),
            judge=judge,
            repeat_share=arguments.repeat,
            profiles=profiles,
            limit=arguments.sample_size if arguments.test else None,
        )
        if arguments.mode == "compare":
            tasks.append(compare_task(setting, *models))
        else:
            tasks += evaluate_tasks(setting, models, bans_of=arguments.bans_of)
    return tasks


def _places(arguments: argparse.Namespace) -> list[tuple[str, str, list[str]]]:
    """Dataset, base and models of each group of tasks; `all` means what is drawn; the rest is reported.

    Raises UsageError where nothing is drawn. A dataset that is named must have every model that is asked for.
    """
    from ..evaluation.judge.tasks import drawn_bases, is_drawn

    compared, images = arguments.mode == "compare", arguments.images
    models = [arguments.model_a, arguments.model_b] if compared else arguments.models
    if arguments.dataset != ALL:
        bases = [arguments.base] if arguments.base else drawn_bases(images, arguments.dataset) or ["sd15"]
        return [(arguments.dataset, base, models) for base in bases]
    places, missing = [], []
    for dataset in USER_DATASETS:
        for base in [arguments.base] if arguments.base else drawn_bases(images, dataset):
            there = [model for model in models if is_drawn(images, dataset, base, model)]
            missing += [f"{dataset}/{model}/{base}" for model in models if model not in there]
            if there and (there == models or not compared):
                places.append((dataset, base, there))
    if not places:
        raise UsageError(
            f"{images} holds no pictures of {' and '.join(models)} on {' or '.join(USER_DATASETS)}.",
            hint=f"Draw them first: DATASET={USER_DATASETS[0]} bash evaluation/scripts/run_gen.sh",
        )
    if missing:
        print(f"Not drawn, so not judged: {', '.join(missing)}.", file=sys.stderr)
    return places


def _ask_to_send(todo: Sequence[Question], client: JudgeClient, arguments: argparse.Namespace) -> None:
    """Show what would leave this machine and about what it costs, and go on only where that is agreed to."""
    from ..evaluation.judge.cost import estimate

    cost = estimate(todo, prices=arguments.rate_price)
    limit = "" if arguments.max_requests is None else f" (--max-requests {arguments.max_requests:,})"
    shown = (
        f"This sends to {client.judge.host}, model {client.judge.model}{_warning(client)}:\n"
        f"  {cost.requests:,} requests{limit} with {cost.pictures:,} pictures, more where one has to be sent again\n"
        f"  in each: {_what(todo, arguments)}\n"
        f"  {_price(cost)}"
    )
    require_consent(shown, things="Pictures", agreed=arguments.yes, flag="--yes")


def _warning(client: JudgeClient) -> str:
    return ", NOT ENCRYPTED" if client.is_plain_http and client.judge.host not in ("127.0.0.1", "localhost") else ""


def _what(todo: Sequence[Question], arguments: argparse.Namespace) -> str:
    from ..evaluation.judge.cases import PERSON_FIELDS

    named = "" if arguments.template == "blind" else ", THE METHODS' NAMES"
    what = f"prompt, the categories that its user bans and allows{named}, picture"
    if arguments.send == "categories":
        return f"{what}. No user ids, nothing else of a profile."
    users = len({question.case.user_id for question in todo if question.case.person})
    return f"{what};\n  AND THE PROFILES of {users:,} users: {', '.join(PERSON_FIELDS)}. No user ids."


def _price(cost: Cost) -> str:
    tokens = f"about {cost.input_tokens:,} tokens read and {cost.output_tokens:,} written"
    if cost.cost is None:
        return f"{tokens}; for an estimate of the cost give --rate-price"
    return f"{tokens}: about {cost.cost:,.2f} at these prices"


def _report(
    tasks: Sequence[JudgeTask], answers: Answers, canary: Question, judge: Judge, *, out: Path, send: str
) -> int:
    """Write and print what was found. Returns the exit status: 1 where rows were not judged, or none could
    be."""
    from ..evaluation.judge.canary import OBEYED, canary_outcome
    from ..evaluation.judge.summary import results
    from ..evaluation.judge.tasks import results_path

    left_out = sorted({name for answer in answers.by_key.values() for name in answer.left_out})
    about = {"model": judge.model, "endpoint": judge.host, "temperature": None if "temperature" in left_out else 0,
             "left_out": left_out, "sent": send, "canary": canary_outcome(answers.to(canary))}  # fmt: skip
    status = 0
    for task in tasks:
        found = results(task, answers, about=about)
        path = results_path(out, task)
        write_json(path, found, private=send == "profile")
        print("\n".join(_lines(" and ".join(task.models), found, path)))
        if not found["complete"] or not found["summary"]["judged"]:
            status = 1
    for remark in dict.fromkeys(remark for task in tasks for remark in task.remarks):
        print(f"Note: {remark}", file=sys.stderr)
    if about["canary"] == OBEYED:
        print("Note: this judge obeyed writing in a picture: do not trust its rates.", file=sys.stderr)
    if left_out:
        print(
            f"Note: this judge refuses {', '.join(left_out)}, so its replies may differ from run to run.",
            file=sys.stderr,
        )
    passing = Counter(str(answer.failed) for answer in answers.by_key.values() if not answer.settled)
    if passing:
        counts = ", ".join(f"{count} {failed}" for failed, count in sorted(passing.items()))
        print(f"Not answered: {counts}. Nothing of it was kept: the same command asks again.", file=sys.stderr)
    if answers.stopped:
        print(f"Stopped: {answers.stopped}. What was judged is kept; the same command goes on.", file=sys.stderr)
    return status


def _lines(title: str, found: Record, path: Path) -> list[str]:
    summary, usage = found["summary"], found["usage"]
    names = RATES if found["mode"] == "evaluate" else PAIR_RATES
    lines = [title, *(f"  {name.replace('_', ' '):17} {_rate(summary[name])}" for name in names)]
    if found["judge"]["biased"]:
        lines.append(f"  {found['judge']['bias']}")
    if summary["not_judged"]:
        lines.append(f"  NOT COMPLETE: {summary['not_judged']} of {summary['rows']} rows were not judged")
    spent = f"{usage['requests_now']} requests now, {usage['cache_hits']} judgements from before"
    return [*lines, f"  {spent}: {path}"]


def _rate(rate: Record) -> str:
    """A rate as people read it: "93.1 % (n=980, 20 failed), 95 % from 91.3 to 94.5"."""
    failed = f", {rate['failed']} failed" if rate["failed"] else ""
    if rate["value"] is None:
        return f"none (n=0{failed})"
    low, high = 100 * rate["low"], 100 * rate["high"]
    return f"{100 * rate['value']:.1f} % (n={rate['n']}{failed}), 95 % from {low:.1f} to {high:.1f}"


def add_commands(kinds: Any) -> None:
    one = command(kinds, "judge", judge, "judge pictures, or compare two methods, by a vision-language model",
                  "psalign eval judge --mode evaluate --dataset sage_seen --base sd15 --models base psa "
                  "--judge-model gpt-4o")  # fmt: skip
    one.add_argument("-m", "--mode", choices=("evaluate", "compare"), default="compare", help="default compare")
    one.add_argument("--images", type=a_path, default=Path("eval_images"), help="cells (default eval_images)")
    one.add_argument(
        "-d",
        "--dataset",
        default=ALL,
        help=f"a folder of --images: sage_seen, i2p_4073, mini, ...; all (default): {', '.join(USER_DATASETS)}",
    )
    one.add_argument("--base", help="base model of the cells (default: every one that is drawn)")
    one.add_argument("-t", "--test", action="store_true", help="a few rows of each model, into <out>/test")
    one.add_argument(
        "-s", "--sample-size", type=at_least(1), default=10, metavar="N", help="rows of --test (default 10)"
    )
    one.add_argument(
        "--models",
        nargs="+",
        metavar="MODEL",
        help="evaluate these: base safetydpo psa psa_level_3 ... (default base psa)",
    )
    one.add_argument("--model-a", metavar="MODEL", help="compare this one (default base)")
    one.add_argument("--model-b", metavar="MODEL", help="with this one (default psa)")
    one.add_argument("--bans-of", metavar="MODEL", help="judge every model for the users that MODEL was drawn for")
    _add_asking(one)
    one.add_argument("--retry-failed", action="store_true", help="ask again what was refused or malformed before")
    one.add_argument("--yes", action="store_true", help="agree to what is sent and what it costs")
    one.add_argument("--out", type=a_path, help="where to write (default results_evaluate or results_compare)")


def _add_asking(one: argparse.ArgumentParser) -> None:
    """Options of the judge: its endpoint, what is sent to it, and its limits."""
    one.add_argument("--judge-model", help="name at the endpoint; Azure: of the deployment (default: JUDGE_MODEL)")
    one.add_argument("--endpoint", metavar="URL", help="OpenAI-compatible (default: OPENAI_BASE_URL; or Azure's, "
                     "AZURE_OPENAI_ENDPOINT)")  # fmt: skip
    one.add_argument("--api-version", help="of Azure (default: OPENAI_API_VERSION)")
    one.add_argument("--template", choices=("blind", "published-style"), default="blind",
                     help="blind (default); published-style names the methods and shows one order: biased")  # fmt: skip
    one.add_argument("--send", choices=("categories", "profile"), default="categories",
                     help="what is sent of a user (default: categories; profile needs --users)")  # fmt: skip
    add_users(one, "users.csv or users.jsonl, for --send profile", required=False)
    one.add_argument("--repeat", type=a_number(0, 1), default=0.05, metavar="SHARE",
                     help="of rows judged twice, to see if the judge agrees with itself (default 0.05)")  # fmt: skip
    one.add_argument("--concurrency", type=at_least(1), default=8, help="requests at a time (default 8)")
    one.add_argument(
        "--timeout-s", "--timeout", type=a_number(0, above=True), default=60.0, help="of one request (default 60)"
    )
    one.add_argument("-r", "--max-retries", type=at_least(0), default=5, metavar="N",
                     help="tries after a failure that passes (default 5)")  # fmt: skip
    for name in ("--model-a-name", "--model-b-name"):  # of the published script: a judge hears no names
        one.add_argument(name, help=argparse.SUPPRESS)
    one.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    one.add_argument("--max-requests", type=at_least(0), metavar="N", help="stop after N; what was judged is kept")
    one.add_argument("--rate-price", type=a_number(0), nargs=2, metavar=("IN", "OUT"),
                     help="price of a million tokens read and written, for the estimate")  # fmt: skip
