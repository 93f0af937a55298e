"""The estimate of what a run of a judge costs, by hand."""

import pytest

from psalign.evaluation.judge.cases import Case, PictureFile
from psalign.evaluation.judge.cost import Cost, estimate, picture_tokens
from psalign.evaluation.judge.question import Judge, Question, Template, quote


@pytest.mark.parametrize(
    ("size", "tokens"),
    [
        ((512, 512), 85 + 170),
        ((64, 64), 85 + 170),
        ((1024, 1024), 85 + 4 * 170),  # made 768 x 768: 2 x 2 tiles
        ((4096, 2048), 85 + 6 * 170),  # made 2048 x 1024, then 1536 x 768: 3 x 2 tiles
        ((512, 513), 85 + 2 * 170),
    ],
)
def test_tokens_of_a_picture(size, tokens):
    assert picture_tokens(*size) == tokens


def test_an_estimate_by_hand():
    """Two pictures of 255 tokens each and the words, twice; 150 tokens written each time; 2 and 10 a million."""
    pictures = tuple(PictureFile(None, name, 512, 512) for name in "ab")
    case = Case("a.png", "a cat", None, (), (), pictures)
    questions = [Question(case, Template("compare"), Judge("m", "h"), order) for order in ((0, 1), (1, 0))]
    words = -(-(len(Template("compare").text) + len(quote(questions[0].data))) // 4)
    read = 2 * (words + 2 * 255)
    found = estimate(questions, prices=(2.0, 10.0))
    assert (found.requests, found.pictures, found.input_tokens, found.output_tokens) == (2, 4, read, 300)
    assert found.cost == pytest.approx((2 * read + 10 * 300) / 1e6)
    assert estimate([], prices=None) == Cost(0, 0, 0, 0, None)
