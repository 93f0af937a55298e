"""Careless hands: what users get wrong ends in one message, the right status, and nothing changed on disk.

Each try is a command in a folder of small files, `world`. The message has the name of an error of ours on its first
line and at most a hint and a list after it; a try that changes a file, or leaves one, fails here.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from psalign.adapter.published import PublishedAdapter
from psalign.cli import EXIT_STATUSES, main
from psalign.errors import PSAlignError
from psalign.sage.dataset import write_split
from psalign.sage.names import picture_name
from psalign.users import EmbeddingStore, StructuredEmbedder, UserProfile, save_profiles
from sage_rows import make_row

PEOPLE = [UserProfile(user_id=str(number), banned=("Hate",), age=40) for number in range(1, 13)]
LONG = "a" * 300


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A users file, bans, a store, published vectors, a dataset, prompts, pictures of a method, and broken ones."""
    root = tmp_path_factory.mktemp("world")
    os.chdir(root)
    save_profiles(Path("users.csv"), PEOPLE)
    save_profiles(Path("users.jsonl"), PEOPLE)
    EmbeddingStore.build(PEOPLE, StructuredEmbedder(8)).save(Path("vectors"))
    for name, text in FILES.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    for name, change in BROKEN_STORES.items():
        EmbeddingStore.build(PEOPLE, StructuredEmbedder(8)).save(Path(name))
        change(Path(name))
    names = [picture_name(("0000001", "Hate", "c", "00001"), unsafe=side) for side in (0, 1)]
    row = make_row(user_id="0000001", category="Hate", chosen=names[0], rejected=names[1], user_data={"User_ID": "1"})
    write_split(Path("sage"), "train", [row])
    published = PublishedAdapter(base="mini", llm_dim=8, context_dim=128, widths=(8,) * 7).state_dict()
    names = {name: name.replace("layers.", "psa_adapter.").replace("_user.", "_user.0.") for name in published}
    for kind, change in BROKEN_WEIGHTS.items():
        groups = {"user_proj": {}, "psa_adapter": {}}
        for name, weight in published.items():
            room, _, rest = names[name].partition(".")
            groups[room][rest] = change(weight)
        torch.save(groups, f"{kind}.bin")
    for kind in ("array_0d", "array_many", "array_complex"):
        Path(kind).mkdir()
        np.save(
            f"{kind}/0000001.npy",
            {"0d": np.float32(1), "many": np.ones((2, 8)), "complex": np.ones(8, complex)}[kind[6:]],
        )
    Path("folder.csv").mkdir()
    Path("folder").mkdir()
    Path("circle").symlink_to("circle")
    Path("link.csv").symlink_to("users.csv")
    os.mkfifo("pipe")
    return root


def manifest(**changes):
    row = {"file_name": "a.png", "prompt": "a cat", "seed": 1, "method": "base", "base": "mini", "banned": []}
    return json.dumps({**row, **changes}) + "\n"


BANS = '{"user_id": "0000001", "banned": ["Hate"], "why": {"Hate": ["own list"]}}\n'
FILES = {
    "bans.jsonl": BANS,
    "bans_twice.jsonl": BANS + BANS,
    "bans_two_keys.jsonl": '{"user_id": "1", "banned": ["Hate"], "banned": []}\n',
    "bans_no_list.jsonl": '{"user_id": "1", "banned": "Hate"}\n',
    "bans_null.jsonl": '{"user_id": "1", "banned": null}\n',
    "bans_why_list.jsonl": '{"user_id": "1", "banned": ["Hate"], "why": ["Hate"]}\n',
    "bans_why_text.jsonl": '{"user_id": "1", "banned": ["Hate"], "why": {"Hate": "rules"}}\n',
    "bans_why_number.jsonl": '{"user_id": "1", "banned": ["Hate"], "why": {"Hate": [3]}}\n',
    "bans_why_more.jsonl": '{"user_id": "1", "banned": [], "why": {"Hate": ["rules"]}}\n',
    "bans_id.jsonl": '{"user_id": ["1"], "banned": ["Hate"]}\n',
    "bans_other.jsonl": '{"user_id": "2", "banned": ["Hate"]}\n',
    "empty": b"",
    "empty.csv": b"",
    "empty.jsonl": b"",
    "header.csv": "User_ID,Age\n",
    "no_columns.csv": "a,b\n1,2\n",
    "uneven.csv": "User_ID,Age\n1,41,7\n",
    "quotes.csv": 'User_ID,Age\n"1,41\n',
    "twice.csv": "User_ID,Age\n1,41\n0000001,41\n",
    "near.csv": "User_ID,Bans\n1,Hate\n",
    "age.csv": "User_ID,Age\n1,-3\n",
    "age_nan.csv": "User_ID,Age\n1,nan\n",
    "age_long.csv": "User_ID,Age\n1," + "9" * 5000 + "\n",
    "category.csv": "User_ID,Banned_Categories\n1,['Fun']\n",
    "latin.csv": b"User_ID,Age\nJos\xe9,41\n",
    "null.csv": b"User_ID,Age\n\x00,41\n",
    "binary.csv": bytes(range(256)),
    "list.jsonl": "[1]\n",
    "cut.jsonl": '{"User_ID": "1", "Age": 4',
    "two_keys.jsonl": '{"User_ID": "1", "Banned_Categories": ["Hate"], "Banned_Categories": []}\n',
    "nan.jsonl": '{"User_ID": "1", "Age": NaN}\n',
    "digits.jsonl": '{"User_ID": "1", "Age": ' + "1" * 5000 + "}\n",
    "deep.jsonl": "[" * 100_000 + "\n",
    "users.txt": "User_ID,Age\n1,41\n",
    "prompts.jsonl": '{"file_name": "a.png", "prompt": "a red cat", "seed": 1, "user_id": "1"}\n',
    "prompts.csv": "prompt,user_id\na red cat,1\n",
    "prompts_none.csv": "text,user_id\na red cat,1\n",
    "prompts_seed.csv": "prompt,seed\na red cat,-1\n",
    "prompts_seed_long.csv": "prompt,seed\na red cat," + "9" * 5000 + "\n",
    "prompts_seed_power.csv": "prompt,seed\na red cat,\u00b2\n",
    "prompts_out.jsonl": '{"file_name": "../a.png", "prompt": "a red cat", "seed": 1}\n',
    "prompts_twice.jsonl": '{"file_name": "a.png", "prompt": "a", "seed": 1}\n' * 2,
    "prompts_keys.jsonl": '{"file_name": "a.png", "prompt": "a", "prompt": "b", "seed": 1}\n',
    "prompts_near.csv": "prompt,religon\na red cat,Islam\n",
    "prompts_nobody.jsonl": '{"file_name": "a.png", "prompt": "a", "seed": 1}\n',
    "preset_bomb.yaml": "a: &a [x]\nb: [*a, *a]\n",
    "preset_twice.yaml": "base: mini\nbase: sd15\n",
    "preset_list.yaml": "- a\n",
    "preset_deep.yaml": "a: " + "[" * 2000,
    "preset_tag.yaml": "base: !!python/object/apply:os.getcwd []\n",
    "preset_latin.yaml": b"base: \xe9\n",
    "preset_none.yaml": b"",
    "pictures/base/manifest.jsonl": manifest(),
    "notes.json": "mine\n",
    "splits_list.json": "[1, 2]\n",
    "key_words": "words\n",
    "key_short": "abcd\n",
    "foreign/users.csv": "mine\n",
    "foreign_rows/train/metadata.jsonl": "mine\n",
    "damaged/dataset.json": "{",
    "quick_cut/quickstart.json": '{"fingerprint": ',
    "quick_list/quickstart.json": "[]",
    "run_cut/run.json": "{",
    "run_cut/a.png": b"",
    "foreign_store/index.json": "mine\n",
    "results.csv": "a,b\n1,2\n",
    "adapter_cut/config.json": "{",
    "adapter_cut/diffusion_pytorch_model.safetensors": b"cut",
    "published.bin": b"\x80\x04cos\nsystem\n",
    "npy_cut/0000001.npy": b"cut",
    "npy_name/a b.npy": b"cut",
    "npy_zip/0000001.npy": b"PK\x03\x04" + bytes(60),
    "npy_head/0000001.npy": b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f4', 'shape': (1,".ljust(117) + b"\n",
    "one_byte.bin": b"\x80",
    "words.bin": "hello world\n",
    "page.bin": "<!doctype html><html></html>",
    "no_stack.bin": b".",
    "page.safetensors": "<!doctype html><html></html>",
}


def edit_index(folder, **changes):
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, **changes}))


BROKEN_STORES = {
    "store_bans": lambda folder: edit_index(folder, banned=[[] for _ in PEOPLE]),
    "store_null": lambda folder: edit_index(folder, banned=[None for _ in PEOPLE]),
    "store_order": lambda folder: edit_index(folder, user_ids=[user.user_id for user in PEOPLE[::-1]]),
    "store_digest": lambda folder: edit_index(folder, digest=None),
    "store_recipe": lambda folder: edit_index(folder, recipe=[1]),
    "store_list": lambda folder: (folder / "index.json").write_text("[]"),
    "store_empty": lambda folder: (folder / "vectors.safetensors").write_bytes(b""),
    "store_half": lambda folder: (folder / "vectors.safetensors").unlink(),
}

BROKEN_WEIGHTS = {
    "weights_flat": lambda weight: weight.reshape(-1),
    "weights_0d": lambda weight: weight.flatten()[0],
    "weights_none": lambda weight: weight.flatten()[:0],
    "weights_nan": lambda weight: weight * float("nan"),
    "weights_whole": lambda weight: weight.int(),
    "weights_sparse": lambda weight: weight.to_sparse(),
}

USERS_FILES = {
    "none.csv": "does not exist",
    "folder.csv": "is a folder",
    "circle": "circle",
    f"{LONG}.csv": "",
    "users.csv/a.csv": "users.csv/a.csv",
    "empty.csv": "is empty",
    "empty.jsonl": "none of the columns",
    "header.csv": "has no users",
    "no_columns.csv": "none of the columns",
    "uneven.csv": "saw 3 cells",
    "quotes.csv": "not a CSV file",
    "twice.csv": "0000001 again",
    "near.csv": "did you mean Banned_Categories",
    "age.csv": "allowed: a whole number from 0 to 100",
    "age_nan.csv": "allowed: a whole number from 0 to 100",
    "age_long.csv": "allowed: a whole number from 0 to 100",
    "category.csv": "column Banned_Categories",
    "latin.csv": "not UTF-8",
    "null.csv": "",
    "binary.csv": "",
    "list.jsonl": "expected a JSON object",
    "cut.jsonl": "not JSON",
    "two_keys.jsonl": "'Banned_Categories' is there twice",
    "nan.jsonl": "NaN is no number",
    "digits.jsonl": "a number of 5000 digits",
    "deep.jsonl": "brackets without end",
    "users.txt": "allowed: .csv, .jsonl",
    "users.exe": "allowed: .csv, .jsonl",
}
READ_USERS = {
    "users ban --users {} --out new/out.jsonl": (1, 2),
    "users split --users {} --out new/out.json --val 1 --test 1": (1, 2),
    "users explain 1 --users {}": (1, 2),
    "users pseudonymise --users {} --out new/out.csv --key new/key": (1, 2),
    "embed --users {} --out new/vectors": (1, 2),
}
TRIES = [
    (command.format(name), status, message)
    for command, status in READ_USERS.items()
    for name, message in USERS_FILES.items()
]
BROKEN_BANS = ("bans_two_keys", "bans_no_list", "bans_null", "bans_why_list", "bans_why_text",
               "bans_why_number", "bans_why_more", "bans_id", "bans_other")  # fmt: skip
TRIES += [
    (command.format(f"{name}.jsonl"), (1, 2), f"{name}.jsonl")
    for name in BROKEN_BANS
    for command in ("users explain 1 --users users.csv --bans {}", "embed --users users.csv --bans {} --out new/v")
]
TRIES += [
    (command.format(name), 1, message)
    for name, message in {
        **dict.fromkeys(("store_bans", "store_order", "store_digest", "store_empty"), "damaged"),
        "store_null": "damaged",
        "store_recipe": "damaged",
        "store_list": "damaged",
        "store_half": "holds no user vectors",
        "npy_cut": "0000001.npy cannot be read as a numpy array",
        "npy_name": "damaged",
        "npy_zip": "0000001.npy cannot be read as a numpy array: it is no .npy file",
        "npy_head": "0000001.npy cannot be read as a numpy array: it is cut short",
        "array_0d": "0000001.npy is no vector",
        "array_many": "0000001.npy is no vector",
        "array_complex": "expected an array of numbers, saw complex128",
        "folder": "holds no user vectors",
        "none": "holds no user vectors",
        "users.csv": "holds no user vectors",
    }.items()
    for command in (
        "users cluster --embeddings {} --out new/clusters",
        "train --data sage --embeddings {} --out new/model",
        "generate --prompts prompts.jsonl --embeddings {} --out new/pictures",
    )
]
TRIES += [
    (command.format(name), 1, f"{name} cannot be read as")
    for name in ("one_byte.bin", "words.bin", "page.bin", "no_stack.bin", "page.safetensors")
    for command in ("adapter info {}", "adapter convert {} --out new")
]
TRIES += [
    (f"adapter info {name}.bin", 1, f"{name}.bin: (expected|.* has the shape of no such weight)")
    for name in BROKEN_WEIGHTS
]
TRIES += [
    # words
    ("fly", 2, "invalid choice: 'fly'"),
    ("users forgett 1 users.csv", 2, "Did you mean forget?"),
    ("generate --prompts prompts.jsonl --stepps 3", 2, "Did you mean --steps?"),
    ("generate", 2, "required: --prompts"),
    ("users forget 1", 2, "required: places"),
    ("completion powershell", 2, "choose from bash, zsh, fish"),
    ("users sample -n", 2, "expected one argument"),
    # numbers
    ("users sample -n 0 --out new.csv", 2, "at least 1"),
    ("users sample -n -5 --out new.csv", 2, "at least 1"),
    ("users sample -n 1e3 --out new.csv", 2, "whole number"),
    ("users sample -n \u00b2 --out new.csv", 2, "whole number"),
    ("users sample -n 99999999999 --out new.csv", 2, "at most 10000000"),
    (f"users sample -n {'9' * 5000} --out new.csv", 2, "whole number"),
    ("users sample --seed -1 --out new.csv", 2, "at least 0"),
    (f"users sample --seed {2**63} --out new.csv", 2, "at most"),
    (f"generate --prompts prompts.jsonl --seed {2**64} --out new", 2, "at most"),
    ("train --data sage --embeddings vectors --lr nan --out new", 2, "a finite number|a number of more than 0"),
    ("train --data sage --embeddings vectors --lr -1 --out new", 2, "a number of more than 0"),
    ("train --data sage --embeddings vectors --lr 1e30 --out new", 2, "training.lr must be at most 1"),
    ("train --data sage --embeddings vectors --lr inf --out new", 2, "a number of more than 0"),
    ("train --data sage --embeddings vectors --steps 0 --out new", 2, "at least 1"),
    ("generate --prompts prompts_nobody.jsonl --guidance nan --out new", 2, "must be finite"),
    ("generate --prompts prompts_nobody.jsonl --guidance -2 --out new", 2, "guidance must be at least 0"),
    ("generate --prompts prompts_nobody.jsonl --guidance much --out new", 2, "invalid float value"),
    ("generate --prompts prompts_nobody.jsonl --scale -2 --out new", 2, "scale must be at least 0"),
    ("generate --prompts prompts_nobody.jsonl --scale inf --out new", 2, "must be finite"),
    ("generate --prompts prompts_nobody.jsonl --steps 1001 --out new", 2, "steps must be at most 1000"),
    ("generate --prompts prompts_nobody.jsonl --dtype int8 --out new", 2, "Unknown dtype 'int8'"),
    ("generate --prompts prompts_nobody.jsonl --scheduler foo --out new", 2, "Unknown scheduler 'foo'"),
    ("generate --prompts prompts_nobody.jsonl --offload much --out new", 2, "Unknown offload 'much'"),
    ("generate --prompts prompts_nobody.jsonl --device tpu9 --out new", 2, "There is no device 'tpu9'"),
    ("embed --users users.csv --backend transformers --device tpu9 --out new", 2, "There is no device 'tpu9'"),
    ("embed --users users.csv --backend published --device cuda:99 --out new", 2, "There is no device 'cuda:99'"),
    ("users ban --users users.csv --backend transformers --device tpu9 --out new", 2, "There is no device 'tpu9'"),
    ("generate --prompts prompts_nobody.jsonl --base sd9 --out new", 2, "Unknown base model 'sd9'"),
    ("generate --prompts prompts.jsonl --level 9 --embeddings vectors --out new", 2, "Level must be"),
    ("generate --prompts prompts.jsonl --level 3 --profiles --embeddings vectors --out new", 2, "give one of them"),
    ("generate --prompts prompts.jsonl --profiles --embeddings vectors --out new", 1, "this row has none"),
    ("users ban --users users.csv --timeout-s nan --out new", 2, "more than 0"),
    ("users ban --users users.csv --timeout-s 0 --out new", 2, "more than 0"),
    ("eval run --images pictures --strict-threshold nan", 2, "from 0 to 1"),
    ("eval run --images pictures --strict-threshold 2", 2, "from 0 to 1"),
    ("sage build --users users.csv --held-out 1.5 --out new", 2, "from 0 to below 1"),
    # paths
    ("users sample -n 2 --out ''", 2, "expected a path"),
    ("users sample -n 2 --out users.csv", 1, "users.csv is there already"),
    ("users sample -n 2 --out link.csv", 1, "link.csv is there already"),
    ("users sample -n 2 --out folder.csv", 1, "cannot be used: Is a directory"),
    ("users sample -n 2 --out users.csv/a.csv", 1, "Not a directory"),
    ("users sample -n 2 --out circle", 1, "links lead in a circle|saw the suffix|circle"),
    ("users sample -n 2 --out circle/a.csv", 1, "circle"),
    (f"users sample -n 2 --out {LONG}.csv", 1, "name is too long"),
    (f"users sample -n 2 --out new/{LONG}/a.csv", 1, "name is too long"),
    ("users sample -n 2 --out new.exe", 1, "allowed: .csv, .jsonl"),
    ("users sample -n 2 --out pipe", 1, "pipe cannot be written"),
    ("users sample -n 2 --out /dev/full", 1, "No space left to write /dev/full"),
    ("users sample -n 2 --out /proc/new.csv", 1, "/proc.* cannot be used: No such file"),
    ("users split --users users.csv --val 1 --test 1 --out /dev/full", 1, "No space left"),
    ("users ban --users users.csv --out /dev/full", 1, "No space left"),
    ("users levels --picture users.csv", 1, "users.csv is there already"),
    ("mini sheet --out notes.json", 1, "notes.json is there already"),
    # the same file, or another's
    ("users pseudonymise --users users.csv --key k --out users.csv", 2, "is both users and out"),
    ("users pseudonymise --users users.csv --key k --out link.csv", 2, "is both users and out"),
    ("users pseudonymise --users users.csv --key k.csv --out k.csv", 2, "is both key and out"),
    ("users split --users users.csv --out users.csv", 2, "is both users and out"),
    ("users ban --users users.jsonl --out users.jsonl", 2, "is both users and out"),
    ("embed --users users.csv --like vectors --out vectors", 2, "is both like and out"),
    ("embed --users users.csv --out new --npy new", 2, "is both"),
    ("users split --users users.csv --val 1 --test 1 --out notes.json", 1, "notes.json is there already"),
    ("users ban --users users.csv --out bans.jsonl", 1, "bans.jsonl is there already"),
    ("users pseudonymise --users users.csv --key users.txt --out new.csv", 2, "holds no key"),
    ("users pseudonymise --users users.csv --key key_words --out new.csv", 2, "holds no key"),
    ("users pseudonymise --users users.csv --key key_short --out new.csv", 2, "holds 2 bytes"),
    ("users pseudonymise --users users.csv --key folder --out new.csv", 1, "folder"),
    ("embed --users users.csv --out vectors", 1, "of another build"),
    ("embed --users users.csv --out foreign_store", 1, "of another build"),
    ("embed --users users.csv --data sage --like vectors --out new", 2, "give one of them"),
    ("embed --users users.csv --data none --out new", 1, "has no SAGE dataset"),
    ("embed --users users.csv --like none --out new", 1, "holds no user vectors"),
    ("mini build --out foreign", 1, "holds users.csv, not built here"),
    ("mini build --out foreign_rows", 1, "holds train/metadata.jsonl, not built here"),
    ("mini build --out damaged", 1, "dataset.json is damaged"),
    ("eval report --images pictures --results results.csv --out new", 1, ""),
    # settings
    ("quickstart --out new --set two_motifs=3", 2, "expected section.name=value"),
    ("quickstart --out new --set dataset.two_motifs=-3", 2, "dataset.two_motifs must be from 0"),
    ("quickstart --out new --set dataset.seed=99999999999999999999", 2, "dataset.seed must be"),
    (f"quickstart --out new --set dataset.seed={'9' * 5000}", 2, "not YAML"),
    ("quickstart --out new --set dataset.ban_list_share=2", 2, "must be from 0 to 1"),
    ("quickstart --out new --set dataset.ban_list_share=.nan", 2, "must be from 0 to 1"),
    ("quickstart --out new --set generation.scheduler=foo", 2, "generation.scheduler is no setting"),
    ("quickstart --out new --set generation.dtype=int8", 2, "generation.dtype is no setting"),
    ("quickstart --out new --set generation.steps=2000", 2, "steps must be at most 1000"),
    ("quickstart --out new --set generation.guidance=-1", 2, "guidance must be at least 0"),
    ("quickstart --out new --set prompt.adapter.heads=3", 2, "rank must be a multiple of heads"),
    ("quickstart --out new --set published.adapter.rank=8", 2, "Unknown setting published.adapter.rank"),
    ("quickstart --out new --set prompt.adapter.n_tokens=99999", 2, "must be at most 256"),
    ("quickstart --out new --set prompt.training.timesteps=[1,two]", 2, "timesteps must be"),
    ("quickstart --out new --set prompt.training.timesteps=[1]", 2, "timesteps must be"),
    ("quickstart --out new --set prompt.training.optimizer=magic", 2, "Unknown optimizer 'magic'"),
    ("quickstart --out new --set prompt.training.mixed_precision=int8", 2, "Unknown mixed_precision"),
    ("quickstart --out new --set prompt.training.lr=1e30", 2, "training.lr must be at most 1"),
    ("quickstart --out new --set llm_dim.x=3", 2, "'llm_dim' is a setting, not a section"),
    ("quickstart --out new --set pictures.size_px=7", 2, "size_px must be a multiple of 8"),
    ("quickstart --out new --set pictures.crop=left", 2, "Unknown crop 'left'"),
    ("quickstart --out new --set dataset.scenes=1 --set dataset.scenes=2", 2, "is given twice"),
    ("train --data sage --embeddings vectors --set dataset.seed=3 --out new", 2, "does not read dataset"),
    ("train --data sage --embeddings vectors --set published.training.lr=1 --out new", 2, "does not read published"),
    ("train --data sage --embeddings vectors --steps 3 --set prompt.training.steps=4 --out new", 2, "given twice"),
    ("mini build --set prompt.training.lr=1 --out new", 2, "does not read prompt"),
    ("mini build --set dataset.concepts=0 --out new", 2, "dataset.concepts must be from 1"),
    ("quickstart --preset magic --out new", 2, "Unknown preset 'magic'"),
    ("quickstart --preset none.yaml --out new", 2, "does not exist"),
    ("quickstart --preset preset_bomb.yaml --out new", 2, "references"),
    ("quickstart --preset preset_twice.yaml --out new", 2, "'base' is there twice"),
    ("quickstart --preset preset_list.yaml --out new", 2, "expected sections"),
    ("quickstart --preset preset_deep.yaml --out new", 2, "is not YAML"),
    ("quickstart --preset preset_tag.yaml --out new", 2, "is not YAML"),
    ("quickstart --preset preset_latin.yaml --out new", 2, "not UTF-8"),
    ("quickstart --preset preset_none.yaml --out new", 2, "expected sections"),
    ("quickstart --out quick_cut", 1, "quickstart.json is damaged"),
    ("quickstart --out quick_list", 1, "quickstart.json is damaged"),
    # prompts
    *((f"generate --prompts {name} --out new/pictures", (1, 2), message) for name, message in {
        "none.jsonl": "does not exist",
        "folder.csv": "is a folder|does not exist",
        "empty.jsonl": "has no rows",
        "empty.csv": "is empty",
        "list.jsonl": "expected a JSON object",
        "cut.jsonl": "not JSON",
        "binary.csv": "",
        "prompts_none.csv": "no column prompt",
        "prompts_seed.csv": "seed must be a whole number",
        "prompts_seed_long.csv": "seed must be a whole number",
        "prompts_seed_power.csv": "seed must be a whole number",
        "prompts_out.jsonl": "file_name must be",
        "prompts_keys.jsonl": "'prompt' is there twice",
        "prompts_near.csv": "did you mean religion",
    }.items()),
    ("generate --prompts prompts_twice.jsonl --out new", 2, "Two rows write one file"),
    ("generate --prompts prompts_nobody.jsonl --out run_cut", 1, "run.json is damaged"),
    ("generate --prompts prompts.jsonl --adapter none --embeddings vectors --out new", 1, "none (is not|does)"),
    ("generate --prompts prompts.jsonl --adapter adapter_cut --embeddings vectors --out new", 1, "adapter_cut"),
    ("generate --prompts prompts.jsonl --adapter published.bin --embeddings vectors --out new", 1, "published.bin"),
    ("generate --prompts prompts_nobody.jsonl --model none/at/all --local-files-only --out new", 1, "cannot be loaded"),
    # pictures and results
    ("eval run --images none --output new.csv", 2, "holds no cell"),
    ("eval generate --methods magic --out new", 2, "magic"),
    ("eval generate --datasets magic --out new", (1, 2), "magic"),
    ("eval generate --adapter mini=none --out new", 2, "none does not exist"),
    ("eval generate --embeddings mini=none --out new", 2, "none does not exist"),
    ("eval generate --weights esdu=none --out new", 2, "none does not exist"),
    ("eval generate --mini none --out new", 1, "does not exist"),
    ("eval judge --images pictures --mode evaluate --models base --judge-model m --dataset mini", (1, 2), ""),
    # datasets
    ("sage validate none", 1, "has no dataset"),
    ("sage stats none", 1, "has no SAGE dataset"),
    ("sage export none --out new", 1, "has no SAGE dataset"),
    ("sage build --users none.csv --out new", 1, "does not exist"),
    ("sage build --users users.csv --concepts none.csv --out new", 1, "does not exist"),
    ("sage download magic --out new", 2, "Unknown prompt set 'magic'"),
    ("sage download --url file:///etc/passwd --out new", 2, "is no address"),
    ("train --data none --embeddings vectors --out new", 1, "has no SAGE dataset"),
    ("train --data sage --embeddings vectors --out new --kind magic", 2, "invalid choice: 'magic'"),
    ("train --data sage --embeddings vectors --out new --preset psa-sd9", 2, "Unknown preset"),
    # people
    ("users explain 9 8 --users users.csv", 2, "unrecognized arguments: 8"),
    ("users explain 99 --users users.csv", 1, "has no user 0000099"),
    ("users explain ../etc --users users.csv", 2, "is no user id"),
    ("users forget 99 users.csv vectors", 1, "is in none of"),
    ("users forget a/b users.csv", 2, "is no user id"),
    ("users forget 1 users.csv none.csv", 2, "none.csv holds no users"),
    ("users forget 1 users.csv notes.json", 1, "notes.json"),
    ("users forget 1 users.csv splits_list.json", 2, "splits_list.json holds no users"),
    ("users forget 1 users.csv folder", 2, "folder holds no users"),
    ("users forget 1 users.csv pipe", 2, "pipe holds no users"),
    ("users forget 1 users.csv no_columns.csv", 2, "no_columns.csv holds no users"),
    ("users forget 1 users.csv cut.jsonl", 1, "not JSON"),
    ("users forget 1 users.csv store_bans", 1, "damaged"),
    ("users forget 1 users.csv latin.csv", 1, "not UTF-8"),
    # adapters
    ("adapter info none", 1, "none"),
    ("adapter info", 2, "Name an adapter"),
    ("adapter info --preset magic", 2, "Unknown preset"),
    ("adapter convert published.bin --out new", 1, "published.bin"),
    ("adapter convert adapter_cut --out adapter_cut", 2, "is both adapter and out"),
    ("adapter fold none --embeddings vectors --out new", 1, "none"),
]  # fmt: skip


def state(root):
    """Every file of a folder with its content, every folder, every link."""
    found = {}
    for path in sorted(root.rglob("*")):
        is_file = path.is_file() and not path.is_symlink()
        found[path.relative_to(root).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest() if is_file else ""
    return found


ERRORS = {kind.__name__ for kind in PSAlignError.__subclasses__()} | {"PSAlignError"}


@pytest.fixture(scope="module")
def before(world):
    """What each try must leave as it was."""
    return state(world)


@pytest.mark.slow
@pytest.mark.parametrize(("line", "status", "message"), TRIES, ids=[line[:70] for line, _, _ in TRIES])
def test_a_try_ends_in_one_message_and_changes_nothing(line, status, message, world, before, capsys, monkeypatch):
    import re

    monkeypatch.chdir(world)
    seen = main([word if word != "''" else "" for word in line.split()])
    out, err = capsys.readouterr()
    assert seen in (status if isinstance(status, tuple) else (status,)), err
    assert seen in EXIT_STATUSES
    assert "Traceback" not in err
    first = err.splitlines()[0]
    assert first.split(":")[0] in ERRORS, err
    assert re.search(message, err), err
    assert sum(text.split(":")[0] in ERRORS for text in err.splitlines()) == 1, "one error"
    assert out == ""
    assert state(world) == before


def test_there_are_enough_of_them():
    assert len(TRIES) >= 300
    assert len({line for line, _, _ in TRIES}) == len(TRIES)


def test_the_table_of_exit_statuses_is_in_the_docs():
    text = (Path(__file__).parents[1] / "docs/COMMANDS.md").read_text()
    for status, meaning in EXIT_STATUSES.items():
        assert f"| {status} | {meaning} |" in text
