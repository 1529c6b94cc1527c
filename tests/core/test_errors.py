"""What error texts leave out, and what errors know of themselves."""

import pickle

import pytest

from s2pipe.core.errors import CatalogError, InputError, ReadError, S2PipeError, StoreError, redact


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("https://host/B02.tif?sv=1&sig=a%2Bb", "https://host/B02.tif"),
        ("https://me:pa@ss@host:8080/v1", "https://host:8080/v1"),
        ("https://host/v1?contact=me@host", "https://host/v1"),
        ("'/vsicurl/https://me:pass@host/B02.tif?sig=a,b#c' not found: 404", "'/vsicurl/https://host/B02.tif' not found: 404"),
        ('("https://a/x?s=1", "s3://key:secret@b/y?s=2") failed', '("https://a/x", "s3://b/y") failed'),
        ("/vsicurl?url=https%3A%2F%2Fhost", "/vsicurl"),
        ("s3://bucket/a@b/c.tif", "s3://bucket/a@b/c.tif"),
        ("/home/me@host/B02.tif: what?", "/home/me@host/B02.tif: what?"),
    ],
)
def test_urls_lose_queries_users_and_passwords(text: str, redacted: str) -> None:
    assert redact(text) == redacted


@pytest.mark.parametrize("kind", [S2PipeError, InputError, CatalogError, ReadError, StoreError])
@pytest.mark.parametrize(("argument", "arguments"), [("chunks", ("chunks",)), (("overwrite", "refit"),) * 2, ((), ())])
def test_an_error_names_its_arguments_also_when_it_comes_from_another_process(
    kind: type[S2PipeError], argument: str | tuple[str, ...], arguments: tuple[str, ...]
) -> None:
    error = pickle.loads(pickle.dumps(kind("chunks=7 is no multiple of 6", argument=argument)))
    assert (type(error), str(error), error.arguments) == (kind, "chunks=7 is no multiple of 6", arguments)
