from __future__ import annotations

from pathlib import Path

import pytest

from wanspec_p2p.client.probe_plan import ProbePlan, read_keys, read_plan
from wanspec_p2p.errors import ConfigError

ENDPOINT = """
[[endpoint]]
name = "a"
region = "west"
base_url = "https://west.example/v1"
model = "big"
"""


def plan(tmp_path: Path, text: str) -> ProbePlan:
    file = tmp_path / "plan.toml"
    file.write_text(text, encoding="utf-8")
    return read_plan(file)


def test_a_plan_needs_little(tmp_path: Path) -> None:
    found = plan(tmp_path, ENDPOINT)
    (endpoint,) = found.endpoint
    assert (endpoint.name, endpoint.region, endpoint.model) == ("a", "west", "big")
    assert (endpoint.api_key_env, endpoint.synthetic, endpoint.loopback) == (None, False, False)
    assert found.max_tokens >= 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "endpoint"),
        ("endpoint = []", "endpoint"),
        ("nonsense", "not valid TOML"),
        ("\N{NULL}", "not valid TOML"),
        ("colour = 1\n" + ENDPOINT, "`colour`"),
        (ENDPOINT + 'colour = "red"', "`colour`"),
        ("max_tokens = 1\n" + ENDPOINT, "max_tokens"),
        ("timeout = -1.0\n" + ENDPOINT, "timeout"),
        (ENDPOINT.replace('model = "big"', ""), "`model`"),
        (ENDPOINT.replace('"west"', '""'), "region"),
        (ENDPOINT.replace('"west"', '"a\\u001bb"'), "cannot be printed"),
        (ENDPOINT + ENDPOINT, "two endpoints are called 'a'"),
        (ENDPOINT.replace("https://west.example/v1", "west.example"), "looks like https://host/v1"),
        (ENDPOINT.replace("https://west.example/v1", "https://west:no/v1"), "looks like https://host/v1"),
        (ENDPOINT.replace("west.example", "west..example"), "looks like https://host/v1"),
        (ENDPOINT.replace("west.example", "w" * 64 + ".example"), "looks like https://host/v1"),
        (ENDPOINT.replace("west.example", "we st.example"), "looks like https://host/v1"),
        (ENDPOINT.replace("/v1", "/v1\\n"), "looks like https://host/v1"),
        (ENDPOINT.replace("https://west.example", "http://west.example"), "plain http to another machine"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_file(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(tmp_path, text)
    assert words in str(caught.value)
    assert "plan.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_plan(tmp_path / "plan.toml")


@pytest.mark.parametrize(
    "text",
    [
        ENDPOINT + 'api_key = "sk-secret"',
        'api_key = "sk-secret"' + ENDPOINT,
        ENDPOINT + 'key = "sk-secret"',
        ENDPOINT + 'api_key_env = "sk-secret"',
        ENDPOINT.replace("https://", "https://me:sk-secret@"),
        ENDPOINT.replace("/v1", "/v1?key=sk-secret"),
    ],
)
def test_a_key_in_the_file_is_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(tmp_path, text)
    assert "sk-secret" not in str(caught.value)


def test_plain_http_is_for_this_machine(tmp_path: Path) -> None:
    for host in ("127.0.0.1:8000", "localhost", "[::1]:1"):
        found = plan(tmp_path, ENDPOINT.replace("https://west.example", f"http://{host}"))
        assert found.endpoint[0].loopback


def test_keys_come_from_the_variables_that_are_named(tmp_path: Path) -> None:
    found = plan(tmp_path, ENDPOINT + 'api_key_env = "WEST_KEY"\n' + ENDPOINT.replace('"a"', '"b"'))
    assert read_keys(found, {"WEST_KEY": " sk-1\n"}) == {"a": "sk-1"}


@pytest.mark.parametrize("value", [None, "", "two words", "line\nend", "schl\u00fcssel"])
def test_a_key_that_cannot_be_one_is_said_so_and_not_repeated(tmp_path: Path, value: str | None) -> None:
    found = plan(tmp_path, ENDPOINT + 'api_key_env = "WEST_KEY"')
    with pytest.raises(ConfigError, match="WEST_KEY") as caught:
        read_keys(found, {} if value is None else {"WEST_KEY": value})
    assert not value or value not in str(caught.value)


def test_a_key_that_is_spelt_as_a_variable_is_not_repeated(tmp_path: Path) -> None:
    found = plan(tmp_path, ENDPOINT + 'api_key_env = "gsk_Secret"')
    with pytest.raises(ConfigError, match="the variable that api_key_env names is not set: endpoint 'a'") as caught:
        read_keys(found, {})
    assert "gsk_Secret" not in str(caught.value)
