"""Who may ask: hosts, origins, tokens; and what every answer says to browsers."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from structsam_runtime import UserError
from structsam_runtime.demo.app import Demo
from structsam_runtime.demo.server import check_access, listen, url
from structsam_runtime.errors import printable

from .conftest import Site, served

pytestmark = pytest.mark.xdist_group("demo")  # one server for all
TOKEN = "a+token/of=many%letters#"


@pytest.fixture(scope="module")
def locked(site: Site) -> Iterator[Site]:
    """A server with a token."""
    with served(Demo(list(site.demo.exports.values()), None, 10**6), TOKEN) as locked:
        yield locked


def asked(site: Site, path: str, **headers: str) -> tuple[int, str]:
    status, _, content = site.ask("GET", path, **headers)
    return status, "" if status == 200 else json.loads(content)["error"]


def test_this_machine_is_asked_by_its_names_only(site: Site) -> None:
    for host in (f"127.0.0.1:{site.port}", f"localhost:{site.port}", f"LOCALHOST:{site.port}"):
        assert asked(site, "/exports", Host=host)[0] == 200
    for host in ("evil.example", f"evil.example:{site.port}", "127.0.0.1", "localhost:1", ""):
        for path in ("/exports", "/", "/static/main.js"):
            status, told = asked(site, path, Host=host)
            assert (status, told) == (
                403,
                f"the host '{host}' is not this server's; ask for http://127.0.0.1:{site.port}",
            )


def test_pages_of_other_sites_may_not_ask(site: Site) -> None:
    own = f"http://127.0.0.1:{site.port}"
    assert asked(site, "/exports", Origin=own)[0] == 200
    others = ("http://evil.example", "null", f"{own}.evil.example", own.replace("://", "://evil."))
    for origin in (*others, f"http://localhost:{site.port}"):
        status, told = asked(site, "/exports", Origin=origin)
        assert (status, told) == (403, f"a page of '{origin}' may not ask; open the page of this server")


def test_a_proxy_may_have_another_name_where_the_token_is_right(locked: Site) -> None:
    """TLS ends at the proxy, which gives its own name as Host, or this server's, with the page's Origin."""
    proxied = {"Origin": "https://sam.example"}
    for host in (f"127.0.0.1:{locked.port}", "sam.example"):
        assert asked(locked, "/exports", Host=host, Authorization=f"Bearer {TOKEN}", **proxied)[0] == 200
        assert asked(locked, "/", Host=host, **proxied)[0] == 200
        for header in ({}, {"Authorization": "Bearer wrong"}):
            assert asked(locked, "/exports", Host=host, **proxied, **header)[0] == 401


def test_everything_but_the_page_needs_the_token(locked: Site) -> None:
    for path in ("/", "/static/main.js"):
        assert asked(locked, path)[0] == 200
    for path in ("/exports", "/photo", "/pictures/0", "/plans/0", "/nothing", "/static"):
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
            status, told = asked(locked, path, **header)
            assert (status, told[:35]) == (401, "the token is missing or wrong; open")
    assert asked(locked, "/exports", Authorization=f"Bearer {TOKEN}")[0] == 200
    assert asked(locked, "/photo", Authorization=f"Bearer {TOKEN}")[0] == 404


def test_every_answer_tells_browsers_to_load_nothing_from_elsewhere(site: Site) -> None:
    for path, host in (("/", "localhost"), ("/exports", "localhost"), ("/no", "localhost"), ("/", "evil")):
        _, headers, _ = site.ask("GET", path, Host=f"{host}:{site.port}")
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert headers["x-content-type-options"] == "nosniff"


def test_a_defect_is_one_line_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site.demo.exports["merging"], "about", lambda: 1 / 0)
    status, headers, content = site.ask("GET", "/exports")
    assert (status, json.loads(content)) == (500, {"error": "a defect of the server; its terminal says more"})
    assert "content-security-policy" in headers


@pytest.mark.parametrize(
    ("host", "token", "told"),
    [
        ("0.0.0.0", None, "--host 0.0.0.0 lets other machines in; give --token too"),
        ("example.org", None, "--host example.org lets other machines in"),
        ("192.168.0.9", None, "--host 192.168.0.9 lets other machines in"),
        ("0.0.0.0", "short", "--token is short, or has spaces or letters beyond ASCII"),
        ("127.0.0.1", "ä" * 20, "--token is short, or has spaces or letters beyond ASCII"),
        ("127.0.0.1", "a token with spaces", "--token is short, or has spaces or letters beyond ASCII"),
        ("127.0.0.1", "0123456789abcdef\n", "--token is short, or has spaces or letters beyond ASCII"),
        ("127.0.0.1", "0123456789\x7fabcdef", "--token is short, or has spaces or letters beyond ASCII"),
    ],
)
def test_other_machines_need_a_token(host: str, token: str | None, told: str) -> None:
    with pytest.raises(UserError, match=told):
        check_access(host, token)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "localhost", "::1"])
def test_this_machine_needs_none(host: str) -> None:
    check_access(host, None)
    check_access("0.0.0.0", TOKEN)


def test_a_port_that_is_taken_is_one_line() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        assert url(first, None) == f"http://127.0.0.1:{port}/"
        with pytest.raises(UserError, match=f"cannot listen at 127.0.0.1, port {port}: .*; choose another"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a..b", "a" * 64, "192.0.2.1", "\udcff"])
def test_an_address_that_is_not_here_is_one_line(host: str) -> None:
    told = re.escape(f"cannot listen at {printable(host)}, port 0: ") + ".*; choose another --host or --port$"
    with pytest.raises(UserError, match=told):
        listen(host, 0)


VISIBLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=16)


@given(token=VISIBLE)
def test_the_page_reads_the_token_that_was_given(token: str) -> None:
    check_access("0.0.0.0", token)
    with listen("127.0.0.1", 0) as listening:
        fragment = urlsplit(url(listening, token)).fragment
    assert parse_qs(fragment, strict_parsing=True) == {"token": [token]}  # as the page's URLSearchParams


def test_the_token_is_not_in_any_file_of_the_page(locked: Site, tmp_path: Path) -> None:
    for path in ("/", "/static/main.js", "/static/server.js"):
        assert TOKEN.encode() not in locked.ask("GET", path)[2]
