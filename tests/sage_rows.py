"""A SAGE row for tests."""

from pathlib import Path

from psalign.sage.names import picture_name
from psalign.sage.rows import SageRow


def make_row(**changes):
    names = [picture_name(("0000033", "Self-Harm", "two words", "00004"), unsafe=u) for u in (0, 1)]
    row = {
        "user_id": "0000033",
        "category": "Self-Harm",
        "concept": "two words",
        "index": "00004",
        "caption": "a cat with two words",
        "caption_kind": "unsafe",
        "chosen": names[0],
        "rejected": names[1],
        "user_data": {"User_ID": "0000033", "Age": 41},
    }
    row = {**row, **changes}
    return SageRow(**{"chose_unsafe": Path(row["chosen"]).stem.endswith("_u"), **row})
