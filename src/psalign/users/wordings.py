"""Wordings of a limit: how people say what they do not want to see, and what is left when those words are taken off.

Place on the path of data: step 2, under users/limits.py. "I can't stand spiders" -> "spiders". General English; a text
in which nothing is recognised stays whole, so that a limit may become too wide and is never lost.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

CACHED = 4096  # texts that this process remembers the meaning of
MOST_ROUNDS = 24  # of taking words off one text; a limit has no more words


def _any(*words: str) -> str:
    return f"(?:{'|'.join(words)})"


_SOMEBODY = r"(?:i|we|you|they|he|she|(?:my|our|the|this) \w+(?: and (?:i|(?:my |our )?\w+))?)"
_TO_SOMEBODY = r"(?:me|us|him|her|them|people|anyone|anybody|(?:my|our|the|young|small|little) \w+)"
_VERY = _any(
    "really", "absolutely", "just", "simply", "ever", "even", "always", "also", "still", "truly", "very", "so",
    "strongly", "completely", "totally", "deeply", "a bit", "quite", "too", "extremely", "particularly", "kind of",
)  # fmt: skip
_NOT = _any(
    "can ?not(?: ever)?", "can never", "can't", "cant", "couldn't", "could not", "do not", "don't", "dont",
    "does not", "doesn't", "will not", "won't", "would rather not", "'d rather not", "would prefer not to",
    "'d prefer not to", "would not", "wouldn't", "never", "must not", "mustn't", "must never", "may not",
    "should not", "shouldn't", "should never", "shall not", "am not able to", "'m not able to", "am unable to",
    "need not", "ought not to", "prefer not to", "would like not to", "'d like not to", "refuse to",
    "am not allowed to", "are not allowed to", "is not allowed to",
)  # fmt: skip
_LIKE = _any(
    "stand", "bear", "like", "love", "want", "wish", "need", "care for", "handle", "tolerate", "take", "enjoy", "face",
    "appreciate", "accept", "cope with", "deal with", "(?:to )?see", "seeing", "(?:to )?look at", "looking at",
    "(?:to )?watch", "watching", "(?:to )?be shown", "be exposed to", "(?:to )?have", "having", "to get", "to find",
    "come across", "you to", "me to", "us to", f"{_TO_SOMEBODY} to(?= (?:see|look|watch|be|have))",
    "(?:to )?(?:show|draw|paint|include|display)",
)  # fmt: skip
_DRAW = _any(
    "show", "draw", "paint", "give", "include", "put", "add", "use", "make", "display", "generate", "depict", "have",
    "present", "feature", "allow", "render", "create", "produce", "send", "bring", "picture", "insert", "portray",
    "let (?:me|us|them|(?:my|our) \\w+) see", "make (?:me|us|them|(?:my|our) \\w+) (?:see|look at|watch)",
)  # fmt: skip
_DRAWING = _any(
    "showing", "drawing", "painting", "giving", "including", "adding", "using", "making", "displaying", "generating",
    "depicting", "rendering", "creating", "producing", "sending", "putting", "portraying",
)  # fmt: skip
_HATE = _any(
    "hate", "hates", "detest", "loathe", "dislike", "dislikes", "despise", "abhor", "fear", "fears", "dread",
    "can do without", "could do without", "object to", "freak out (?:at|over)", "panic (?:at|over)",
    f"(?:am|are|is|'m|'re|get|gets|feel|become)(?: {_VERY})*"
    " (?:not (?:ok|okay|fine|comfortable|happy|good) with|uncomfortable with|"
    "(?:afraid|scared|frightened|terrified|sick|tired|allergic|disgusted|upset|triggered|bothered|disturbed|offended|"
    "uncomfortable|anxious|nervous|phobic|traumati[sz]ed|horrified|appalled|haunted|scarred)"
    " (?:of|by|to|at|with|about|from|around|near))",
    f"(?:have|has|gets?|'ve(?: got)?|suffer from|got)(?: {_VERY})* (?:(?:a|an|the|this) )?(?:\\w+ )?"
    "(?:fear|phobia|terror|dread|horror|aversion|hatred|trauma|problem|problems|issue|issues|nightmares) "
    "(?:of|to|for|with|about|from|around)",
)  # fmt: skip
_PICTURES = _any(
    "pictures?", "images?", "photos?", "photographs?", "drawings?", "paintings?", "scenes?", "depictions?",
    "portrayals?", "representations?", "videos?", "illustrations?", "content", "stuff", "things?", "references?",
    "sights?", "views?", "art", "anything", "something", "everything",
)  # fmt: skip
_OF = (
    "(?:of|with|about|like|containing|showing|involving|depicting|featuring|including|resembling|related to|"
    "to do with|(?:that|which) (?:shows?|contains?|has|have|depicts?|looks? like|includes?|features?|involves?|is|are))"
)
_AWAY = _any(
    "avoid", "hide", "remove", "block", "skip", "omit", "exclude", "ban", "filter(?: out)?",
    "(?:leave|keep|cut|take|edit) (?:out|off)", "take away", "delete", "drop", "censor", "forbid", "prevent",
    "get rid of", "stay away from", "steer clear of", "erase", "blur(?: out)?", "mute", "reject", "refuse",
    f"keep {_TO_SOMEBODY} (?:safe |away )?from", f"(?:spare|save) {_TO_SOMEBODY}(?: from)?",
    f"protect {_TO_SOMEBODY} (?:from|against)", "limit", "restrict",
)  # fmt: skip
# Behind these a negation is what is meant: "without clothes" limits bare people, not clothes.
_NOT_LACKING = (
    r"(?!(?:no|without)(?: (?:any|a|their|his|her))? (?:clothes|clothing|underwear|pants|trousers|shirts?|consent)\b)"
    r"(?!not (?:safe|suitable|appropriate|fit|meant|intended|dressed|wearing|covered|consensual|halal|kosher)\b)"
)

# What stands before what is meant; taken off again and again, as long as something is left.
_BEFORE = tuple(
    re.compile(rf"^(?:{pattern})(?:[\s:,]|-(?=\s)|(?<=\s)-)+(?=\S)")  # the hyphen of "non-halal" belongs to the word
    for pattern in (
        "please|pls|kindly|hi|hello|hey|thanks|ok|okay|so|also|and|or|nor|but|well|sorry|honestly|personally",
        "(?:can|could|would|will) you(?: please)?|make sure(?: that)?|be sure(?: that| to)?|try(?: to)?",
        "because|since|as(?= (?:i|we|my|our) )|if possible",
        f"{_SOMEBODY} ?(?:would |'d )?(?:{_VERY} )?(?:want|need|like|prefer|wish|ask)(?: for| you| to| see| have| get)*"
        f"(?= (?:no|not|nothing|never|without|{_AWAY}) )",
        f"{_SOMEBODY} ?(?:{_VERY} )*{_NOT}(?: {_VERY})*(?: {_LIKE}(?: {_VERY})*)+(?: it when)?",
        f"{_SOMEBODY} ?(?:{_VERY} )*{_HATE}(?: it when)?(?: {_LIKE})*",
        f"(?:do not|don't|dont|do never|never)(?: {_VERY})* {_DRAW}(?: {_TO_SOMEBODY})?(?: {_LIKE})*",
        f"(?:stop|quit|avoid|no|not)(?: {_VERY})* {_DRAWING}(?: {_TO_SOMEBODY})?",
        f"(?:{_SOMEBODY} ?(?:am|are|is|'m|'re|'s) )?not (?:{_VERY} )*(?:(?:an?|much of an?|big|huge|great) )*fans? of",
        _AWAY,
        f"{_NOT_LACKING}(?:no|not|nothing|none|never|without|zero|minus|except|non)(?: {_OF})?"
        f"(?: (?:more(?! than)|such thing as|{_VERY}))?",
        "there (?:should|must|may|can|shall|is|are|will) ?(?:not|never|n't)?(?: be)?(?: no| any)?",
        f"(?:it's|it is|it would be)(?: {_VERY})*(?: not)? \\w+ (?:for {_TO_SOMEBODY} )?"
        f"(?:to (?:see|look at|watch)|when {_SOMEBODY} (?:sees?|looks? at|watch(?:es)?))",
        "(?:seeing|looking at|watching|the sight of|being shown|being exposed to)",
        f"(?:the )?(?:my|our|a) (?:limit|limits|fear|trigger|triggers|phobia) (?:is|are|of)|{_VERY}",
        f"(?:(?:any|all|more|the|other|my|some) )*{_PICTURES} {_OF}",
        "(?:any|all|the) (?:kinds?|sorts?|types?|forms?) of|(?:kinds?|sorts?|types?|forms?) of",
        "(?:more|less|fewer) than (?:an?|one|two|three|four|five|a few|some|\\d+)",
        "free (?:of|from)",
        "any|all|more|other|every|each|the|these|those|such|some",
    )
)  # fmt: skip

# What stands behind it.
_BEHIND = tuple(
    re.compile(rf"(?<=\S)[\s,-]+(?:{pattern})$")
    for pattern in (
        "please|pls|thanks|thank you|at all|again|any ?more|ever|anywhere|whatsoever|either|too|etc|any longer"
        "|(?<!not )(?:ok|okay)",
        "in (?:my|our|the|any|these|those|your) (?:pictures?|images?|photos?|art|drawings?|scenes?)",
        f"(?:{_VERY} )*(?:upsets?|scares?|frightens?|terrif(?:y|ies)|bothers?|disturbs?|disgusts?|triggers?|hurts?|"
        "worr(?:y|ies)|sickens?|offends?|annoys?|horrif(?:y|ies)|stress(?:es)?|haunts?|repulses?|repels?|"
        f"traumati[sz]es?|shocks?|distress(?:es)?|alarms?|unsettles?|freaks?) {_TO_SOMEBODY}(?: out)?(?: {_VERY})*",
        f"(?:makes?|gives?|drives?|gets?|leaves?|causes?|brings?) {_TO_SOMEBODY}(?: [\\w']+){{1,4}}",
        f"(?:are|is|'s|'re)(?: {_VERY})* (?:not|never)(?: {_VERY})* \\w+(?: (?:for|to|with|by|in) {_TO_SOMEBODY})?",
        f"(?:are|is|'s|'re)(?: {_VERY})* not for {_TO_SOMEBODY}",
        f"(?:aren't|isn't|ain't) (?:\\w+ )?(?:for|to) {_TO_SOMEBODY}",
        f"(?:are|is)(?: {_VERY})* \\w+ for {_TO_SOMEBODY}",
        "(?:are|is)(?: (?:a|my|too|an))* (?:off limits|forbidden|banned|haram|taboo|triggers?|triggering|scary|"
        "disgusting|gross|unpleasant|upsetting|offensive|forbidden|unwanted|unwelcome|horrible|horrifying|much|bad)",
        "(?:should|must|may|can|could|will|shall) ?(?:not|never|n't) (?:be|appear|show up)(?: \\w+){0,4}",
        "(?:shouldn't|mustn't|can't|cannot) (?:be|appear|show up)(?: \\w+){0,4}",
        f"(?:for|from|near|around|to) {_TO_SOMEBODY}",
        "that|which|who|because|when|as|if",
    )
)  # fmt: skip

# What stands around it.
_AROUND = tuple(
    re.compile(rf"^(?:{before}) (?P<meant>.+?) (?:{behind})$")
    for before, behind in (
        ("keep|leave|take|filter|cut|edit|stay|put|get", "(?:away|out|off)(?: (?:from|of) .+| it)?"),
        ("(?:do not|don't|never) (?:let|make|have|allow)", "(?:to )?(?:appear|show up|be|happen|in|into)(?: .*)?"),
    )
)

_TITLE = r"(?<!\bmr)(?<!\bdr)(?<!\bms)(?<!\bmrs)(?<!\bst)"  # a stop behind these ends no sentence
_COMMAS = "".join(map(chr, (0x2C, 0x3B, 0x3001, 0x3002, 0x60C, 0x61B, 0x964)))  # and those of other scripts
_AND = r"\band/or\b|\b(?<!-)(?!(?<=\bblack )and white\b)(?:and|or|nor)\b"
_BETWEEN = re.compile(rf"\s*(?:[{_COMMAS}]|{_TITLE}[.!?]+(?=\s|$)|\s&\s|{_AND})\s*", re.IGNORECASE)
_APOSTROPHES = str.maketrans(dict.fromkeys((0x2018, 0x2019, 0x2BC, 0x60), "'"))
_FUNCTION_WORDS = """
no not nothing none never without except non any all more other every each the a an these those such some please pls
kindly i we me us you it that this my our and or nor but of to for with at in on is are am be do does dont don't
can't cannot want anything something everything about ever again either too also really thanks
"""
_EMPTY = frozenset(_FUNCTION_WORDS.split())  # they name nothing that could be drawn


@lru_cache(maxsize=CACHED)
def phrases_of_text(text: str) -> tuple[str, ...]:
    """What is searched for in prompts: the text without its carriers, in lower case, each part once.

    (): nothing is left that names anything, as of "no" or "!!!".
    """
    parts = [bare(part) for part in _BETWEEN.split(bare(text))]
    return tuple(dict.fromkeys(part for part in parts if part and not _says_nothing(part)))


@lru_cache(maxsize=CACHED)
def bare(text: str) -> str:
    """A text in lower case without what stands before, behind and around what is meant, and without outer marks."""
    left = _trimmed(unicodedata.normalize("NFC", text.lower().translate(_APOSTROPHES)))
    for _ in range(MOST_ROUNDS):
        shorter = _once(left)
        if shorter == left:
            break
        left = shorter
    return left


def _once(text: str) -> str:
    """A text with one layer less; the same text where nothing is recognised, or nothing would be left."""
    for pattern in (*_BEFORE, *_BEHIND):
        shorter = _trimmed(pattern.sub("", text, count=1))
        if shorter != text and shorter and not _says_nothing(shorter):
            return shorter
    for pattern in _AROUND:
        match = pattern.match(text)
        if match and not _says_nothing(match["meant"]):
            return _trimmed(match["meant"])
    return text


def _says_nothing(text: str) -> bool:
    return all(word in _EMPTY for word in re.findall(r"[\w']+", text))


def _trimmed(text: str) -> str:
    """A text without marks and spaces at its ends: only letters, digits and their accents stay there."""
    kept = [place for place, letter in enumerate(text) if unicodedata.category(letter)[0] in "LNM"]
    return text[kept[0] : kept[-1] + 1] if kept else ""
