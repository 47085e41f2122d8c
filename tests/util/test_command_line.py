import pytest

from util.base.errors import UserError
from util.config.command_line import Parser, hide_aliases


def test_an_alias_is_accepted_and_named_nowhere():
    parser = Parser(None)
    hide_aliases(parser.add_argument("--num_images", "--num", type=int, required=True))
    assert parser.parse_args(["--num", "3"]).num_images == parser.parse_args(["--num_images=3"]).num_images == 3
    assert "--num " not in parser.format_help()
    for wrong in (["--num", "x"], []):
        with pytest.raises(UserError, match="--num_images") as caught:
            parser.parse_args(wrong)
        assert "--num/" not in str(caught.value)


def test_an_alias_excludes_what_its_option_excludes():
    parser = Parser(None)
    group = parser.add_mutually_exclusive_group(required=True)
    hide_aliases(group.add_argument("--output_dir", "--out"))
    group.add_argument("--sheet")
    with pytest.raises(UserError, match="--sheet: not allowed with argument --output_dir"):
        parser.parse_args(["--out", "a", "--sheet", "b"])
