"""The demo: one prompt and seed for the base, a person and another person, side by side.

Place on the path of data: steps 2 to 6 for people who try; nothing that they type is stored.
"""

from __future__ import annotations

import html
import io
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..adapter.explain import Explanation
from ..adapter.prompt import PromptAdapter
from ..categories import category_names
from ..errors import PSAlignError, UsageError, one_line
from ..users.levels import level_bans
from ..users.limits import typed_limits
from ..users.profile import VOCABULARY, UserProfile
from ..users.views import batch_of
from .artist import Artist, joined_users
from .requests import MOST_PROMPT, Offer
from .waiting import Kind, Work

MOST_SEED = 2**31
SHOWN_PX = 256
STYLE = """<style>
.psa {display: flex; flex-wrap: wrap; gap: 16px}
.psa figure {margin: 0; flex: 1 1 200px; max-width: 380px}
.psa figcaption {font-weight: 600; margin-bottom: 6px}
.psa label {position: relative; display: block; cursor: pointer; overflow: hidden; border-radius: 8px}
.psa img {width: 100%; image-rendering: pixelated; display: block}
.psa input {position: absolute; opacity: 0}
.psa .blurred img {filter: blur(24px)}
.psa .blurred span {position: absolute; inset: 0; display: grid; place-items: center; color: #fff; font-weight: 600;
  text-shadow: 0 0 6px #000}
.psa input:checked ~ img {filter: none}
.psa input:checked ~ span {display: none}
.psa input:focus-visible ~ img {outline: 3px solid #f80}
.psa ul {margin: 6px 0 0; padding-left: 18px}
</style>"""


@dataclass(frozen=True)
class Person:
    """What the page has of a person. limits: in words, with ";" or a new line between them."""

    banned: Sequence[str] = ()
    limits: str = ""
    age: float | None = None
    religion: str | None = None
    mental_condition: str | None = None

    @property
    def profile(self) -> UserProfile:
        """Raises LimitError and ValueError for what no profile has."""
        words = typed_limits(self.limits)
        return UserProfile(
            user_id="demo",
            banned=tuple(self.banned),
            limits=words or None,
            age=None if self.age is None else int(self.age),
            religion=self.religion or None,
            mental_condition=self.mental_condition or None,
        )


@dataclass(frozen=True)
class Card:
    """One picture of the comparison. hides: whether it may show what the first person bans."""

    title: str
    picture: np.ndarray
    lines: tuple[str, ...] = ()
    hides: bool = False

    @property
    def markup(self) -> str:
        """HTML without a script: a hidden checkbox takes the blur away."""
        stream = io.BytesIO()
        Image.fromarray(self.picture).resize((SHOWN_PX, SHOWN_PX), Image.Resampling.NEAREST).save(stream, "PNG")
        image = (
            f'<img alt="{html.escape(self.title)}" src="data:image/png;base64,{b64encode(stream.getvalue()).decode()}">'
        )
        hidden = f"<input type=checkbox>{image}<span>Show</span>" if self.hides else image
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in self.lines) or "<li>nothing was softened</li>"
        text = f"<ul>{lines}</ul>" if self.title != "Base" else ""
        kind = "blurred" if self.hides else ""
        return f'<figure><figcaption>{self.title}</figcaption><label class="{kind}">{hidden}</label>{text}</figure>'


class Demo:
    """Draws comparisons with an artist. offer: steps, guidance and size.

    Raises UsageError for an adapter that knows people by vectors alone.
    """

    def __init__(self, artist: Artist, offer: Offer) -> None:
        if not isinstance(artist.attached.adapter, PromptAdapter):
            raise UsageError("The demo needs an adapter of kind 'prompt', which keeps to limits without a vector.")
        self.artist, self.offer = artist, offer
        self.in_words = artist.attached.adapter.in_words  # see batch_of

    def compare(self, prompt: str, seed: int, people: Sequence[Person]) -> list[Card]:
        """The base, then the people; one seed for all. Raises PSAlignError, ValueError."""
        profiles = [person.profile for person in people]
        users = [batch_of([profile], in_words=self.in_words) for profile in profiles]
        works = [Work(prompt, users[0], seed, scale=0.0), *(Work(prompt, one, seed) for one in users)]
        for work in works:
            self.artist.check(work)
        size = self.offer.base.size_px
        kind = Kind(size, size, self.offer.steps, self.offer.guidance)
        pictures = self.artist.draw(works, kind, lambda step, look: True)
        said = self.artist.attached.explain(self.artist.pipeline, [prompt] * len(users), joined_users(users))
        titles = ["You", *(["Another person"] * (len(people) - 1))]
        cards = [Card("Base", pictures[0], hides=bool(said[0].softened))]
        for title, picture, one in zip(titles, pictures[1:], said, strict=True):
            cards.append(Card(title, picture, one.lines, hides=not _covers(one, said[0])))
        return cards

    def page(self, prompt: str, seed: float | None, *people: Person) -> str:
        """The comparison as HTML, or what was wrong."""
        text = prompt.strip()
        if not 0 < len(text) <= MOST_PROMPT:
            return _message(f"Write a prompt of at most {MOST_PROMPT} characters.")
        number = 0 if seed is None else int(seed)
        if not 0 <= number < MOST_SEED:
            return _message(f"The seed must be a whole number from 0 to {MOST_SEED - 1}.")
        try:
            cards = self.compare(text, number, people)
        except PSAlignError as err:
            return _message(one_line(err))
        except ValueError:  # pydantic's: it repeats what was typed
            return _message("This profile does not fit together, as an age outside 0 to 100.")
        return f'{STYLE}<div class="psa">{"".join(card.markup for card in cards)}</div>'


def _covers(one: Explanation, mine: Explanation) -> bool:
    """Whether one explanation softens every word that mine softens."""
    return {word.place for word in mine.softened} <= {word.place for word in one.softened}


def _message(text: str) -> str:
    return f"<p role=alert>{html.escape(text)}</p>"


def build(demo: Demo) -> Any:
    """The page, a gradio Blocks."""
    import gradio as gr

    names, levels = list(category_names()), level_bans()
    with gr.Blocks(title="PSAlign", analytics_enabled=False) as page:
        gr.Markdown("## One prompt, one seed, three views\nThe base model, you, and another person.")
        prompt = gr.Textbox("a red cat on the left with a sword, in a meadow", label="Prompt", max_length=MOST_PROMPT)
        seed = gr.Number(7, label="Seed", precision=0, minimum=0)
        with gr.Row():
            fields = [_person(gr, who, names, levels) for who in ("You", "Another person")]
        button = gr.Button("Draw", variant="primary")
        shown = gr.HTML(label="Pictures")

        def draw(prompt: str, seed: float | None, *values: Any) -> str:
            half = len(values) // 2
            return demo.page(prompt, seed, Person(*values[:half]), Person(*values[half:]))

        inputs = [prompt, seed, *fields[0], *fields[1]]
        gr.on([button.click, prompt.submit], draw, inputs, shown, api_name=False, concurrency_limit=1)
    return page


def _person(gr: Any, who: str, names: list[str], levels: Sequence[Sequence[str]]) -> list[Any]:
    """The fields of a person, in the order of Person."""
    is_you = who == "You"
    with gr.Column(min_width=280):
        gr.Markdown(f"### {who}")
        level = gr.Slider(0, len(levels) - 1, 0, step=1, label=f"Level ({who})", info="sets the switches below")
        banned = gr.CheckboxGroup(
            names, value=[one for one in names if is_you and one == "Violence"], label="Banned categories"
        )
        limits = gr.Textbox("", label="Limits in words", placeholder="no skulls; I can't stand pills", lines=2)
        with gr.Accordion("Profile", open=False):
            age = gr.Number(None, label="Age", precision=0, minimum=0, maximum=100)
            religion = gr.Dropdown(["", *VOCABULARY["religion"]], value="", label="Religion")
            mental = gr.Dropdown(["", *VOCABULARY["mental_condition"]], value="", label="Mental condition")
        level.change(lambda number: list(levels[int(number)]), level, banned, api_name=False)
    return [banned, limits, age, religion, mental]


def launch(demo: Demo, *, host: str, port: int, blocks: bool = True) -> Any:
    """Serve the page on this machine; nothing goes to other machines. Returns what gradio's launch returns."""
    import gradio as gr

    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    return build(demo).launch(
        server_name=host,
        server_port=port,
        share=False,
        theme=theme,
        prevent_thread_lock=not blocks,
        footer_links=[],
        ssr_mode=False,
        quiet=True,
    )
