from __future__ import annotations

from wanspec_p2p.cli.origins import Origins
from wanspec_p2p.client.answers import Piece
from wanspec_p2p.types import PeerId

A, B = PeerId("a" * 32), PeerId("b" * 32)


def piece(text: str, *origins: PeerId | None) -> Piece:
    return Piece(text, tuple(range(len(origins))), origins, 0)


def test_each_origin_has_a_colour_of_its_own() -> None:
    origins = Origins()
    styles = {str(origins.coloured(piece("x", origin)).style) for origin in (None, A, B)}
    assert len(styles) == 3
    assert origins.coloured(piece("y", A)).style == origins.coloured(piece("z", A)).style


def test_text_without_a_token_is_the_targets() -> None:
    origins = Origins()
    text = origins.coloured(piece("…"))
    assert (text.plain, text.style) == ("…", origins.coloured(piece("x", None)).style)


def test_a_piece_of_several_takes_the_first_nodes_colour() -> None:
    origins = Origins()
    assert origins.coloured(piece("x", None, A, B)).style == origins.coloured(piece("x", A)).style


def test_text_is_never_read_as_markup() -> None:
    assert Origins().coloured(piece("[red]x[/red]", None)).plain == "[red]x[/red]"


def test_the_legend_counts_tokens_by_name_the_target_first() -> None:
    origins = Origins({B: "grace"})
    origins.coloured(piece("x", B, None, B))
    origins.coloured(piece("y", A))
    assert origins.legend().plain == "target alone 1 · aaaaaaaa 1 · grace 2"
