from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from wanspec_p2p.config import Paths, Sourced, check_length, check_range, load_settings, load_sourced, read_section
from wanspec_p2p.errors import ConfigError
from wanspec_p2p.types import Dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    data_dir: Path
    port: int = 0
    dtype: Dtype | None = None
    addresses: tuple[str, ...] = ()
    advertise: bool = False

    def __post_init__(self) -> None:
        if self.port < 0:
            raise ValueError("port must be 0 or more")


DEFAULTS: dict[str, object] = {"data_dir": Path("/d"), "port": -1}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "wanspec.toml"


def load(file: Path, environ: dict[str, str] | None = None, **flags: object) -> Example:
    return load_settings(
        Example, "example", file=file, environ=environ or {}, flags=flags, defaults={"data_dir": file.parent}
    )


def test_paths_follow_the_xdg_base_directories() -> None:
    assert Paths.from_environment({"HOME": "/home/ada"}) == Paths(
        data=Path("/home/ada/.local/share/wanspec"),
        cache=Path("/home/ada/.cache/wanspec"),
        config=Path("/home/ada/.config/wanspec"),
        state=Path("/home/ada/.local/state/wanspec"),
    )
    assert Paths.from_environment({"HOME": "/h", "XDG_CACHE_HOME": "/big"}).cache == Path("/big/wanspec")


def test_relative_xdg_values_are_ignored() -> None:
    assert Paths.from_environment({"HOME": "/h", "XDG_DATA_HOME": "here"}).data == Path("/h/.local/share/wanspec")


def test_our_own_variables_name_the_directory_itself() -> None:
    paths = Paths.from_environment({"HOME": "/h", "WANSPEC_DATA_DIR": "/d", "WANSPEC_CACHE_DIR": "/c"})
    assert (paths.data, paths.cache) == (Path("/d"), Path("/c"))


def test_each_directory_is_known_with_where_it_came_from() -> None:
    environ = {
        "HOME": "/h",
        "WANSPEC_DATA_DIR": "/d",
        "XDG_DATA_HOME": "/x",
        "XDG_CACHE_HOME": "/x",
        "XDG_STATE_HOME": "x",
    }
    assert Paths.origins(environ) == {
        "data": "variable WANSPEC_DATA_DIR",
        "cache": "variable XDG_CACHE_HOME",
        "config": "default",
        "state": "default",
    }


def test_a_default_may_say_where_it_came_from(file: Path) -> None:
    edge = Sourced(file.parent, "variable EXAMPLE")
    how: dict[str, object] = {"data_dir": edge}
    settings, sourced = load_sourced(Example, "example", file=file, environ={}, flags={}, defaults=how)
    assert (settings.data_dir, sourced["data_dir"]) == (file.parent, edge)


def test_a_relative_override_is_refused() -> None:
    with pytest.raises(ConfigError, match="WANSPEC_DATA_DIR must be an absolute path, not 'd'"):
        Paths.from_environment({"HOME": "/h", "WANSPEC_DATA_DIR": "d"})


def test_the_home_of_nobody_is_one_line(file: Path) -> None:
    with pytest.raises(ConfigError, match="WANSPEC_DATA_DIR: ~nobody-here is nobody's home directory"):
        Paths.from_environment({"HOME": "/h", "WANSPEC_DATA_DIR": "~nobody-here/d"})
    with pytest.raises(ConfigError, match="--data-dir: ~nobody-here is nobody's home directory"):
        load(file, data_dir="~nobody-here/d")


def test_flags_win_over_variables_over_the_file_over_defaults(file: Path) -> None:
    assert load(file) == Example(data_dir=file.parent)
    file.write_text('[example]\nport = 1\ndtype = "float32"\naddresses = ["ws://a"]\n[target]\nport = 9\n')
    assert load(file) == Example(data_dir=file.parent, port=1, dtype=Dtype.FLOAT32, addresses=("ws://a",))
    environ = {"WANSPEC_EXAMPLE_PORT": "2", "WANSPEC_EXAMPLE_ADVERTISE": "true"}
    assert load(file, environ).port == 2
    assert load(file, environ).advertise is True
    assert load(file, environ, port=3).port == 3
    assert load(file, environ, port=None).port == 2


def test_a_variable_holds_a_list_separated_by_commas(file: Path) -> None:
    assert load(file, {"WANSPEC_EXAMPLE_ADDRESSES": "ws://a, ws://b"}).addresses == ("ws://a", "ws://b")


def test_paths_come_from_text_and_expand_the_home_directory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert load(file, {"WANSPEC_EXAMPLE_DATA_DIR": "~/w"}).data_dir == Path("/home/ada/w")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "[example]\nprot = 1\n",
            r"^example\.prot in .*wanspec\.toml is not a setting: did you mean port\?$",
        ),
        ("[example]\nx = 1\n", r"^example\.x in .*wanspec\.toml is not a setting; known are addresses, advertise"),
        ('[example]\nport = "1"\n', r"example\.port in .*: Expected `int`, got `str`"),
        ('[example]\nadvertise = "yes"\n', r"^example\.advertise in .*toml must be true or false, not 'yes'$"),
        ("example = 1\n", r"\[example\] in .* must be a table"),
        ("[example\n", r"is not valid TOML"),
        ("[example]\nport = -1\n", r"^\[example\]: port must be 0 or more \(file .*wanspec\.toml\)$"),
        (
            "port = 8080\n",
            r"^port in .*wanspec\.toml stands outside all tables: put it below .*, of \[coordinator\], ",
        ),
        (
            "[Example]\nport = 1\n",
            r"^\[Example\] in .*wanspec\.toml is not a table of settings: did you mean \[example\]\?$",
        ),
        ("[nodes]\nslots = 9\n", r": did you mean \[node\]\?$"),
        (
            "[x]\n",
            r"^\[x\] in .*wanspec\.toml is not a table of settings; known are "
            r"\[coordinator\], \[example\], \[node\], \[submitter\], \[target\]$",
        ),
        ("[[node]]\nslots = 9\n", r"^\[node\] in .* must be a table$"),
    ],
)
def test_a_bad_file_is_one_line_that_names_the_key(file: Path, text: str, says: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        load(file)
    assert "\n" not in str(caught.value)


def test_a_bad_variable_and_a_bad_flag_are_named(file: Path) -> None:
    with pytest.raises(ConfigError, match="WANSPEC_EXAMPLE_PORT: Expected `int`"):
        load(file, {"WANSPEC_EXAMPLE_PORT": "eighty"})
    with pytest.raises(ConfigError, match="--dtype: Invalid enum value 'int8'"):
        load(file, dtype="int8")
    with pytest.raises(ConfigError, match="^WANSPEC_EXAMPLE_ADVERTISE must be true or false, not 'yes'$"):
        load(file, {"WANSPEC_EXAMPLE_ADVERTISE": "yes"})


def test_a_value_that_will_not_do_is_said_with_where_it_came_from(file: Path) -> None:
    file.write_text("[example]\nport = 1\n")
    with pytest.raises(ConfigError, match=r"^\[example\]: port must be 0 or more \(variable WANSPEC_EXAMPLE_PORT\)$"):
        load(file, {"WANSPEC_EXAMPLE_PORT": "-1"})
    with pytest.raises(ConfigError, match=r"^\[example\]: port must be 0 or more \(command line\)$"):
        load(file, port=-1)
    with pytest.raises(ConfigError, match=r"^\[example\]: port must be 0 or more$"):
        load_settings(Example, "example", file=file.parent / "none", environ={}, flags={}, defaults=DEFAULTS)


@pytest.mark.parametrize(
    ("variable", "says"),
    [
        ("WANSPEC_EXAMPLE_PROT", r": did you mean WANSPEC_EXAMPLE_PORT\?$"),
        ("WANSPEC_EXAMPLE_ADDRESS", r": did you mean WANSPEC_EXAMPLE_ADDRESSES\?$"),
        ("WANSPEC_EXAMPLE_X", "; known are WANSPEC_EXAMPLE_ADDRESSES, "),
    ],
)
def test_a_misspelt_variable_of_the_section_is_named(file: Path, variable: str, says: str) -> None:
    with pytest.raises(ConfigError, match=f"^variable {variable} is not a setting{says}") as caught:
        load(file, {variable: "s3cret"})
    assert "s3cret" not in str(caught.value)


def test_variables_of_others_are_left_alone(file: Path) -> None:
    others = ("WANSPEC_EXAMPLE", "WANSPEC_EXAMPLES_PORT", "WANSPEC_NODE_SLOT", "WANSPEC_API_KEY", "WANSPEC_TEST_POINTS")
    assert load(file, dict.fromkeys(others, "9")) == Example(data_dir=file.parent)


def test_a_variable_that_is_empty_is_not_set(file: Path) -> None:
    file.write_text('[example]\nport = 1\naddresses = ["ws://a"]\n')
    names = ("PORT", "ADDRESSES", "ADVERTISE", "DTYPE", "NO_SUCH")
    loaded = load(file, {f"WANSPEC_EXAMPLE_{name}": "" for name in names})
    assert loaded == Example(data_dir=file.parent, port=1, addresses=("ws://a",))


def test_a_field_that_nobody_set_says_how_to_set_it(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"example\.data_dir is not set: give --data-dir or put it in"):
        load_settings(Example, "example", file=file, environ={}, flags={})


def test_a_file_that_cannot_be_read_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_section(tmp_path, "example")


@pytest.mark.parametrize("name", ["a", "abc", None])
def test_a_text_as_long_as_it_may_be(name: str | None) -> None:
    check_length(SimpleNamespace(name=name), "name", 3)


@pytest.mark.parametrize("name", ["", "abcd"])
def test_a_text_of_another_length_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=r"^name must have between 1 and 3 characters$"):
        check_length(SimpleNamespace(name=name), "name", 3)


@pytest.mark.parametrize(("slots", "high"), [(1, 4), (4, 4), (10**9, None), (None, 4)])
def test_a_number_within_its_range(slots: int | None, high: int | None) -> None:
    check_range(SimpleNamespace(slots=slots), "slots", 1, high)


@pytest.mark.parametrize(
    ("slots", "high", "says"),
    [(0, 4, "between 1 and 4, not 0"), (5, 4, "between 1 and 4, not 5"), (0, None, "1 or more, not 0")],
)
def test_a_number_outside_its_range_is_named(slots: int, high: int | None, says: str) -> None:
    with pytest.raises(ValueError, match=f"^slots must be {says}$"):
        check_range(SimpleNamespace(slots=slots), "slots", 1, high)


def test_each_value_comes_with_its_origin(file: Path) -> None:
    file.write_text("[example]\nport = 1\nadvertise = true\n")
    environ = {"WANSPEC_EXAMPLE_PORT": "2", "WANSPEC_EXAMPLE_DTYPE": "float32"}
    settings, sourced = load_sourced(
        Example, "example", file=file, environ=environ, flags={"dtype": "bfloat16"}, defaults={"data_dir": file.parent}
    )
    assert settings == Example(data_dir=file.parent, port=2, dtype=Dtype.BFLOAT16, advertise=True)
    assert sourced == {
        "data_dir": Sourced(file.parent, "default"),
        "port": Sourced(2, "variable WANSPEC_EXAMPLE_PORT"),
        "dtype": Sourced(Dtype.BFLOAT16, "command line"),
        "addresses": Sourced((), "default"),
        "advertise": Sourced(True, f"file {file}"),
    }
    assert list(sourced) == ["data_dir", "port", "dtype", "addresses", "advertise"]
