from pathlib import Path

import pytest

from node.settings import NodeSettings
from wanspec_p2p.config import load_settings
from wanspec_p2p.errors import ConfigError
from wanspec_p2p.types import Dtype


def settings(**changes: object) -> NodeSettings:
    return NodeSettings(data_dir=Path("/data"), cache_dir=Path("/cache"), **changes)  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("slots", 0),
        ("slots", 1025),
        ("threads", 0),
        ("max_prefix", 0),
        ("name", ""),
        ("owner", "x" * 129),
        ("site", ""),
        ("model", ""),
    ],
)
def test_a_value_outside_its_range_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        settings(**{field: value})


def test_they_are_built_from_a_file_variables_and_flags(tmp_path: Path) -> None:
    file = tmp_path / "wanspec.toml"
    file.write_text('[node]\nslots = 2\nsite = "lab"\ndtype = "float32"\n')
    built = load_settings(
        NodeSettings,
        "node",
        file=file,
        environ={"WANSPEC_NODE_SLOTS": "3"},
        flags={"owner": "ada"},
        defaults={"data_dir": tmp_path, "cache_dir": tmp_path},
    )
    assert (built.slots, built.site, built.dtype, built.owner) == (3, "lab", Dtype.FLOAT32, "ada")


def test_a_bad_value_in_a_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="slots must be between 1 and 1024"):
        load_settings(
            NodeSettings,
            "node",
            file=tmp_path / "none.toml",
            environ={},
            flags={"slots": 0},
            defaults={"data_dir": tmp_path, "cache_dir": tmp_path},
        )
