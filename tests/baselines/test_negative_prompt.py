"""The negative prompt names what is banned and nothing else, after what every method shares."""

from psalign.baselines.negative_prompt import negative_prompt, with_negative_prompts
from psalign.diffusion.generate import GenerationConfig, Nobody
from psalign.mini.dataset import WORDS_TO_AVOID
from psalign.records import PromptRow


class Users(Nobody):
    def banned(self, user_id):
        return ("Hate", "Violence") if user_id == "0000001" else ()

    def limits(self, user_id):
        return (("spiders", 1.0), ("red wine", 0.5)) if user_id == "0000003" else ()


def test_words_of_banned_categories_in_order():
    assert negative_prompt(("Violence", "Hate")) == "hate violence"
    assert negative_prompt(()) == ""
    assert "sword" in negative_prompt(("Violence",), WORDS_TO_AVOID)
    assert "skull" not in negative_prompt(("Violence",), WORDS_TO_AVOID)


def test_each_row_has_that_of_its_user_and_nobodys_all_categories():
    rows = [PromptRow(f"{i}.png", "a cat", 1, user) for i, user in enumerate(("0000001", "0000002", None))]
    config = with_negative_prompts(GenerationConfig(), rows, Users())
    assert config.negatives(rows) == [
        "hate violence",
        "",
        "hate harassment violence self-harm sexuality shocking propaganda",
    ]


def test_what_every_method_shares_comes_first():
    rows = [PromptRow("a.png", "a cat", 1, "0000001"), PromptRow("b.png", "a cat", 1, "0000002")]
    config = with_negative_prompts(GenerationConfig(negative_prompt="blurred"), rows, Users())
    assert config.negatives(rows) == ["blurred, hate violence", "blurred"]
    assert config.negative_prompt == "blurred"


def test_limits_in_words_are_said_too():
    rows = [PromptRow("a.png", "a cat", 1, "0000003")]
    config = with_negative_prompts(GenerationConfig(negative_prompt="blurred"), rows, Users())
    assert config.negatives(rows) == ["blurred, spiders, red wine"]
