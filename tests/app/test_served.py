"""The page as a server: how much memory it keeps, who may ask it, and what it leaves behind."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.browser import served
from support.visitor import Visitor, resident, status_for
from typer.testing import CliRunner

from clew.app import serve as serving
from clew.app.access import OnlyHosts, audience, is_loopback, login_of
from clew.app.folders import Folders, own_folder
from clew.app.page_requests import OfferedModels, open_upload
from clew.cli import main as cli
from clew.cli import ui as cli_ui
from clew.errors import OptionError


def png(width: int, height: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(data, "PNG", compress_level=1)
    return data.getvalue()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(tmp_path_factory.mktemp("served")) as found:
        yield found


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_previews_of_huge_pictures_take_turns_and_keep_no_memory(server):
    address, process = server
    visitor = Visitor(address)
    assert "data:image" in visitor.preview("small.png", png(64, 64))
    before, most = resident(process.pid), resident(process.pid, "VmHWM")
    huge = png(8_000, 5_000)
    with ThreadPoolExecutor(8) as people:
        for answer in people.map(lambda name: visitor.preview(f"{name}.png", huge), range(8)):
            assert "data:image" in answer
    assert resident(process.pid, "VmHWM") < max(most, before + 500)  # one of them has 160 MB in Pillow
    assert resident(process.pid) < 1.2 * before


def test_nothing_heavy_passes_beside_the_queue(server):
    visitor = Visitor(server[0])
    picture = visitor.upload("small.png", png(64, 64))
    given = ["mini:digits", picture, "", "", "", ["raw_attention"], [], "say so", None, None]
    for event, data in ((visitor.event("explain-preview", 1), [picture]), (visitor.event("maps", 10), given)):
        with pytest.raises(urllib.error.HTTPError):
            visitor.beside_the_queue(event, data)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "I;16", "turned", "clear"])
def test_a_picture_that_is_shrunk_as_it_is_read_looks_the_same(mode, tmp_path):
    one = Image.linear_gradient("L").resize((900, 1200))
    image = Image.merge("RGB", (one, one.transpose(Image.Transpose.ROTATE_180), one.point(lambda v: v // 2)))
    path, more = tmp_path / ("a.jpg" if mode in ("CMYK", "turned") else "a.png"), {}
    if mode == "turned":
        more = {"exif": Image.Exif()}
        more["exif"][0x0112] = 6  # lies on its side
    elif mode == "I;16":
        image = Image.fromarray(np.asarray(one).astype(np.uint16) * 257)
    elif mode == "clear":  # stripes of which one is, by its colour
        image = Image.fromarray(np.tile(np.uint8([[0], [0], [120], [120]]), (300, 900)))
        more = {"transparency": 120}
    elif mode != "RGB":
        image = image.convert(mode)
    image.save(path, **more)
    whole, small = open_upload(path), open_upload(path, longest=320)
    assert whole.size == ((1200, 900) if mode == "turned" else (900, 1200))
    assert small.size == (whole.width * 320 // 1200, whole.height * 320 // 1200) and small.mode == "RGB"
    literal = whole.resize(small.size, Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(small, float) - np.asarray(literal, float)).mean() < 1.5


PATHS = {
    "/": "GET", "/config": "GET", "/gradio_api/queue/data?session_hash=a": "GET", "/gradio_api/heartbeat/a": "GET",
    "/gradio_api/queue/join": "POST", "/gradio_api/upload": "POST", "/gradio_api/run/predict": "POST",
}  # fmt: skip


def test_a_request_for_another_host_is_refused(server):
    address, port = server[0], server[0].rpartition(":")[2]
    for host in ("localhost", "127.0.0.1", "[::1]", "LocalHost"):
        assert status_for(address, f"{host}:{port}") == 200
    foreign = (f"evil.example:{port}", "evil.example", "localhost", "127.0.0.1:1", f"localhost.evil.example:{port}",
               f"127.0.0.1:{port}@evil.example", f"192.168.1.1:{port}", "", "null")  # fmt: skip
    for host in foreign:
        assert status_for(address, host) == 403, host
    assert status_for(address, None) in (400, 403)
    for path, method in PATHS.items():
        assert status_for(address, foreign[0], path, method, Content_Length="0") == 403, path
    socket = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13", "Sec_WebSocket_Key": "a"}
    assert status_for(address, foreign[0], "/", **socket) == 403
    preflight = {"Origin": f"http://{foreign[0]}", "Access_Control_Request_Method": "POST"}
    assert status_for(address, foreign[0], "/config", "OPTIONS", **preflight) == 403


@pytest.mark.parametrize(
    ("kind", "hosts", "port", "known"),
    [
        ("http", ["localhost:7860"], 7860, True),
        ("http", ["abc.gradio.live"], 7860, True),  # by --share
        ("http", ["localhost"], 80, True),
        ("http", ["localhost"], 7860, False),
        ("http", ["localhost:7860", "evil.example"], 7860, False),
        ("http", [], 7860, False),
        ("websocket", ["localhost:7860"], 7860, True),
        ("websocket", ["evil.example:7860"], 7860, False),
        ("lifespan", [], 7860, True),
    ],
)
def test_who_is_let_in(kind, hosts, port, known):
    came, sent = [], []

    async def app(scope, receive, send):
        came.append(scope)

    async def send(message):
        sent.append(message)

    public: set[str] = set()
    keeper = OnlyHosts(app, ["localhost"], public)
    public.add("abc.gradio.live")  # known only when the tunnel is there
    scope = {"type": kind, "server": ("127.0.0.1", port), "headers": [(b"host", h.encode()) for h in hosts]}
    asyncio.run(keeper(scope, None, send))
    assert bool(came) == known == (not sent)
    if kind == "websocket" and not known:
        assert sent == [{"type": "websocket.close", "code": 1008}]


def test_what_is_loopback():
    for host in ("127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"):
        assert is_loopback(host), host
    for host in ("0.0.0.0", "::", "[::]", "192.168.1.1"):
        assert not is_loopback(host), host
    for host in ("", "no such name"):
        with pytest.raises(OptionError, match="cannot be served there"):
            is_loopback(host)


@pytest.mark.parametrize("given", [{"host": "0.0.0.0"}, {"host": "::"}, {"share": True}])
def test_others_are_let_in_only_with_a_password_or_when_said(given, monkeypatch):
    monkeypatch.setattr(serving, "_launched", lambda *_: pytest.fail("it was started"))
    with pytest.raises(OptionError, match="others could use this page") as refused:
        serving.serve(OfferedModels(), **given)
    assert "CLEW_UI_AUTH" in str(refused.value) and "--no-auth" in str(refused.value)
    for more in ({"login": ("me", "secret")}, {"no_auth": True}):
        with pytest.raises(pytest.fail.Exception, match="it was started"):
            serving.serve(OfferedModels(), **given, **more)
    with pytest.raises(OptionError, match="a password and none"):
        serving.serve(OfferedModels(), **given, login=("me", "secret"), no_auth=True)


def test_it_is_said_who_can_reach_the_page():
    assert audience("127.0.0.1", 7860, None, None) == "Only this machine can reach it."
    said = audience("0.0.0.0", 7861, None, ("me", "secret"))
    assert "Everyone who can reach this machine on port 7861" in said and "the password of me" in said
    assert "not encrypted" in said and "secret" not in said
    said = audience("0.0.0.0", 7860, "https://abc.gradio.live", None)
    assert "on the internet" in said and "on port 7860" in said and "without a password" in said


def test_a_password_comes_from_the_command_line_or_from_the_environment(monkeypatch):
    found = []

    def stopped(*_, login, **__):
        found.append(login)
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_ui, "serve", stopped)
    run = CliRunner().invoke
    run(cli.app, ["ui", "--auth", "me:a:b"])
    run(cli.app, ["ui"], env={"CLEW_UI_AUTH": "you:secret"})
    run(cli.app, ["ui"])
    assert found == [("me", "a:b"), ("you", "secret"), None]
    for wrong in ("secret", ":secret", "secret:", " :secret"):
        with pytest.raises(OptionError, match="user:password") as refused:
            login_of(wrong)
        assert "secret" not in str(refused.value)


def test_a_page_for_others_opens_with_the_password_alone(tmp_path):
    with served(tmp_path, "--host", "0.0.0.0", CLEW_UI_AUTH="me:secret") as (address, _):
        for path in ("/config", "/gradio_api/file=/etc/passwd", "/gradio_api/queue/data?session_hash=a"):
            assert status_for(address, "a.name.of.this.machine", path) == 401, path
        for path in ("/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/run/predict"):
            assert status_for(address, "a.name.of.this.machine", path, "POST", Content_Length="0") == 401, path
        form = {"username": "me", "password": "wrong"}
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(f"{address}/login", urllib.parse.urlencode(form).encode(), timeout=30)
        form["password"] = "secret"
        with urllib.request.urlopen(f"{address}/login", urllib.parse.urlencode(form).encode(), timeout=30) as answer:
            cookie = next(c for c in answer.headers.get_all("set-cookie") if "unsecure" in c).partition(";")[0]
        assert status_for(address, "a.name.of.this.machine", "/config", Cookie=cookie) == 200
    log = (tmp_path / "log").read_text()
    assert "Everyone who can reach this machine" in log and "secret" not in log


def test_all_temporary_files_lie_in_one_folder_that_goes(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "named"))
    with own_folder() as folder:
        assert folder.parent == tmp_path / "named" and Path(tempfile.mkdtemp()).parent == folder
        assert Path(os.environ["GRADIO_TEMP_DIR"]).parent == folder
        folders = Folders(folder)
        kept, made = folders.new(keep=True), [folders.new() for _ in range(10)]
        assert kept.exists() and [one.exists() for one in made] == [False] * 2 + [True] * 8
    assert not list((tmp_path / "named").iterdir())
    assert os.environ["GRADIO_TEMP_DIR"] == str(tmp_path / "named") and tempfile.gettempdir() != str(folder)


@pytest.mark.sampled(0.34)
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_nothing_is_left_after_a_signal(name, tmp_path):
    with served(tmp_path) as (address, process), ThreadPoolExecutor(1) as person:
        visitor = Visitor(address)
        assert "clew-card" in visitor.explain("small.png", png(64, 64))
        assert list((tmp_path / "tmp").rglob("small.png")) and list((tmp_path / "tmp").rglob("clew.html"))
        person.submit(visitor.explain, "huge.png", png(8_000, 5_000))
        while not list((tmp_path / "tmp").rglob("huge.png")):  # the upload is there: it is being explained
            assert process.poll() is None
        process.send_signal(getattr(signal, name))
        assert process.wait(30) == 0
    assert not list((tmp_path / "tmp").iterdir())
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_while_python_tidies_up_is_not_lost():
    """What is raised in `__del__` Python drops."""

    class Tidied:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    with serving._until_stopped() as stopped:
        Tidied()
        assert stopped == [signal.SIGTERM]
        stopped.append(0)  # reached
    assert stopped == [signal.SIGTERM, 0]
