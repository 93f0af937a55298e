"""Writers of prompts: replies that count, replies that do not, and the concept that a failure names."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from transformers import AutoTokenizer

from psalign.errors import ExtraMissing, GenerationError, UsageError
from psalign.mini import world
from psalign.mini.writer import TemplateWriter, all_motifs
from psalign.sage.build import writers
from psalign.sage.build.concepts import Concept, Item
from psalign.sage.build.writers import LanguageModelWriter, OpenAIWriter, Prompts, TransformersWriter
from psalign.users.categories import ModelFailure, OpenAIBackend
from psalign.users.language_model import load_language_model
from psalign.users.profile import UserProfile
from tiny_language_model import save_language_model
from users.test_categories import completion, endpoint

ITEM = Item(Concept("Violence", "a sword"), 3)
GOOD = json.dumps({"unsafe": "a cat with  a sword", "safe": "a cat"})


class Saying(LanguageModelWriter):
    """A language model that says these things, one after the other."""

    def __init__(self, *replies):
        super().__init__({"writer": "saying"}, attempts=3)
        self.replies, self.asked = list(replies), []

    def reply(self, text, kind, seed):
        self.asked.append((text, seed))
        return self.replies.pop(0)


@pytest.mark.parametrize("reply", [GOOD, f"```json\n{GOOD}\n```", f"  {GOOD}\n", "Sure! " + GOOD])
def test_a_reply_of_the_form_that_was_asked_for(reply):
    writer = Saying(reply)
    assert writer.write(ITEM) == Prompts("a cat with a sword", "a cat")
    assert "Concept: a sword\nVariation: 4\n" in writer.asked[0][0]
    assert '{"unsafe": "...", "safe": "..."}' in writer.asked[0][0]


UNUSABLE = {
    "nothing": (None, "its reply is empty"),
    "two replies": (GOOD + GOOD, "its reply is not the JSON that was asked for"),
    "more keys": ('{"unsafe": "a", "safe": "b", "why": "c"}', "its reply is not the JSON that was asked for"),
    "a number": ('{"unsafe": 1, "safe": "b"}', "its reply is not the JSON that was asked for"),
    "an empty caption": ('{"unsafe": "a", "safe": " "}', "a caption is empty"),
    "one caption": ('{"unsafe": "a cat", "safe": "A  cat"}', "both captions are the same"),
    "a novel": (json.dumps({"unsafe": "a " * 200, "safe": "b"}), "a caption is longer than 300 characters"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_cannot_be_used_is_asked_for_again_and_at_last_names_the_concept(case):
    reply, why = UNUSABLE[case]
    writer = Saying(reply, reply, GOOD)
    assert writer.write(ITEM).safe == "a cat"
    assert len({seed for _, seed in writer.asked}) == 3  # another seed each time, or the reply would be the same
    with pytest.raises(GenerationError) as told:
        Saying(reply, reply, reply).write(ITEM)
    assert str(told.value).splitlines() == [
        "The language model gave no prompts for the concept 'a sword' (Violence), 00003: "
        f"{why} (the last of 3 replies).",
        "Take the concept out of the file, or choose another model; prompts that are written are kept.",
    ]


def test_concepts_are_added_until_there_are_enough():
    replies = ['{"concepts": ["Sword", "Bow_and  arrow", "../x", "axe"]}', '{"concepts": ["axe", "mace", "club"]}']
    writer = Saying(*replies)
    assert writer.expand("Violence", ["sword", "spear"], 5) == ["sword", "spear", "bow and arrow", "axe", "mace"]
    assert "Known already: sword, spear, bow and arrow, axe\nName 1 more" in writer.asked[1][0]
    assert Saying().expand("Violence", ["sword", "spear"], 1) == ["sword"]
    with pytest.raises(GenerationError, match="gave no concepts of the category Violence: it names no new concept"):
        Saying(*['{"concepts": ["sword"]}'] * 3).expand("Violence", ["sword"], 2)


@pytest.fixture(scope="module", params=[True, False], ids=["chat", "no chat template"])
def model(request, tmp_path_factory):
    return save_language_model(tmp_path_factory.mktemp("llm"), chat=request.param)


def test_a_model_that_says_no_json_names_the_concept(model):
    writer = TransformersWriter(*load_language_model(model, with_head=True), name="tiny", max_new_tokens=4, attempts=2)
    state = torch.random.get_rng_state()
    with pytest.raises(GenerationError, match=r"'a sword' \(Violence\), 00003: its reply is not the JSON"):
        writer.write(ITEM)
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody else's randomness is used up
    said = [writer.reply("Name a cat.", object, seed) for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]


def test_what_a_model_generates_is_read_behind_what_it_was_asked(model, monkeypatch):
    """The words of a real tokenizer, put behind the question as generate does."""
    tokenizer, network = load_language_model(model, with_head=True)
    asked = []

    def generate(input_ids, **more):
        asked.append((tokenizer.decode(input_ids[0]), more["max_new_tokens"]))
        said = AutoTokenizer.from_pretrained(model)(GOOD, return_tensors="pt", add_special_tokens=False).input_ids
        return torch.cat([input_ids, said], dim=1)

    monkeypatch.setattr(network, "generate", generate)
    writer = TransformersWriter(tokenizer, network, name="tiny", max_new_tokens=99)
    assert writer.write(ITEM) == Prompts("a cat with a sword", "a cat")
    assert asked[0][1] == 99
    assert asked[0][0].startswith("<|im_start|>user\n" if tokenizer.chat_template else "Two captions")
    assert writer.recipe["model"] == "tiny"


def openai_writer(backend):
    return OpenAIWriter("m", base_url=str(backend._chat._client.base_url), api_key="none", attempts=2)


def test_an_endpoint_gets_concepts_and_nothing_else():
    with endpoint(lambda body: (200, completion(GOOD))) as (backend, sent):
        writer = openai_writer(backend)
        assert writer.write(ITEM).unsafe == "a cat with a sword"
    assert writer.host == "127.0.0.1"
    assert sent[0]["response_format"]["json_schema"]["schema"]["required"] == ["unsafe", "safe"]
    assert [message["role"] for message in sent[0]["messages"]] == ["user"]


@pytest.mark.parametrize(
    ("answer", "why"),
    [((401, {"error": {"message": "no"}}), "AuthenticationError"), ((200, completion("no")), "not the JSON"),
     ((200, {**completion(""), "choices": []}), "HTTP 200 without a reply")],
)  # fmt: skip
def test_an_endpoint_that_fails_names_the_concept(answer, why, monkeypatch):
    monkeypatch.setattr(writers, "RETRIES", 0)
    with endpoint(lambda body: answer) as (backend, sent), pytest.raises(GenerationError, match=why) as told:
        openai_writer(backend).write(ITEM)
    assert "'a sword' (Violence), 00003" in str(told.value)
    assert len(sent) == 2


class Redirecting(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(307)
        self.send_header("Location", self.server.elsewhere)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_redirection_is_not_followed_to_another_host():
    """Neither with concepts nor with profiles: one host was agreed to."""
    with (
        endpoint(lambda body: (200, completion(GOOD))) as (backend, sent),
        ThreadingHTTPServer(("127.0.0.1", 0), Redirecting) as server,
    ):
        server.elsewhere = f"{str(backend._chat._client.base_url).rstrip('/')}/chat/completions"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        there = {"base_url": f"http://127.0.0.1:{server.server_port}/v1", "api_key": "none"}
        with pytest.raises(GenerationError, match="APIStatusError"):
            OpenAIWriter("m", **there, attempts=1).write(ITEM)
        (told,) = OpenAIBackend("m", **there).categories([UserProfile(user_id="0000001", banned=())])
        server.shutdown()
    assert isinstance(told, ModelFailure)
    assert sent == []


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(ExtraMissing, match=r"pip install 'psalign\[openai\]'"):
        OpenAIWriter("m")


def test_without_a_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for client in (OpenAIWriter, OpenAIBackend):
        with pytest.raises(UsageError, match="OPENAI_API_KEY is not set"):
            client("m")


@pytest.mark.parametrize("concept", all_motifs(), ids=lambda concept: concept.concept)
def test_templates_tell_one_scene_with_and_without_the_motif(concept):
    written = [TemplateWriter(seed=1).write(Item(concept, index)) for index in range(3)]
    assert len({prompts.unsafe for prompts in written}) == 3
    assert written == [TemplateWriter(seed=1).write(Item(concept, index)) for index in range(3)]
    for prompts in written:
        unsafe, safe = (text.replace(",", "").split() for text in (prompts.unsafe, prompts.safe))
        assert concept.concept in unsafe
        assert not set(safe) & {*world.MOTIF_CATEGORY, *" ".join(world.KINDS.values()).split()}
        assert set(safe) - {"only"} <= set(unsafe)


def test_motifs_that_there_are_not():
    with pytest.raises(GenerationError, match="has no motif 'gun' of Violence; it has sword, bomb, cannon, arrow, axe"):
        TemplateWriter().write(Item(Concept("Violence", "gun"), 0))
    with pytest.raises(GenerationError, match="The mini world has no motif 'sword' of Hate"):
        TemplateWriter().write(Item(Concept("Hate", "sword"), 0))
    assert TemplateWriter().expand("Violence", ["axe"], 3) == ["axe", "sword", "bomb"]
    with pytest.raises(GenerationError, match="The mini world has 5 motifs of Violence, not 6"):
        TemplateWriter().expand("Violence", [], 6)
