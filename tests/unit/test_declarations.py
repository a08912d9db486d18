"""A wrong declaration, of features or a network, is one line: where, what was given, what is allowed."""

from pathlib import Path
from typing import Any

import pytest

from model import networks
from model.features.kinds import KINDS, SchemaError, made
from model.features.schema import Schema, load, parse
from tests.worlds import make_schema

ITEM = '[[feature]]\nname = "item_id"\nside = "item"\nkind = "id"\nsequence_width = 8\n'
HEAD = 'user_id = "str"\n'


def refusal(tmp_path: Path, text: str) -> str:
    """The message about a features.toml, without its path."""
    path = tmp_path / "features.toml"
    path.write_text(text)
    with pytest.raises(SchemaError) as error:
        load(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("width = 4.0", "feature 'x': width 4.0, allowed: whole number from 0"),
        ("width = true", "feature 'x': width True, allowed: whole number from 0"),
        ("width = -1", "feature 'x': width -1, allowed: whole number from 0"),
        ("width = '4'", "feature 'x': width '4', allowed: whole number from 0"),
        ("min_count = 1.5", "feature 'x': min_count 1.5, allowed: whole number from 1"),
        ("min_count = 0", "feature 'x': min_count 0, allowed: whole number from 1"),
        ("buckets = 0", "feature 'x': buckets 0, allowed: whole number from 1"),
        ("type = 'integer'", "feature 'x': type 'integer', allowed: int, str"),
        ("of = 'item_id'", "feature 'x': of 'item_id', allowed: list of: text"),
        ("default = 'x'", "feature 'x': only a context feature has a `default`"),
        ("max_values = 3", "feature 'x': unknown max_values; allowed: name, side, type, width, "),
        ("wdith = 3", "feature 'x': unknown wdith; allowed: name, side, type, width, "),
    ],
)
def test_an_option_of_a_feature_is_of_its_type(tmp_path: Path, line: str, says: str) -> None:
    text = f'{HEAD}{ITEM}[[feature]]\nname = "x"\nside = "user"\nkind = "category"\n{line}\n'
    assert refusal(tmp_path, text).startswith(says)


@pytest.mark.parametrize(
    ("kind", "default", "says"),
    [
        ('kind = "category"\ntype = "int"', "'x'", "feature 'x': default: 'x' given, an integer is allowed"),
        ('kind = "category"\ntype = "int"', "1.0", "default: 1.0 given, an integer is allowed: write 1"),
        ('kind = "category"', "true", "default: True given, a string is allowed: write 1"),
        ('kind = "category"', "['a']", "default: ('a',) given, a string is allowed"),
        ('kind = "category"', "{ a = 1 }", "default {'a': 1}, allowed: true, false, whole number, number, text, list"),
        ('kind = "number"\ntransform = "log"', "'x'", "default: 'x' given, a number is allowed"),
        ('kind = "number"\ntransform = "standard"', "nan", "default nan, allowed: a value"),
        ('kind = "number"\ntransform = "standard"', "inf", "default: inf given, a finite number of 32 bits is allowed"),
        ('kind = "multi"', "'a'", "default: 'a' given, a list is allowed"),
    ],
)
def test_a_default_is_a_value_of_its_feature(tmp_path: Path, kind: str, default: str, says: str) -> None:
    text = f'{HEAD}{ITEM}[[feature]]\nname = "x"\nside = "context"\n{kind}\ndefault = {default}\n'
    assert says in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEAD + "[history]\nactions = 'click'\n" + ITEM, "[history]: actions 'click', allowed: list of: text and at"),
        (HEAD + "[history]\nactions = []\n" + ITEM, "[history]: actions (), allowed: list of: text and at least 1 of"),
        (HEAD + "[history]\nactions = ['a', 'a']\n" + ITEM, "[history]: actions ['a', 'a'], allowed: each once"),
        (HEAD + "[history]\nlength = '20'\n" + ITEM, "[history]: length '20', allowed: whole number from 1"),
        (HEAD + "[history]\nlength = 0\n" + ITEM, "[history]: length 0, allowed: whole number from 1"),
        (HEAD + "[history]\nobject_type = 3\n" + ITEM, "[history]: object_type 3, allowed: text"),
        (HEAD + "[history]\nlenght = 3\n" + ITEM, "[history]: unknown lenght; allowed: length, actions, object_type, "),
        (HEAD + "[[history]]\nlength = 3\n" + ITEM, "history is one table: write [history]"),
        ("user_id = 'string'\n" + ITEM, "user_id 'string', allowed: int, str"),
        (ITEM, "user_id is missing, allowed above the first table: int, str"),
        ("[history]\nlength = 3\nuser_id = 'str'\n" + ITEM, "user_id is missing, allowed above the first table"),
        (HEAD + ITEM.replace("[[feature]]", "[[features]]"), "unknown features; allowed: user_id, history, feature, "),
        (HEAD + ITEM.replace("[[feature]]", "[feature]"), "feature is a list of tables: write [[feature]] above each"),
        (HEAD + "feature = ['item_id']", "feature is a list of tables: write [[feature]] above each"),
        (HEAD + ITEM + ITEM, "names of features and groups must differ: 'item_id' stands twice"),
        (HEAD + ITEM.replace('name = "item_id"\n', ""), "feature None: name is missing, allowed: text"),
        (HEAD + ITEM.replace('side = "item"\n', ""), "feature 'item_id': side is missing, allowed: user, item, "),
        (HEAD + ITEM.replace('kind = "id"\n', ""), "feature 'item_id': kind is missing, allowed: id, category, "),
        (HEAD + ITEM + "[[group]]\nactions = ['search']\n", "group None: object_type is missing, allowed: text"),
        (HEAD + ITEM + "[[group]]\nobject_type = 'q'\nactions = 'search'\n", "group 'q': actions 'search', allowed: "),
        (HEAD + ITEM + "[[group]]\nobject_type = 'q'\nactions = ['s']\nwidth = 0\n", "group 'q': width 0, allowed: "),
        (HEAD + ITEM.replace('"item_id"', '"a.b"'), "feature 'a.b': its name stands for files and tables: without"),
        (HEAD + "width = = 3\n", "Invalid value (at line 2, column 9)"),
        ("user_id = 'str", 'Expected "\'" (at end of document)'),
    ],
)
def test_a_feature_table_is_refused_with_the_file_and_the_place(tmp_path: Path, text: str, says: str) -> None:
    assert refusal(tmp_path, text).startswith(says)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "number"}, "transform is missing, allowed: standard, log"),
        ({"kind": "number", "transform": "cubic"}, "transform 'cubic', allowed: standard, log"),
        ({"kind": "number", "transform": "log", "buckets": 9}, "a number has no vocabulary: no min_count, buckets"),
        ({"kind": "multi", "max_values": 0}, "max_values 0, allowed: whole number from 1"),
        ({"kind": "text"}, "kind 'text', allowed: id, category, number, multi"),
        ({"kind": ["id"]}, "kind ['id'], allowed: id, category, number, multi"),
        ({"kind": "category", "name": 3}, "name 3, allowed: text"),
        ({"kind": "category", "name": "key"}, "the catalogue's own column is named so"),
    ],
)
def test_a_kind_says_what_it_needs(options: dict[str, Any], says: str) -> None:
    with pytest.raises(SchemaError) as error:
        parse({"user_id": "str", "feature": [{"name": "x", "side": "item"} | options]})
    assert says in str(error.value)


def test_a_table_of_an_editor_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "features.toml"
    path.write_text(HEAD + ITEM, "utf-8-sig")
    assert load(path).item_id.sequence_width == 8
    path.write_bytes(b"user_id = '\xff'")
    with pytest.raises(SchemaError, match=f"{path}: 'utf-8' codec"):
        load(path)


def test_every_kind_is_made_of_its_own_fields() -> None:
    plain = {"name": "x", "side": "item", "type": "str"}
    assert made(KINDS["multi"], plain | {"max_values": 2, "width": 3}, "x").width == 3
    with pytest.raises(SchemaError, match="x: unknown max_values"):
        made(KINDS["category"], plain | {"max_values": 2}, "x")


ROWS = dict.fromkeys((f.name for f in make_schema().features), 20) | {"price": 82}


@pytest.mark.parametrize(
    ("network", "options", "says"),
    [
        ("bst", {"heads": 0}, "network bst: heads 0, allowed: whole number from 1"),
        ("bst", {"heads": 2.0}, "network bst: heads 2.0, allowed: whole number from 1"),
        ("bst", {"mlp": []}, "network bst: mlp [], allowed: list of: whole number from 1 and at least 1 of them"),
        ("bst", {"mlp": [16, 0]}, "network bst: mlp.1 0, allowed: list of: whole number from 1 and at least 1 of them"),
        ("bst", {"dropout": 1.5}, "network bst: dropout 1.5, allowed: number from 0 below 1"),
        ("bst", {"mlp_dropout": 1}, "network bst: mlp_dropout 1, allowed: number from 0 below 1"),
        ("bst", {"position": "time"}, "network bst: position 'time', allowed: gap, index, sincos, none"),
        ("bst", {"position_width": 0}, "network bst: position_width 0, allowed: whole number from 1"),
        (
            "bst",
            {"position_width": 22},
            "network bst: 8 heads cannot split the item vector's width 70 (item_id 32 + category_id 16 + "
            "position_width 22); allowed: widths that add up to a multiple of 8, as with position_width 16 or 24; "
            "or heads 1, 2, 5, 7, 10, 14, 35, 70",
        ),
        ("din", {"unit": []}, "network din: unit [], allowed: list of: whole number from 1 and at least 1 of them"),
        ("atrank", {"spaces": 7}, "network atrank: 7 spaces must split the width 64; allowed: a width of 63 or 70, or"),
        ("atrank", {"spaces": "8"}, "network atrank: spaces '8', allowed: whole number from 1"),
        ("wdl", {"layers": [8]}, "network wdl: unknown layers; allowed: mlp, mlp_dropout"),
    ],
)
def test_an_option_of_a_network_is_refused_in_words(network: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError) as error:
        networks.build(network, make_schema(), ROWS, options)
    assert str(error.value).startswith(says)


def without_sequence() -> Schema:
    item = {"name": "item_id", "side": "item", "kind": "id", "width": 8}
    return parse({"user_id": "str", "feature": [{"name": "user_id", "side": "user", "kind": "id", "width": 8}, item]})


@pytest.mark.parametrize("network", [name for name in networks.names() if name != "bpr"])
def test_a_network_that_reads_a_sequence_says_that_there_is_none(network: str) -> None:
    with pytest.raises(ValueError, match="no item feature has a sequence_width, .*; allowed for: item_id; "):
        networks.build(network, without_sequence(), {"item_id": 5, "user_id": 5})
    (remark,) = without_sequence().remarks
    assert "no item feature has a sequence_width" in remark and not make_schema().remarks
    networks.build("bpr", without_sequence(), {"item_id": 5, "user_id": 5})


@pytest.mark.parametrize("name", ["type", "items", "half", "training", "type_", "preis €"])
def test_a_feature_may_have_any_name_that_torch_has_for_itself(name: str) -> None:
    item_id = {"name": "item_id", "side": "item", "kind": "id", "sequence_width": 8}
    other = {"name": name, "side": "item", "kind": "category", "width": 4, "sequence_width": 8}
    type_ = {"name": "type", "side": "user", "kind": "category", "width": 4}
    schema = parse({"user_id": "str", "feature": [item_id, other, *([type_] if name != "type" else [])]})
    rows = {"item_id": 5, name: 7, "type": 7}
    for network in ("bst", "wdl"):
        made_of = networks.build(network, schema, rows, {"mlp": (8,)} | ({"heads": 4} if network == "bst" else {}))
        tables = made_of.embed.sequence
        assert list(tables) == ["item_id", name] and name in tables and tables[name].num_embeddings == 7
        assert dict(tables.items())[name] is tables[name]
        made_of.load_state_dict(made_of.state_dict())
